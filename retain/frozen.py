"""The model of what is read from files, requests and settings, or kept as JSON: as it stands, or refused."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Never changes. Every key is known, every value of its own type, every number finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
