"""What comes into the bank and why the rest doesn't; that an empty one is no error; that stopping changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from engine.errors import DataError
from retain.message import SITUATIONS, Bank, render
from tasks.config import MessagesConfig
from tasks.rlhf import messages
from tasks.rlhf.language import decode, lm
from tasks.rlhf.language.drafts import Draft
from tasks.rlhf.messages import Candidate, Prompt, choose, screen
from tasks.rlhf.prompt_tables import PROMPTS, TARGETS
from tests.tasks.rlhf import made_language
from tests.tasks.rlhf.tables import write
from tests.words import ENGLISH, RULES, WORDS, check

CELLS = [(situation, offer) for situation in SITUATIONS for offer in made_language.OFFERS]
WITHOUT = (
    "Your bill should feel right for what you get. Please reply YES and we will call you.",
    "We would be glad to help you with your plan. A short YES is enough.",
    "Thank you for being with us. Please tell us how we can help you.",
)
WITH = tuple(f"We take 10% off your monthly charge for three months. {text}" for text in WITHOUT)
UNSAFE = "We guarantee you the lowest price for ever, and 75% off, so hurry now!!"


def config(**changes: Any) -> MessagesConfig:
    settings = {"bits": 32, "batch": 8, "max_tokens": 6, "temperature": 1.0, "candidates": 3, "kept": 2, "ranked_on": 3}
    return MessagesConfig(**settings | {"rules": WORDS.rules, "english": WORDS.english} | changes)


def bank_inputs(root: Path, base: Path) -> dict[str, Path]:
    made_language.prompts(root / "prompts", 3, (), CELLS)
    for name, seed in made_language.WRITER.items():
        made_language.adapter(base, root / name, seed, reward=False)
    for name, seed in made_language.REWARD_MODELS.items():
        made_language.adapter(base, root / name, seed, reward=True)
    return {"base": base, **{name: root / name for name in ("prompts", "sft", "ppo_text", "rm")}}


@pytest.fixture(scope="module")
def inputs(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return bank_inputs(tmp_path_factory.mktemp("messages"), base)


def every_text(name: str, at: int) -> str:
    """Each text of either kind again and again: whichever cell asks has some that fit it."""
    return (*WITH, *WITHOUT)[(at + at // 8) % 6]


def writes_by_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply follows from its batch alone, as with a generator that is seeded for each."""

    def sample(
        language: lm.Lm, asked: list[list[int]], limit: int, temperature: float, generator: torch.Generator, batch: int
    ) -> list[decode.Sample]:
        first = int(torch.randint(6, (1,), generator=generator))
        texts = [every_text("", first + at) for at in range(len(asked))]
        return [decode.Sample(language.text.reply(text), text, True) for text in texts]

    monkeypatch.setattr(decode, "sample", sample)


def candidate(text: str, offer: int = 10, ended: bool = True, prompt: str = "Topic: the price.") -> Candidate:
    return Candidate("policy", ("price", offer), Prompt("p", prompt), Draft(text, 20, ended))


def scored(text: str, score: float) -> Candidate:
    return Candidate("policy", ("price", 10), Prompt("p", ""), Draft(text, 20, True), text, score)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (candidate(WITH[0]), ""),
        (candidate(WITHOUT[0], 0), ""),
        (candidate(WITH[0], ended=False), "unended"),
        (candidate(WITH[0][:-1]), "unended"),
        (candidate(UNSAFE + " Thank you."), "unsafe"),
        (candidate(WITH[0], 20), "unsafe"),
        (candidate("We take 10% off for you."), "length"),
        (candidate("Yes."), "length"),
        (candidate(WITHOUT[0]), "no_offer"),
        (candidate(WITH[0].replace("10%", "ten per cent")), ""),
        (candidate(" ".join(["We are glad that you are here."] * 20), 0), "length"),
        (candidate("", 0), "unended"),
        (
            candidate(f"{WITH[0]} It is for your fiber line.", prompt="Topic: the price. Customer: fiber internet."),
            "personal",
        ),
        (candidate("Your contract should fking from our team. Your plan easy to. Reply YES.", 0), "language"),
        (candidate("We take 10% off your monthly charge for three months. Your plan easy to. Reply YES."), "language"),
    ],
)
def test_a_candidate_is_refused_for_its_reason(made: Candidate, reason: str) -> None:
    assert screen(made, 3, frozenset({"topic", "the", "price"}), RULES, ENGLISH).refused == reason


def test_what_is_no_english_says_why(inputs: dict[str, Path]) -> None:
    screened = screen(
        candidate("no effort. Your plan easy to. We would be glad to help you.", 0), 3, frozenset(), RULES, ENGLISH
    )
    assert (screened.refused, screened.text) == ("language", "")
    assert screened.why == "begins with a small letter: no; ends in: to"


