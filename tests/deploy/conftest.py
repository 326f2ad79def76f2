from tests.serve.conftest import artifact, release, store

__all__ = ["artifact", "release", "store"]
