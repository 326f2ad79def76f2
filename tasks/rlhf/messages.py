"""`messages`: the bank that the service reads, of replies that SFT and RLHF wrote offline.

Each model answers prompts of every cell, which is a situation with an offer. A reply is a candidate if it ended
properly, keeps every rule, holds no amount but the offer's, which becomes a slot, and is English (judging.english): a
person is to read it. Of a cell's candidates those are kept that the validation RM likes best, no two with the same
ending. A message goes to every customer of its cell, so all of a cell are ranked as replies to the same prompts of it,
and none may say what only its own customer's prompt says. A cell that nothing is left for is served by the template.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from engine.errors import DataError
from engine.finished import Finished
from retain.message import SITUATIONS, Bank, Entry, render, slots
from retain.rules import MAX_LENGTH, MIN_LENGTH, Rules
from tasks.rlhf.judging import measures
from tasks.rlhf.judging.english import English
from tasks.rlhf.judging.rule_judge.readability import reading_ease
from tasks.rlhf.language import drafts, lm, upstream
from tasks.rlhf.language.drafts import Draft, Sampling
from tasks.rlhf.prompt_tables import PROMPTS, TARGETS
from tasks.text_tables import as_columns

if TYPE_CHECKING:
    from engine.stage import Metrics, Workspace
    from tasks.config import MessagesConfig

# A random stream, whose number never changes (tests/tasks/test_streams.py).
MESSAGES_STREAM = 73
# What is drawn of it: the replies of each writer, and which prompts they are asked.
REPLIES_DRAW, ASKED_DRAW = {"sft": 0, "policy": 1}, 2

# The adapter that writes, and what its bank and its entries' source are called.
WRITERS = {"sft": "sft", "policy": "rlhf"}
METRIC_SUFFIX = {"sft": "_sft", "policy": ""}  # of their metrics' names
RANKER = "validation"
LEARNT_ON = ("train", "validation")

# Why a candidate isn't kept, in the order in which they are asked.
REASONS = {
    "unended": "was cut at the limit, or ends in no full stop",
    "unsafe": "breaks a rule of safety",
    "no_offer": "does not name the offer",
    "length": "is too short or too long",
    "amount": "holds an amount that is no slot's",
    "personal": "says what only its own customer's prompt says",
    "language": "is no English, or not one thing at a time",
    "duplicate": "is another one's text",
    "near_duplicate": "has another one's words",
    "ends_alike": "ends like a better one",
    "surplus": "comes after as many as are kept",
}

Cell = tuple[str, int]  # situation and offer


@dataclass(frozen=True)
class Prompt:
    id: str
    text: str


@dataclass(frozen=True)
class Known:
    """Of a cell. `common`: words of its every prompt, and of the targets of its situation: they tell of nobody."""

    prompts: tuple[Prompt, ...]
    common: frozenset[str]


@dataclass(frozen=True)
class Candidate:
    """`text` has slots once it got that far; `refused` is one of REASONS, or "" if it is kept."""

    writer: str
    cell: Cell
    prompt: Prompt
    draft: Draft
    text: str = ""
    score: float | None = None
    refused: str = ""
    why: str = ""


def run(config: MessagesConfig, inputs: Mapping[str, Path], workspace: Workspace) -> Metrics:
    """Writes sft.json, rlhf.json, scores.json, about.json, curves.parquet and evidence/candidates.parquet."""
    torch.set_num_threads(workspace.threads)
    lm.check_device(workspace.device)
    about = upstream.about(inputs["prompts"])
    months, cells = about["months"], [(situation, offer) for situation in SITUATIONS for offer in about["offers"]]
    known, rules, english = read(inputs["prompts"]), Rules(config.rules), English(config.english)
    asked = ask(cells, known, config.candidates, workspace.seed)
    how = Sampling(config.max_tokens, config.temperature, config.batch)
    finished = Finished.resume(workspace, (2 + 2 * config.ranked_on) * how.batches(len(asked)))  # at most
    language = drafts.adapters(
        inputs["base"],
        config.bits,
        workspace.device,
        {"sft": inputs["sft"], "policy": inputs["ppo_text"], RANKER: inputs["rm"] / RANKER},
    )
    texts = [prompt.text for _, prompt in asked]
    written = [
        Candidate(writer, cell, prompt, draft)
        for writer in WRITERS
        for (cell, prompt), draft in zip(
            asked,
            drafts.sample(
                language,
                writer,
                texts,
                how,
                [workspace.seed, MESSAGES_STREAM, REPLIES_DRAW[writer]],
                finished,
                workspace,
            ),
        )
    ]
    screened = [screen(candidate, months, known[candidate.cell].common, rules, english) for candidate in written]
    scored = _scored(screened, _ranked_on(asked, config.ranked_on), months, language, config.batch, finished, workspace)
    banks, candidates = {}, list[Candidate]()
    for writer in WRITERS:
        chosen = [candidate for cell in cells for candidate in choose(_of(scored, writer, cell), config.kept)]
        candidates += chosen
        banks[writer] = bank(chosen, WRITERS[writer], months, language.text)
    _write(banks, candidates, cells, about, workspace)
    return {
        name + METRIC_SUFFIX[writer]: value
        for writer in WRITERS
        for name, value in metrics(
            banks[writer], [candidate for candidate in candidates if candidate.writer == writer], cells, months
        ).items()
    }


def read(folder: Path) -> dict[Cell, Known]:
    """Of the artifact of `prompts`, what models may have learnt on. A cell without prompts has those of its targets."""
    tables = {
        name: [row for row in upstream.read(folder, table) if row["part"] in LEARNT_ON]
        for name, table in (("prompts", PROMPTS), ("targets", TARGETS))
    }
    prompts: dict[str, dict[Cell, list[Prompt]]] = {name: {} for name in tables}
    target_words: dict[str, set[str]] = {}  # of a situation
    for name, rows in tables.items():
        for row in rows:
            prompts[name].setdefault((row["situation"], row["offer"]), []).append(Prompt(row["id"], row["prompt"]))
    for row in tables["targets"]:
        if not row["flaw"]:
            target_words.setdefault(row["situation"], set()).update(words(row["response"]))
    known = {}
    for cell in prompts["targets"] | prompts["prompts"]:
        every = [prompt for by_cell in prompts.values() for prompt in by_cell.get(cell, ())]
        common = set[str].intersection(*(set(words(prompt.text)) for prompt in every))
        asked = prompts["prompts"].get(cell) or prompts["targets"][cell]
        known[cell] = Known(tuple(asked), frozenset(common | target_words.get(cell[0], set())))
    return known


def ask(cells: Sequence[Cell], known: Mapping[Cell, Known], candidates: int, seed: int) -> list[tuple[Cell, Prompt]]:
    """So many prompts of each cell, drawn by seed, again and again if there are fewer; none of a cell without any."""
    drawn = []
    for number, cell in enumerate(cells):
        if cell in known:
            prompts = known[cell].prompts
            order = np.random.default_rng([seed, MESSAGES_STREAM, ASKED_DRAW, number]).permutation(len(prompts))
            drawn += [(cell, prompts[i]) for i in np.resize(order, candidates).tolist()]
    if not drawn:
        raise DataError("prompts: none of part train or validation, so there is nothing to reply to; run prompts again")
    return drawn


def screen(candidate: Candidate, months: int, common: frozenset[str], rules: Rules, english: English) -> Candidate:
    """With its slots, or why it is refused."""
    text, (_, offer) = candidate.draft.text, candidate.cell
    broken = rules.unsafe(text, offer, months)
    if not candidate.draft.ended or not text.endswith((".", "!", "?")):
        return replace(candidate, refused="unended", why=text[-20:])
    if broken:
        return replace(candidate, refused="unsafe", why=", ".join(broken))
    if more := rules.check(text, offer, months):
        fits = MIN_LENGTH <= len(text) <= MAX_LENGTH  # nothing else is asked of a safe text but that it names the offer
        return replace(candidate, refused="no_offer" if fits else "length", why=", ".join(more))
    with_slots = slots(text, offer, months, rules)
    if with_slots is None:
        return replace(candidate, refused="amount")
    if told := personal(text, candidate.prompt, common):
        return replace(candidate, refused="personal", why=", ".join(told))
    if faults := english.faults(with_slots):
        return replace(candidate, refused="language", why="; ".join(faults))
    return replace(candidate, text=with_slots)


def personal(text: str, prompt: Prompt, common: frozenset[str]) -> list[str]:
    """Words that the text has from its own prompt alone: what kind of contract, of connection, of bill."""
    return sorted(set(words(text)) & set(words(prompt.text)) - common)


def choose(candidates: Sequence[Candidate], kept: int) -> list[Candidate]:
    """Of one cell and writer: which are kept, best first, and why the others aren't."""
    order = sorted(
        candidates, key=lambda candidate: (0.0 if candidate.score is None else -candidate.score, candidate.text)
    )
    chosen: list[Candidate] = []
    texts, word_lists, endings, count = set[str](), set[tuple[str, ...]](), set[tuple[str, ...]](), 0
    for candidate in order:
        if candidate.refused:
            chosen.append(candidate)
            continue
        word_list, ending = tuple(sorted(words(candidate.text))), last_words(candidate.text)
        refused = (
            "duplicate"
            if candidate.text in texts
            else "near_duplicate"
            if word_list in word_lists
            else "ends_alike"
            if ending in endings
            else "surplus"
            if count == kept
            else ""
        )
        chosen.append(replace(candidate, refused=refused))
        texts.add(candidate.text)
        word_lists.add(word_list)
        if not refused:
            endings.add(ending)
            count += 1
    return chosen


