"""The words as people read them: what RLHF writes beside what SFT writes, from the artifacts of text_eval and messages.

    python -m eval.words --experiment local

Nothing is computed here but the share of messages that people approved. Texts are a language model's: they are printed
without markup, and whatever no message needs (a line break, an escape sequence) is shown as a dot.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from engine.approvals import look
from engine.artifact import ArtifactStore, open_artifact
from engine.config import EXPERIMENT_HELP, argument, experiment_path, load
from engine.errors import ArtifactError, RetainError
from engine.output import make_decoration
from engine.paths import NOT_THERE, why_unreadable
from engine.stage import IDENTITY
from engine.store import open_store, store_url
from eval.console import make_console
from eval.decision import Measure

T = TypeVar("T")
TEXT_EVAL, MESSAGES = "text_eval", "messages"
PROBES = "evidence/probes.parquet"
MODELS = {"sft": "SFT", "policy": "RLHF"}  # as the tables of evidence call them
WIDTH = 160  # where there is no terminal
BANK_SUFFIX = {"sft": "_sft", "rlhf": ""}  # of the metrics of a bank
SHOWN = 3  # messages of each model at the end of a run
# Who says that RLHF writes better: the first two never met PPO.
WIN_RATE_LABELS = {
    "win_rate_final": "final reward model, unseen",
    "win_rate_rules": "rule judge, unseen",
    "win_rate_training": "training reward model",
}
# Shares of replies; the same name with _sft is SFT's.
SHARES = {
    "unsafe": "unsafe before any guard",
    "unsafe_prompts": "  of held-out prompts",
    "unsafe_probes": "  of probes",
    "unsafe_judged": "harmful to the rule judge, unseen",
    "unsafe_judged_prompts": "  of held-out prompts",
    "unsafe_judged_probes": "  of probes",
    "probes_passed": "probes passed: safe, ended, right offer",
    "right_offer": "names exactly the offer",
    "ended": "comes to its end",
    "commonest_ending": "ends in the commonest words",
    "distinct_2": "distinct pairs of words",
}
APPROVED = "approved"
BANK = {
    "coverage": "situations x offers with a message",
    APPROVED: "messages approved by a person",
    "kept": "messages in the bank",
    "candidates": "of candidates",
}


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


class Written(_Part):
    text: str
    tokens: Annotated[int, Field(ge=0)]
    unsafe: tuple[str, ...]


class _Message(_Part):
    text: str


class Example(_Part):
    """The replies of both to one held-out prompt, drawn by seed."""

    prompt: str
    offer: int
    situation: str
    sft: Written
    rlhf: Written


class Probes(_Part):
    """The replies of one model to the probes of one kind.

    `share` of them passed: safe, ended and with exactly the offer. An empty reply is safe, and passes nothing.
    """

    model: Literal["sft", "policy"]
    kind: str
    probes: Annotated[int, Field(ge=1)]
    passed: Annotated[int, Field(ge=0)]
    share: float
    low: float
    high: float
    safe_share: float
    safe_low: float
    safe_high: float

    @property
    def passes(self) -> Measure:
        return Measure(value=self.share, ci=(self.low, self.high))

    @property
    def safe(self) -> Measure:
        return Measure(value=self.safe_share, ci=(self.safe_low, self.safe_high))


@dataclass(frozen=True)
class Report:
    """`bank` is empty where there is no artifact of `messages` yet; `probes` where nothing was probed."""

    metrics: Mapping[str, Measure]
    bank: Mapping[str, Measure]
    examples: Sequence[Example]
    probes: Sequence[Probes] = ()

    @property
    def kinds(self) -> list[str]:
        """Of probes."""
        return sorted({row.kind for row in self.probes})


def read(text_eval: Path, messages: Path | None = None, verdicts: Mapping[str, str] | None = None) -> Report:
    """Of the artifacts in these folders; `verdicts`: text -> what was said of it ("approved", "rejected").

    Raises ArtifactError for an artifact that is damaged or of another kind.
    """
    found = open_artifact(text_eval)
    measures = _parse(TypeAdapter(dict[str, Measure]), found, "metrics.json", text_eval)
    for name in (
        *WIN_RATE_LABELS,
        "win_rate_gain",
        "overoptimisation",
        "unsafe",
        "tokens",
        "tokens_sft",
        "tokens_change",
    ):
        if name not in measures:
            raise ArtifactError(f"{text_eval}: metrics.json has no {name}; run text_eval again")
    examples = _parse(TypeAdapter(tuple[Example, ...]), found, "examples.json", text_eval)
    bank = {}
    if messages is not None:
        files = open_artifact(messages)
        bank = _parse(TypeAdapter(dict[str, Measure]), files, "metrics.json", messages)
        bank |= _approved(files, messages, verdicts or {})
    return Report(measures, bank, examples, _probes(found, text_eval))


def latest(tag: str, argument: str) -> Report:
    """Of what completed last in the experiment `tag`, for which EXPERIMENT is set to `argument`. Raises ArtifactError
    where nothing did."""
    store = open_store(store_url())
    artifacts = ArtifactStore(store, tag)
    evaluated = artifacts.folder_of_current("text_eval")
    if evaluated is None:
        raise ArtifactError(
            f"experiment {tag} has no text_eval in {store.url}: run `make run EXPERIMENT={argument}` first"
        )
    # A run that ended in between leaves a bank of the policy before.
    bank = artifacts.folder_of_current("messages")
    same = bank is not None and _policy(bank) == _policy(evaluated)
    return read(evaluated, bank if same else None, look(store.url).verdicts)


def _policy(artifact: Path) -> str:
    """Digest of the ppo_text that an artifact was made of."""
    try:
        return str(json.loads((artifact / IDENTITY).read_bytes())["inputs"]["ppo_text"])
    except (*NOT_THERE, ValueError, LookupError, TypeError) as error:
        text = f"{artifact}: {IDENTITY} is missing or damaged ({error!r}); remove the artifact and run again"
        raise ArtifactError(text) from None
    except OSError as error:
        raise ArtifactError(f"{artifact}: {IDENTITY} {why_unreadable(error)}") from None


def short(report: Report) -> Iterator[RenderableType]:
    """The end of `make run`."""
    yield wins_table(report)
    yield models_table(report)
    yield from examples_lines(report, SHOWN)


def whole(report: Report) -> Iterator[RenderableType]:
    """Everything that the artifacts tell."""
    yield wins_table(report)
    yield models_table(report)
    if report.kinds:
        yield probes_table(report)
    yield from examples_lines(report, len(report.examples))


def wins_table(report: Report) -> Table:
    table = _table("How often RLHF's reply is preferred to SFT's, held-out prompts, ties half, %", "judge")
    table.add_column("wins", justify="right")
    for name, says in WIN_RATE_LABELS.items():
        table.add_row(says, _percent(report.metrics[name]))
    gain, gap = report.metrics["win_rate_gain"], report.metrics["overoptimisation"]
    prompts = report.metrics.get("prompts")
    table.caption = (
        f"{f'{prompts.value:.0f} prompts. ' if prompts else ''}Gain by the unseen judge who sees less: "
        f"{100 * gain.value:+.1f} points. What the training reward model sees beyond the final one "
        f"(over-optimisation): {100 * gap.value:+.1f} points. In parentheses 95 % intervals."
    )
    return table


def models_table(report: Report) -> Table:
    table = _table("What they write, one sample of each prompt, %", "")
    for name in ("SFT", "RLHF"):
        table.add_column(name, justify="right")
    for name, says in SHARES.items():
        if name in report.metrics:
            table.add_row(says, *(_share(report.metrics.get(name + of)) for of in ("_sft", "")))
    table.add_row("tokens", *(f"{report.metrics[f'tokens{of}'].value:.1f}" for of in ("_sft", "")))
    table.add_row("tokens, change against SFT", "", _percent(report.metrics["tokens_change"], "+"))
    for name, says in BANK.items():
        if name in report.bank or f"{name}_sft" in report.bank:
            form = _share if name in ("coverage", APPROVED) else _count
            table.add_row(says, *(form(report.bank.get(name + of)) for of in ("_sft", "")))
    return table


def probes_table(report: Report) -> Table:
    """By kind of what a probe invites to."""
    table = _table(
        "Replies to probes, before any guard: passed (safe, ended, right offer) and safe at least, %", "kind"
    )
    for says in ("passed", "safe"):
        for name in MODELS.values():
            table.add_column(f"{name} {says}", justify="right")
    rows: dict[tuple[str, str], Probes] = {(row.model, row.kind): row for row in report.probes}
    for kind in report.kinds:
        of_kind = [rows.get((model, kind)) for model in MODELS]
        table.add_row(
            kind.replace("_", " "),
            *(_share(None if row is None else row.passes) for row in of_kind),
            *(_share(None if row is None else row.safe) for row in of_kind),
        )
    return table


def examples_lines(report: Report, most: int) -> Iterator[RenderableType]:
    for example in report.examples[:most]:
        yield Text.assemble((f"\n{_plain(example.situation)}, {example.offer} %: ", "bold"), _plain(example.prompt))
        for name, of in (("SFT ", example.sft), ("RLHF", example.rlhf)):
            unsafe = f" unsafe: {_plain(', '.join(of.unsafe))}" if of.unsafe else ""
            yield Text.assemble((f"  {name} ", "dim"), _plain(of.text), (unsafe, "red"))


def _parse(kind: TypeAdapter[T], files: Mapping[str, Path], name: str, folder: Path) -> T:
    if name not in files:
        raise ArtifactError(f"{folder}: holds no {name}; remove it and run again")
    try:
        return kind.validate_json(files[name].read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "as a whole"
        raise ArtifactError(f"{folder}: {name}: {where}: {first['msg']}; run the stage again") from None


def _approved(files: Mapping[str, Path], folder: Path, verdicts: Mapping[str, str]) -> dict[str, Measure]:
    """The share of each bank's messages that were approved; none of an empty bank."""
    shares = {}
    for source, suffix in BANK_SUFFIX.items():
        entries = _parse(TypeAdapter(tuple[_Message, ...]), files, f"{source}.json", folder)
        if entries:
            approved = [verdicts.get(entry.text) == "approved" for entry in entries]
            shares[APPROVED + suffix] = Measure(value=sum(approved) / len(approved))
    return shares


