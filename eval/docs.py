"""Puts the committed figures of docs/figures/ into the documentation, between markers; trains and measures nothing.

    python -m eval.docs [--check]

A marker names what is shown, and everything up to its end is replaced:

    <!-- figures: results local risk accept -->   a table of the gating criteria of these stages, or of all
    <!-- figures: metric local risk.auc -->       one value with its interval; `count` behind it for a whole number
    <!-- figures: dollars local -->               what the run was metered at; stages may be named
    <!-- figures: commit local -->                the commit whose code was measured
    ... <!-- /figures -->

Criteria are those of the experiment as it stands now. Exit code: 0 written, or nothing to write; 1 `--check` found a
document that differs from its figures; 2 bad input.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from engine.config import experiment_path, load, validate
from engine.criteria import Criterion, Verdict, check_criteria
from engine.errors import RetainError
from engine.fingerprint import ROOT
from engine.output import make_decoration
from eval.figures import ExperimentFigures, read

MARKED = re.compile(r"(<!-- figures: (?P<what>[^>]+?) -->)(?P<shown>.*?)(<!-- /figures -->)", flags=re.DOTALL)
LOW = "_low"  # ends the name of a criterion on the lower end of another metric's interval


@dataclass(frozen=True)
class Form:
    """How a value is written: multiplied by `factor`, with `digits` behind the point and `unit` after it."""

    factor: float
    digits: int
    unit: str = ""
    signed: bool = False

    def number(self, value: float, unit: bool = True) -> str:
        text = f"{self.factor * value:{'+' if self.signed else ''},.{self.digits}f}"
        return text + self.unit if unit else text

    def limit(self, value: float) -> str:
        """A limit of a criterion, with no more digits than it has."""
        return f"{self.factor * value:{'+' if self.signed and value else ''},g}{self.unit}"


FORMS = {"share": Form(1, 4), "count": Form(1, 0)}  # that a marker can ask for


@dataclass(frozen=True)
class Result:
    """A row of the table of results: what a criterion measures, in a reader's words."""

    words: str
    form: Form


SHARE, PERCENT, CHANGE = Form(1, 3), Form(100, 1, " %"), Form(100, 1, " %", signed=True)
POINTS = Form(100, 1, " points", signed=True)
RESULTS = {
    "customers.rows": Result("Customers read", FORMS["count"]),
    "campaigns.rows": Result("Campaign calls read", FORMS["count"]),
    "risk.auc": Result("Churn risk: ranking (AUC)", SHARE),
    "risk.ece": Result("Churn risk: calibration error (ECE)", SHARE),
    "accept.auc": Result("Offer acceptance: ranking (AUC)", SHARE),
    "accept.ece": Result("Offer acceptance: calibration error (ECE)", SHARE),
    "decision.nrr_gain_at_risk": Result(
        "Learned policy: revenue kept (NRR) of customers at risk, against the best baseline", CHANGE
    ),
    "decision.lift_gain": Result(
        "Learned policy: gain over contacting nobody (lift), against the best baseline's", CHANGE
    ),
    "decision.attempted_overspend": Result("Learned policy: attempts to spend more than the budget", PERCENT),
    "decision.offer_cost_change": Result("Learned policy: cost of offers, against the best baseline's", CHANGE),
    "decision.violations_executed": Result("Simulated years in which the budget was exceeded", PERCENT),
    "decision.over_cap": Result("Simulated years in which a customer was contacted too often", PERCENT),
    "sft.training_loss": Result("SFT: training loss", SHARE),
    "sft.perplexity_change": Result("SFT: held-out perplexity, against the untouched model", CHANGE),
    "rm.auc": Result("Reward model: ranking (AUC)", SHARE),
    "rm.accuracy": Result("Reward model: held-out pairs judged correctly", PERCENT),
    "text_eval.win_rate_gain": Result("RLHF: preferred to SFT by judges it never met, beyond 50 %", POINTS),
    "text_eval.unsafe": Result("RLHF: unsafe messages, before any rule stops them", PERCENT),
    "text_eval.tokens": Result("RLHF: tokens per message", FORMS["count"]),
    "messages.coverage": Result("Message bank: situations and offers with a message", PERCENT),
}


class _Experiment(BaseModel):
    """The part of an experiment that is read here."""

    model_config = ConfigDict(strict=True)

    criteria: dict[str, dict[str, Criterion]]


def render(text: str, folder: Path | None = None) -> str:
    """The document with every marked part written anew. `folder`: where the figures lie. Raises RetainError."""

    def shown(match: re.Match[str]) -> str:
        what = match["what"]
        content = _content(what.split(), folder)
        return f"<!-- figures: {what} -->{content}<!-- /figures -->"

    return MARKED.sub(shown, text)


