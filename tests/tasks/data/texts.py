"""Small files of text, of the public shapes, and what the stages make of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from engine.stage import Metrics
from tasks.config import DialoguesConfig, PreferencesConfig

NAME = "file.jsonl"


def text_config(kind: type[Any], *datasets: str, **changes: Any) -> Any:
    """A config of one file for each of `datasets`: file.jsonl, file-1.jsonl, ..."""
    files = [
        {"dataset": dataset, "names": [_name(k)], "url": None, "sha256": None, "licence": "none"}
        for k, dataset in enumerate(datasets)
    ]
    split = {"train": 0.6, "validation": 0.2, "test": 0.2}
    content = {"files": files, "max_rows": 1000, "max_broken": 0.1, "max_characters": 300, "split": split}
    if kind is PreferencesConfig:
        content |= {"min_vote_ratio": 2.0, "max_pairs_a_post": 5}
    content |= changes
    return kind.model_validate_json(json.dumps(content))


def _name(k: int) -> str:
    return f"file-{k}.jsonl" if k else NAME


def write(folder: Path, *files: Sequence[Any] | bytes) -> dict[str, Path]:
    """Inputs with a source folder that holds the files: records, or bytes as they are."""
    folder.mkdir(parents=True)
    for k, content in enumerate(files):
        if not isinstance(content, bytes):
            content = "".join(json.dumps(record) + "\n" for record in content).encode()
        (folder / _name(k)).write_bytes(content)
    return {"source": folder}


class Made:
    """What a stage made: its metrics and files."""

    def __init__(self, folder: Path, metrics: Metrics) -> None:
        self.folder = folder
        self.metrics = {name: metric["value"] for name, metric in metrics.items()}
        self.rows: list[dict[str, Any]] = pq.read_table(folder / "pairs.parquet").to_pylist()
        self.catalog: dict[str, Any] = json.loads((folder / "catalog.json").read_bytes())

    @property
    def dropped(self) -> dict[str, int]:
        found: dict[str, int] = self.catalog["files"][0]["dropped"]
        return found


def make(
    stage: Callable[..., Metrics],
    config: DialoguesConfig | PreferencesConfig,
    inputs: dict[str, Path],
    workspace: Any,
) -> Made:
    return Made(workspace.out.folder, stage(config, inputs, workspace))


def pairs(n: int, start: int = 0) -> list[dict[str, str]]:
    return [{"prompt": f"question {k}?", "response": f"answer {k}."} for k in range(start, start + n)]
