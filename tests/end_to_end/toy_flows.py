"""Flows of the names that the automations know, which do nothing; in containers of the platform."""

from __future__ import annotations

import time

from prefect import flow


@flow(name="stage", retries=0)
def stage(seconds: float) -> None:
    time.sleep(seconds)


@flow(name="train", retries=0)
def train(seconds: float) -> None:
    time.sleep(seconds)
