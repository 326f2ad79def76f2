"""The words of exp_001_mvp, as the stages are given them."""

from __future__ import annotations

from collections.abc import Sequence

from engine.config import experiment_path, load, validate
from retain.message import Bank
from tasks.config import Experiment
from tasks.release import templates

WORDS = validate(load(experiment_path("exp_001_mvp")), Experiment).words


def template_bank(offers: Sequence[int], months: int = 6) -> Bank:
    return templates.template_bank(WORDS.templates, offers, months)