def words(text: str) -> list[str]:
    """Lower case, without slots and punctuation."""
    return re.findall(r"[a-z]+(?:['’][a-z]+)*", re.sub(r"\{[^{}]*\}", " ", text.lower()))


def last_words(text: str) -> tuple[str, ...]:
    """Of its last sentence; a slot is a word of it, whatever stands in it."""
    sentences = [part for part in re.split(r"[.!?]+\s*", text) if part.strip()]
    return tuple(words(sentences[-1])) if sentences else ()


def bank(chosen: Sequence[Candidate], source: str, months: int, text: lm.Text) -> Bank:
    """Those that are kept, each with the tokens of what it says once its slots are filled."""
    return Bank(
        [
            Entry(
                *candidate.cell,
                candidate.text,
                source,
                candidate.score,
                len(text.reply(render(candidate.text, candidate.cell[1], months))),
            )
            for candidate in chosen
            if not candidate.refused and candidate.score is not None
        ]
    )


def metrics(kept: Bank, candidates: Sequence[Candidate], cells: Sequence[Cell], months: int) -> Metrics:
    """Of one writer. The reading ease of no message is left out."""
    texts = [render(entry.text, entry.offer, months) for entry in kept.entries]
    covered = {(entry.situation, entry.offer) for entry in kept.entries}
    refused = Counter(candidate.refused for candidate in candidates)
    values = {
        "coverage": len(covered) / len(cells),
        "distinct_2": measures.distinct(texts, 2),
        "commonest_ending": measures.commonest_ending(texts),
        "candidates": float(len(candidates)),
        "kept": float(len(kept.entries)),
        **{f"refused_{reason}": float(refused[reason]) for reason in REASONS},
        **({"reading_ease": float(np.mean([reading_ease(text) for text in texts]))} if texts else {}),
    }
    return {name: {"value": value} for name, value in values.items()}


