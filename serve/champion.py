"""Which release answers where RELEASE_PATH names none."""

from __future__ import annotations

from pathlib import Path

from engine.document import Document
from engine.errors import RetainError
from engine.releases import current_release, experiment_of, find
from engine.store import open_store, store_url
from retain.rollout import Rollout, rollout_key


def answering_release(named: str) -> Path:
    """The folder of the champion of the rollout in the experiment that EXPERIMENT names: a release that is made later
    throws no customer back. Without a rollout, or where its champion can't be told any more, the current release.

    Raises RetainError where there is none.
    """
    try:
        rollout = Document(open_store(store_url()), rollout_key(experiment_of(named)), Rollout).read()
        if rollout is not None:
            return find(rollout.champion.release, named)
    except RetainError:
        pass  # the service says so once it follows the rollout, and the baseline decides
    return current_release(named)
