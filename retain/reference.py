"""What the messages of a release are like for customers that it knows: what those of the service are compared with.

A distribution is kept as counts between edges, which are the reference's own deciles. So whatever is counted between
the same edges later can be told from it, by a population stability index for example, without keeping a single value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from retain.decision import Arm
from retain.frozen import Frozen
from retain.message import Message

TENTHS = np.arange(1, 10) / 10


Count = Annotated[int, Field(ge=0)]


class Distribution(Frozen):
    """How many values lie in k + 1 bins: up to the first of k `edges`, above one up to the next, above the last.

    There are fewer than nine edges where deciles fall together, or on the largest value.
    """

    edges: tuple[float, ...]
    counts: tuple[Count, ...]

    @model_validator(mode="after")
    def _fits(self) -> Distribution:
        if len(self.counts) != len(self.edges) + 1:
            raise ValueError(f"{len(self.counts)} counts for {len(self.edges)} edges: wants one more than edges")
        if list(self.edges) != sorted(set(self.edges)):
            raise ValueError("the edges don't rise")
        return self

    @classmethod
    def of(cls, values: Sequence[float]) -> Distribution:
        """Of values (n,), by their own deciles; each edge is one of the values. Of none there is one empty bin."""
        known = np.asarray(values, dtype=np.float64)
        deciles = np.quantile(known, TENTHS, method="inverted_cdf") if len(known) else known
        edges = tuple(float(edge) for edge in np.unique(deciles) if edge < known.max())
        return cls(edges=edges, counts=_counts(edges, known))

    def count(self, values: Sequence[float]) -> tuple[int, ...]:
        """How many of other values (m,) lie in each bin."""
        return _counts(self.edges, np.asarray(values, dtype=np.float64))


def _counts(edges: Sequence[float], values: np.ndarray) -> tuple[int, ...]:
    return tuple(np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1).tolist())


class Messages(Frozen):
    """Of `n` messages of one bank, each as often as it would be sent: how long their texts are, in the tokens of the
    model that wrote them and in characters, and how the validation reward model scores them."""

    n: Count
    tokens: Distribution
    characters: Distribution
    score: Distribution

    @classmethod
    def of(cls, messages: Iterable[Message]) -> Messages:
        messages = tuple(messages)
        return cls(
            n=len(messages),
            tokens=Distribution.of([message.tokens for message in messages if message.tokens is not None]),
            characters=Distribution.of([message.characters for message in messages]),
            score=Distribution.of([message.score for message in messages if message.score is not None]),
        )


class Reference(Frozen):
    """reference.json of a release. `customers`: of how many it is told, `messages`: bank -> arm -> what the bank has
    for those whom the arm would contact."""

    customers: Count
    messages: dict[str, dict[Arm, Messages]]


def read_reference(files: Mapping[str, Path]) -> Reference | None:
    """Of a release's files; None if it has none. Raises ValueError, and OSError."""
    path = files.get("reference.json")
    return None if path is None else Reference.model_validate_json(path.read_bytes())
