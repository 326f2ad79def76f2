"""What is in each image: libraries by their names in pyproject.toml, and folders of this repository."""

from __future__ import annotations

from dataclasses import dataclass

BASE = "python:3.11-slim-bookworm"
# The byte-for-byte guarantees of artifacts were measured on it, and the lock files hold its wheels alone.
PLATFORM = "linux/amd64"
BUCKET = "google-cloud-storage"  # whatever reads or writes the store may find it in a bucket


@dataclass(frozen=True)
class Image:
    """`extras` are those of pyproject.toml; `libraries` are single distributions of any of them."""

    name: str
    what: str
    extras: tuple[str, ...]
    libraries: tuple[str, ...]
    code: tuple[str, ...]
    accelerators: tuple[str, ...] = ("cpu",)

    @property
    def repository(self) -> str:
        return f"retain/{self.name}"

    @property
    def dockerfile(self) -> str:
        return f"images/{self.name}.Dockerfile"


# What a container that runs a flow has. The lock files tell what stages of the other image compute with, which is part
# of their fingerprints.
_FLOWS = (
    "engine",
    "retain",
    "tasks",
    "flows",
    "images/__init__.py",
    "images/table.py",
    "images/locks.py",
    "images/locks",
)

_ROWS = (
    Image(
        name="tabular",
        what="stages without a language model, and the flow that carries out a run",
        extras=("flows",),
        libraries=(BUCKET, "pandas", "pyarrow", "scikit-learn", "torch", "xgboost-cpu"),
        code=(*_FLOWS, "deploy", "eval", "ops", "infra/prices.yaml"),
    ),
    Image(
        name="gpu",
        what="stages of language models",
        extras=("flows",),
        libraries=(
            BUCKET,
            "accelerate",
            "bitsandbytes",
            "datasets",
            "gguf",
            "peft",
            "pyarrow",
            "safetensors",
            "symspellpy",
            "tokenizers",
            "torch",
            "transformers",
            "trl",
        ),
        code=_FLOWS,
        accelerators=("cpu", "cuda"),
    ),
    Image(
        name="serve",
        what="the API, POST /retain, and the controller of its rollout",
        extras=("serve",),
        libraries=(BUCKET,),
        code=("engine", "retain", "serve", "deploy", "ops/rollout.yaml"),
    ),
    Image(
        name="orchestrator",
        what="Prefect's server and worker, and the witness of containers",
        extras=("flows", "docker", "cloud"),
        libraries=(),
        code=("engine", "flows"),
    ),
)

IMAGES: dict[str, Image] = {image.name: image for image in _ROWS}
VARIANTS = [(image, accelerator) for image in _ROWS for accelerator in image.accelerators]


def lock_file(image: Image, accelerator: str) -> str:
    """The path of the image's lock file inside the repository."""
    variant = f"-{accelerator}" if len(image.accelerators) > 1 else ""
    return f"images/locks/{image.name}{variant}.txt"