def test_amounts_stand_in_slots_alone() -> None:
    found = screen(candidate(WITH[0]), 3, frozenset(), RULES, ENGLISH)
    assert "10" not in found.text
    assert "three" not in found.text
    assert render(found.text, 10, 3) == WITH[0]
    assert not check(render(found.text, 25, 6), 25, 6)


def test_an_amount_that_no_slot_stands_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "slots", lambda text, offer, months, rules: None)
    assert screen(candidate(WITH[0]), 3, frozenset(), RULES, ENGLISH).refused == "amount"


def test_what_every_prompt_says_and_what_targets_say_is_not_personal(tmp_path: Path) -> None:
    prompts = ["Topic: price. Customer: fiber internet.", "Topic: price. Customer: dsl internet."]
    rows = [
        {"id": str(at), "part": "train", "situation": "price", "offer": 0, "prompt": p} for at, p in enumerate(prompts)
    ]
    write(tmp_path, PROMPTS, rows)
    target = {**rows[0], "prompt": prompts[0], "response": "A bill for dsl.", "flaw": ""}
    flawed = {**rows[0], "prompt": prompts[0], "response": "You have fiber.", "flaw": "personal"}
    held_out = {**rows[0], "part": "test", "response": "You have fiber.", "flaw": ""}
    write(tmp_path, TARGETS, [target, flawed, held_out])
    known = messages.read(tmp_path)["price", 0]
    assert [prompt.text for prompt in known.prompts] == prompts
    assert messages.personal("A bill for dsl internet.", known.prompts[1], known.common) == []
    assert messages.personal("Your fiber internet.", known.prompts[0], known.common) == ["fiber"]


def test_the_best_are_kept_and_no_two_of_them_are_alike() -> None:
    texts = {
        "One thing. Please reply YES.": 1.0,
        "Another thing. Please reply YES.": 2.0,
        "A third thing. Thank you.": 0.5,
        "A third thing, {offer}. Thank you!": 0.4,
        "A fourth thing. Do call us.": 0.3,
    }
    found = choose(
        [scored(text, score) for text, score in texts.items()] + [scored("A third thing. Thank you.", 0.5)], 2
    )
    assert [(one.text, one.refused) for one in found] == [
        ("Another thing. Please reply YES.", ""),
        ("One thing. Please reply YES.", "ends_alike"),
        ("A third thing. Thank you.", ""),
        ("A third thing. Thank you.", "duplicate"),
        ("A third thing, {offer}. Thank you!", "near_duplicate"),
        ("A fourth thing. Do call us.", "surplus"),
    ]