def _content(words: Sequence[str], folder: Path | None) -> str:
    if len(words) < 2 or words[0] not in KINDS:
        raise RetainError(f"marker 'figures: {' '.join(words)}': wants one of {', '.join(KINDS)} and an experiment")
    kind, experiment, *rest = words
    figures = read(experiment, folder)
    try:
        return KINDS[kind](figures, *rest)
    except (KeyError, TypeError, ValueError):
        raise RetainError(
            f"marker 'figures: {' '.join(words)}': docs/figures/{experiment}.json has no such figure, or it is not "
            "written like this"
        ) from None


def results(figures: ExperimentFigures, *stages: str) -> str:
    """A table of the gating criteria of the stages named, or of all that were measured."""
    criteria = validate(load(experiment_path(figures.experiment)), _Experiment).criteria
    lines = ["", "| | measured | wanted | |", "|---|---|---|---|"]
    for stage in stages or [stage for stage in criteria if stage in figures.stages]:
        made = figures.stages[stage]
        metrics = {name: metric.model_dump() for name, metric in made.metrics.items()}
        verdicts = {verdict.metric: verdict for verdict in check_criteria(stage, metrics, criteria[stage])}
        lines += [
            _row(verdict, verdicts.get(name + LOW), made.metrics[name].chance)
            for name, verdict in verdicts.items()
            if verdict.gating and not (name.endswith(LOW) and name.removesuffix(LOW) in verdicts)
        ]
    return "\n".join([*lines, ""])


def _row(verdict: Verdict, low: Verdict | None, chance: float | None) -> str:
    name = f"{verdict.stage}.{verdict.metric}"
    result = RESULTS.get(name, Result(f"`{name}`", FORMS["share"]))
    wanted = f"{_sign(verdict.op)} {result.form.limit(verdict.limit)}"
    if low is not None:
        wanted += f", interval {_sign(low.op)} {result.form.limit(low.limit)}"
    passed = verdict.passed and (low is None or low.passed)
    measured = _measure(result.form, verdict.value, verdict.ci)
    if chance is not None:
        measured += f"; {result.form.number(chance)} by chance"
    return f"| {result.words} | {measured} | {wanted} | {'met' if passed else '**missed**'} |"


def _sign(op: str) -> str:
    return {">=": "≥", "<=": "≤"}.get(op, op)


def _measure(form: Form, value: float | None, ci: Sequence[float] | None) -> str:
    if value is None:
        return "not measured"
    if ci is None or tuple(ci) == (value, value):
        return form.number(value)
    return f"{form.number(value)} ({form.number(ci[0], unit=False)} .. {form.number(ci[1], unit=False)})"


def metric(figures: ExperimentFigures, name: str, form: str = "share") -> str:
    """`name` is stage.metric; with its interval, and what chance would show where that is known."""
    stage, _, key = name.partition(".")
    measured = figures.stages[stage].metrics[key]
    text = _measure(FORMS[form], measured.value, measured.ci)
    return text if measured.chance is None else f"{text[:-1]}; {FORMS[form].number(measured.chance)} by chance)"


def dollars(figures: ExperimentFigures, *stages: str) -> str:
    """What the stages named were metered at, or all of them."""
    return f"${sum(figures.stages[stage].usd for stage in stages or figures.stages):.4f}"


def commit(figures: ExperimentFigures) -> str:
    """The commit whose code was measured; several where stages were not made anew, in the order of their names."""
    commits = dict.fromkeys(_short(stage.commit) for stage in figures.stages.values())
    return f"commit{'s' if len(commits) > 1 else ''} {', '.join(commits)}"


def _short(commit: str) -> str:
    return f"`{commit[:8]}`{' with uncommitted files' if commit.endswith('+') else ''}"


KINDS: Mapping[str, Callable[..., str]] = {
    "results": results,
    "metric": metric,
    "dollars": dollars,
    "commit": commit,
}


def documents(root: Path) -> Iterator[Path]:
    """Every document that may hold markers."""
    yield from sorted([*root.glob("*.md"), *root.glob("docs/*.md"), *root.glob("ops/*.md")])


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.docs", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a document would change")
    options = parser.parse_args(arguments)
    changed = []
    for path in documents(ROOT):
        text = path.read_text(encoding="utf-8")
        try:
            new = render(text)
        except RetainError as error:
            print(f"error: {path}: {error}", file=sys.stderr)
            return error.exit_code
        if new != text:
            changed.append(path)
            if not options.check:
                path.write_text(new, encoding="utf-8")
    for path in changed:
        print(
            f"{path.relative_to(ROOT)}: {'differs from its figures; run `make docs`' if options.check else 'written'}"
        )
    if not changed:
        print("every document shows its figures")
    return 1 if options.check and changed else 0


if __name__ == "__main__":
    make_decoration()
    raise SystemExit(main(sys.argv[1:]))