def _ranked_on(asked: Sequence[tuple[Cell, Prompt]], count: int) -> dict[Cell, list[Prompt]]:
    """The first prompts of each cell, each once: one alone may ask for something odd."""
    by_text: dict[Cell, dict[str, Prompt]] = {}
    for cell, prompt in asked:
        by_text.setdefault(cell, {}).setdefault(prompt.text, prompt)
    return {cell: list(prompts.values())[:count] for cell, prompts in by_text.items()}


def _scored(
    candidates: Sequence[Candidate],
    prompts: Mapping[Cell, Sequence[Prompt]],
    months: int,
    language: lm.Lm,
    batch: int,
    finished: Finished,
    workspace: Workspace,
) -> list[Candidate]:
    """With the validation RM's mean score of each as a reply to the same prompts of its cell."""
    asked = {
        i: [(prompt.text, render(candidate.text, candidate.cell[1], months)) for prompt in prompts[candidate.cell]]
        for i, candidate in enumerate(candidates)
        if not candidate.refused
    }
    every = [pair for pairs in asked.values() for pair in pairs]
    score_of = drafts.scores(language, RANKER, every, batch, finished, workspace)
    return [
        replace(candidate, score=float(np.mean([score_of[pair] for pair in asked[i]]))) if i in asked else candidate
        for i, candidate in enumerate(candidates)
    ]


def _of(candidates: Sequence[Candidate], writer: str, cell: Cell) -> list[Candidate]:
    return [candidate for candidate in candidates if (candidate.writer, candidate.cell) == (writer, cell)]


def _write(
    banks: Mapping[str, Bank],
    candidates: Sequence[Candidate],
    cells: Sequence[Cell],
    about: Mapping[str, Any],
    workspace: Workspace,
) -> None:
    out = workspace.out
    scores: dict[str, dict[str, float]] = {}  # "situation/offer" -> text -> score
    for writer, kept in banks.items():
        out.json(f"{WRITERS[writer]}.json", kept.to_json())
        for entry in kept.entries:  # a text of both writers has the same score: the same prompts are asked
            scores.setdefault(f"{entry.situation}/{entry.offer}", {})[entry.text] = entry.score
    out.json("scores.json", scores)
    out.json(
        "about.json",
        {"offers": about["offers"], "months": about["months"], "situations": list(SITUATIONS), "reasons": REASONS},
    )
    nan = float("nan")  # not scored
    out.parquet(
        "evidence/candidates.parquet",
        as_columns(
            {
                "source": WRITERS[candidate.writer],
                "situation": candidate.cell[0],
                "offer": candidate.cell[1],
                "prompt": candidate.prompt.id,
                "reply": candidate.draft.text,
                "tokens": candidate.draft.tokens,
                "ended": candidate.draft.ended,
                "text": candidate.text,
                "score": nan if candidate.score is None else candidate.score,
                "refused": candidate.refused,
                "why": candidate.why,
            }
            for candidate in candidates
        ),
    )
    out.parquet(
        "curves.parquet",
        as_columns(
            {
                "source": WRITERS[writer],
                "situation": cell[0],
                "offer": cell[1],
                "candidates": len(of_cell),
                "kept": sum(not candidate.refused for candidate in of_cell),
                "best": max((c.score for c in of_cell if c.score is not None and not c.refused), default=nan),
            }
            for writer in WRITERS
            for cell in cells
            for of_cell in [_of(candidates, writer, cell)]
        ),
    )
