"""The described tables, and the real files behind them where RETAIN_DATA_DIR has them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from flows.sources import SourceFile, resolve
from flows.wanted import Wanted
from retain.dataset import DatasetSpec

DATASETS = Path(__file__).parents[1] / "ops" / "datasets"

needs_real_data = pytest.mark.skipif("RETAIN_DATA_DIR" not in os.environ, reason="RETAIN_DATA_DIR is not set")


def described(name: str) -> DatasetSpec:
    return DatasetSpec.model_validate_json(json.dumps(yaml.safe_load((DATASETS / f"{name}.yaml").read_text())))


def real_file(wanted: Wanted, cache: Path) -> SourceFile:
    """The file in RETAIN_DATA_DIR, never a download; skips the test where the folder does not have it."""
    local = Wanted(wanted.name, wanted.names, None, wanted.sha256, max_bytes=wanted.max_bytes)
    files = resolve({"test": [local]}, Path(os.environ["RETAIN_DATA_DIR"]), cache)["test"].files
    if not files:
        pytest.skip(f"RETAIN_DATA_DIR has no {wanted.names[0]}")
    return files[0]