def _probes(files: Mapping[str, Path], folder: Path) -> tuple[Probes, ...]:
    import pyarrow as pa  # slow to import, and only this needs it
    import pyarrow.parquet as pq

    if PROBES not in files:
        raise ArtifactError(f"{folder}: holds no {PROBES}; remove it and run again")
    try:
        rows = pq.read_table(files[PROBES]).to_pylist()
    except (pa.ArrowException, OSError):
        raise ArtifactError(f"{folder}: {PROBES} is no table; run the stage again") from None
    try:
        return TypeAdapter(tuple[Probes, ...]).validate_python(tuple(rows))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(f"{folder}: {PROBES}: {where}: {first['msg']}; run the stage again") from None


def _percent(measure: Measure, sign: str = "") -> str:
    ends = "" if measure.ci is None else f" ({100 * measure.ci[0]:{sign}.1f}..{100 * measure.ci[1]:{sign}.1f})"
    return f"{100 * measure.value:{sign}.1f}{ends}"


def _share(measure: Measure | None) -> str:
    return "-" if measure is None else _percent(measure)


def _count(measure: Measure | None) -> str:
    return "-" if measure is None else f"{measure.value:.0f}"


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() else "·" for letter in text)


def _table(title: str, first: str) -> Table:
    table = Table(title=f"\n{title}", title_justify="left", title_style="bold", caption_justify="left")
    table.box, table.show_edge, table.pad_edge, table.padding = box.SIMPLE_HEAD, False, False, (0, 1, 0, 0)
    table.add_column(first, no_wrap=True)
    return table


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.words", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--experiment", required=True, help=EXPERIMENT_HELP)
    options = parser.parse_args(arguments)
    try:
        resolved = load(experiment_path(options.experiment))
        report = latest(resolved.tag, argument(resolved.path))
    except RetainError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    console = make_console(WIDTH)
    for part in whole(report):
        console.print(part)
    return 0


if __name__ == "__main__":
    make_decoration()
    raise SystemExit(main(sys.argv[1:]))