def test_the_bank_loads_covers_and_says_only_what_is_safe(
    inputs: dict[str, Path], tmp_path: Path, workspace: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_language.writes(monkeypatch, every_text)
    found = messages.run(config(candidates=12), inputs, workspace(tmp_path))
    assert found["coverage"]["value"] == found["coverage_sft"]["value"] == 1.0
    scores, text = json.loads((tmp_path / "scores.json").read_bytes()), lm.load_text(inputs["base"])
    assert set(scores) == {f"{situation}/{offer}" for situation, offer in CELLS}
    for name in ("sft", "rlhf"):
        bank = Bank.from_json(json.loads((tmp_path / f"{name}.json").read_bytes()))
        assert not bank.problems(made_language.MONTHS, RULES)
        assert {(entry.situation, entry.offer) for entry in bank.entries} == set(CELLS)
        assert {entry.source for entry in bank.entries} == {name}
        for entry in bank.entries:
            assert scores[f"{entry.situation}/{entry.offer}"][entry.text] == entry.score
            assert not any(letter.isdigit() for letter in entry.text)
            assert entry.tokens == len(text.reply(render(entry.text, entry.offer, made_language.MONTHS)))
        for cell in CELLS:
            kept = [entry for entry in bank.entries if (entry.situation, entry.offer) == cell]
            assert 1 <= len(kept) <= 2
            assert len({messages.last_words(entry.text) for entry in kept}) == len(kept)
            assert [entry.score for entry in kept] == sorted((entry.score for entry in kept), reverse=True)
    rows = pq.read_table(tmp_path / "evidence/candidates.parquet").to_pylist()
    assert len(rows) == 2 * 12 * len(CELLS)
    of_policy = [row for row in rows if row["source"] == "rlhf"]
    assert found["candidates"]["value"] == len(of_policy)
    assert found["kept"]["value"] == sum(not row["refused"] for row in of_policy)
    for reason in messages.REASONS:
        assert found[f"refused_{reason}"]["value"] == sum(row["refused"] == reason for row in of_policy)
    assert 30 < found["reading_ease"]["value"] < 120


@pytest.mark.parametrize(("months", "said"), [(1, "one month"), (12, "twelve months")])
def test_tokens_are_those_of_what_is_said_once_the_slots_are_filled(
    inputs: dict[str, Path], months: int, said: str
) -> None:
    text = lm.load_text(inputs["base"])
    (entry,) = messages.bank([scored("We take {offer} off for {months}.", 0.5)], "sft", months, text).entries
    assert entry.tokens == len(text.tokenizer(f" We take 10% off for {said}.")["input_ids"]) + 1  # with its end


def test_all_of_a_cell_are_ranked_by_the_validation_model_on_the_same_prompts(
    inputs: dict[str, Path], tmp_path: Path, workspace: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def likes(language: lm.Lm, name: str, rows: list[lm.Row]) -> torch.Tensor:
        """Short ones."""
        assert name == "validation"
        decode = language.text.tokenizer.decode
        asked.extend((decode(prompt), language.text.decode(reply)) for prompt, reply in rows)
        return torch.tensor([-float(len(reply)) for _, reply in rows])

    made_language.writes(monkeypatch, every_text)
    monkeypatch.setattr(lm, "scores", likes)
    messages.run(config(candidates=12, kept=3), inputs, workspace(tmp_path))
    bank = Bank.from_json(json.loads((tmp_path / "rlhf.json").read_bytes()))
    kept = [entry.text for entry in bank.entries if (entry.situation, entry.offer) == ("price", 0)]
    assert kept == sorted(WITHOUT, key=len)
    of_price = {(prompt, reply) for prompt, reply in asked if ": price, 0" in prompt}
    assert len({prompt for prompt, _ in of_price}) == 2  # both prompts of the cell
    assert of_price == {(prompt, reply) for prompt, _ in of_price for reply in WITHOUT}


def test_nothing_safe_is_an_empty_bank_and_no_error(
    inputs: dict[str, Path], tmp_path: Path, workspace: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_language.writes(monkeypatch, lambda name, _: UNSAFE if name == "policy" else None)
    found = messages.run(config(), inputs, workspace(tmp_path))
    json.dumps(found, allow_nan=False)
    assert found["coverage"]["value"] == found["coverage_sft"]["value"] == 0.0
    assert found["refused_unsafe"]["value"] == found["candidates"]["value"]
    assert found["refused_unended_sft"]["value"] == found["candidates_sft"]["value"]
    assert json.loads((tmp_path / "rlhf.json").read_bytes()) == []
    assert json.loads((tmp_path / "scores.json").read_bytes()) == {}
    rows = pq.read_table(tmp_path / "evidence/candidates.parquet").to_pylist()
    assert "guarantee" in next(row["why"] for row in rows if row["source"] == "rlhf")


def test_random_weights_write_nothing_that_is_kept(inputs: dict[str, Path], tmp_path: Path, workspace: Any) -> None:
    assert messages.run(config(), inputs, workspace(tmp_path))["kept"]["value"] == 0.0


def test_coverage_counts_cells(
    inputs: dict[str, Path], tmp_path: Path, workspace: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_language.writes(monkeypatch, lambda name, at: WITH[at % 3])
    found = messages.run(config(), inputs, workspace(tmp_path))
    assert found["coverage"]["value"] == 0.5  # of the cells with an offer


def test_a_cell_without_any_prompt_is_not_covered(
    inputs: dict[str, Path], tmp_path: Path, workspace: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_language.prompts(tmp_path / "prompts", 3, (), CELLS[:-2])
    made_language.writes(monkeypatch, every_text)
    found = messages.run(config(candidates=12), inputs | {"prompts": tmp_path / "prompts"}, workspace(tmp_path / "out"))
    assert found["coverage"]["value"] == pytest.approx(1 - 2 / len(CELLS))
    made_language.prompts(tmp_path / "none", 3, (), ())
    with pytest.raises(DataError, match="none of part train or validation"):
        messages.run(config(), inputs | {"prompts": tmp_path / "none"}, workspace(tmp_path / "out"))


def test_a_held_out_prompt_is_never_asked(inputs: dict[str, Path]) -> None:
    known = messages.read(inputs["prompts"])
    asked = messages.ask(CELLS, known, 5, 1)
    assert len(asked) == 5 * len(CELLS)
    assert {prompt.id.split("-")[0] for _, prompt in asked} == {"train", "validation"}
    assert messages.ask(CELLS, known, 5, 1) == asked
    assert messages.ask(CELLS, known, 5, 2) != asked


def test_an_insult_is_refused_as_unsafe(
    inputs: dict[str, Path], tmp_path: Path, workspace: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rude = f"{WITH[1]} Take it, you fucking moron."
    made_language.writes(monkeypatch, lambda name, at: (*WITH, rude)[at % 4])
    found = messages.run(config(), inputs, workspace(tmp_path))
    rows = pq.read_table(tmp_path / "evidence/candidates.parquet").to_pylist()
    assert {row["reply"] for row in rows if "insult" in row["why"]} == {rude}
    assert {row["refused"] for row in rows if row["reply"] == rude} == {"unsafe"}
    assert found["refused_unsafe"]["value"] > 0
