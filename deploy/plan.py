"""The plan of a rollout, ops/rollout.yaml, and the time scale of a demo.

Only a store that holds a file DEMO, {"time_scale": 60}, makes time run faster: no setting does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError

from engine.errors import RetainError
from engine.paths import why_unreadable
from engine.store import Store
from retain.frozen import Frozen
from retain.rollout import Plan

PLAN = Path(__file__).resolve().parent.parent / "ops" / "rollout.yaml"
DEMO = "DEMO"
MAX_SCALE = 3600.0

Model = TypeVar("Model", bound=BaseModel)


class _Written(Frozen):
    percents: tuple[float, ...]
    watch_hours: Annotated[float, Field(ge=1)]


class _Demo(Frozen):
    time_scale: Annotated[float, Field(ge=1, le=MAX_SCALE)]


def time_scale(store: Store) -> float:
    """How many times as fast as a clock's the time of this store runs; 1 unless it is a demo's. Raises RetainError."""
    stored = store.read(DEMO)
    if stored is None:
        return 1.0
    return _model(_Demo, stored[0].decode("utf-8", "replace"), f"{store.url}/{DEMO}").time_scale


def read_plan(scale: float = 1.0, path: Path = PLAN) -> Plan:
    """The steps of a canary, and for how long each is watched. Raises RetainError."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        written = _model(_Written, json.dumps(content), str(path))
        return Plan(percents=written.percents, watch_s=written.watch_hours * 3600 / scale)
    except OSError as error:
        raise RetainError(f"{path}: {why_unreadable(error)}") from None
    except ValidationError as error:
        raise RetainError(f"{path}: {_first(error)}") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise RetainError(f"{path}: can't be read as YAML ({str(error).splitlines()[0]})") from None


def _model(model: type[Model], text: str, where: str) -> Model:
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise RetainError(f"{where}: {_first(error)}") from None


def _first(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"]
