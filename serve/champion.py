"""Which release answers where RELEASE_PATH names none."""

from __future__ import annotations

import logging
from pathlib import Path

from engine.document import Document
from engine.errors import RetainError
from engine.releases import current_release, experiment_of, find
from engine.store import open_store, store_url
from retain.rollout import Rollout, rollout_key

log = logging.getLogger("retain.serve")


def answering_release(named: str) -> Path:
    """The folder of the champion of the rollout in the experiment that EXPERIMENT names: a release that is made later
    throws no customer back. Without a rollout, the current release. Raises RetainError where there is none, or where
    the rollout or its champion can't be read."""
    rollout = Document(open_store(store_url()), rollout_key(experiment_of(named)), Rollout).read()
    return current_release(named) if rollout is None else find(rollout.champion.release, named)


def release_to_begin_with(named: str) -> Path:
    """As answering_release(); where that can't be told, the current release, since somebody has to answer: no
    challenger is served then, and the service says why."""
    try:
        return answering_release(named)
    except RetainError as error:
        current = current_release(named)
        log.warning("the rollout's champion can't be told, so the current release answers: %s", error)
        return current
