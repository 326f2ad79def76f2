"""What a run costs, as artifacts of Prefect: the table of `make costs`, a chart, and the share of the budget.

Each has a key, under which Prefect keeps its history, and belongs to the flow run as well. Only calls are made that
Prefect's own server and Prefect Cloud both have. What can't be shown fails nothing.
"""

from __future__ import annotations

import re
import threading
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass
from html import escape

from prefect.artifacts import create_markdown_artifact, create_progress_artifact, create_table_artifact

from engine import ledger
from engine.prices import load_prices
from eval.costs import Line, budget_line, cells, lines, notes, spending, total
from flows.plan import Plan
from flows.run import Run

EVERY_S = 30.0
LAST_S = 10.0  # how long the end of a run waits for a Prefect that doesn't answer

BAR, GAP, NAMES, CHART, FIGURES = 14, 12, 190, 360, 150  # of the chart, in pixels
COLOURS = {"metered": "#2a78d6", "reserved": "#9ec5f0", "estimate": "#d9dde3"}


@dataclass(frozen=True)
class Costs:
    """What is shown: rows of the table, by the heads of their columns; a text in Markdown; percent of the cap."""

    rows: list[dict[str, str]]
    text: str
    percent: float


def costs(plan: Plan) -> Costs:
    """The scope of the plan's experiment, as it stands. Raises RetainError for what can't be read."""
    stated, prices = plan.experiment.costs, load_prices()
    standing, attempts = ledger.look(plan.store, stated.scope, stated.budget_usd)
    table = lines(stated.components, spending(plan.store, attempts, prices, stated.region))
    whole = total(table)
    rows = [cells(line) for line in (*table, whole)]
    remarks = [budget_line(standing, whole), *notes(prices, stated.region)]
    text = "\n\n".join([f"# Costs of {plan.experiment.tag}", chart(table), markdown_table(rows), *map(_plain, remarks)])
    return Costs(rows, text, min(100.0, 100 * standing.share))


def markdown_table(rows: Sequence[dict[str, str]]) -> str:
    """Each row by the heads of the first one."""
    heads = list(rows[0])
    body = ["| " + " | ".join(map(_plain, row.values())) + " |" for row in rows]
    return "\n".join(["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads), *body])


def chart(table: Sequence[Line]) -> str:
    """A bar for each component, as an image in Markdown: metered and reserved, over the estimate.

    The image is part of the text, since Prefect's pages load none from elsewhere; both of them show such an address.
    """
    most = max((max(line.estimate, line.metered + line.reserved) for line in table), default=0.0) or 1.0
    width, height = NAMES + CHART + FIGURES, GAP + (BAR + GAP) * (len(table) + 1)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">']

    def bar(left: float, top: float, length: float, colour: str) -> None:
        parts.append(f'<rect x="{left:.1f}" y="{top:.1f}" width="{length:.1f}" height="{BAR}" fill="{colour}"/>')

    def text(left: float, top: float, words: str, anchor: str = "start") -> None:
        place = f'x="{left:.1f}" y="{top + BAR - 3:.1f}" text-anchor="{anchor}"'
        parts.append(f'<text {place} font-size="12" fill="#6b7280">{escape(words)}</text>')

    for index, line in enumerate(table):
        top = GAP + (BAR + GAP) * index
        text(NAMES - 8, top, line.name, anchor="end")
        metered, reserved, estimate = (CHART * usd / most for usd in (line.metered, line.reserved, line.estimate))
        bar(NAMES, top, estimate, COLOURS["estimate"])
        bar(NAMES, top, metered, COLOURS["metered"])
        bar(NAMES + metered, top, reserved, COLOURS["reserved"])
        text(NAMES + CHART + 8, top, f"${line.metered:.4f} of ${line.estimate:.2f}")
    for index, (name, colour) in enumerate(COLOURS.items()):
        top, left = GAP + (BAR + GAP) * len(table), NAMES + 110 * index
        bar(left, top, BAR, colour)
        text(left + BAR + 6, top, name)
    image = b64encode("".join([*parts, "</svg>"]).encode()).decode()
    return f"![metered and reserved dollars of each component, over its estimate](data:image/svg+xml;base64,{image})"


def _plain(words: str) -> str:
    """Words as they stand: what an experiment calls a component may mean something in Markdown or HTML."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", " ".join(words.split()))


def key_of(scope: str) -> str:
    """Prefect's keys know small letters, digits and dashes alone."""
    return "costs-" + re.sub(r"[^a-z0-9]+", "-", scope)


def publish(shown: Costs, scope: str) -> None:
    """Makes the artifacts: within the context of a flow run, or Prefect asks for one."""
    key = key_of(scope)
    create_table_artifact(table=shown.rows, key=key, description=f"Dollars metered in scope {scope}, by component")
    create_markdown_artifact(markdown=shown.text, key=f"{key}-chart", description=f"Costs of scope {scope}")
    create_progress_artifact(shown.percent, key=f"{key}-budget", description=f"Budget of {scope}, spent or reserved")


@contextmanager
def published(run: Run, every_s: float = EVERY_S) -> Iterator[None]:
    """Publishes the costs while the block runs, where they have changed, and at its end. Call it within a flow run."""
    ended = threading.Event()
    context = copy_context()  # the flow run that the artifacts belong to

    def publish_again_and_again() -> None:
        before = None
        while True:
            last = ended.wait(every_s)
            with suppress(Exception):  # Prefect only shows a run
                if (now := costs(run.plan)) != before:
                    context.run(publish, now, run.plan.experiment.costs.scope)
                    before = now
            if last:
                return

    publisher = threading.Thread(target=publish_again_and_again, name="costs", daemon=True)
    publisher.start()
    try:
        yield
    finally:
        ended.set()
        publisher.join(LAST_S)
