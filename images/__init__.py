"""The container images: what is in each, how they are built, and by which names they are run.

An image's tag is a digest of its content, so the same tree has the same tags on every machine, and nothing is built
twice. What a library comes from is fixed by a lock file with the hash of every wheel.
"""
