"""What tells gibberish from English: labelled texts, and each rule by itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.errors import RetainError
from tasks.rlhf.judging import english
from tests.words import ENGLISH, WORDS, template_bank

CASES = [json.loads(line) for line in (Path(__file__).parent / "english_cases.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("halves", "refused", "lost"),
    [
        # What is reached today, with all texts in view; docs/WORDS.md has what was found at first sight.
        (("dev", "held_out"), 40 / 40, 0 / 80),
        (("held_out_2",), 18 / 20, 0 / 40),
    ],
)
def test_gibberish_is_refused_and_english_is_not(halves: tuple[str, ...], refused: float, lost: float) -> None:
    of_halves = [case for case in CASES if case["half"] in halves]
    gibberish, good = ([bool(ENGLISH.faults(case["text"])) for case in of_halves if case["gibberish"] is is_gibberish]
                       for is_gibberish in (True, False))  # fmt: skip
    assert len(good) == 2 * len(gibberish)
    assert sum(gibberish) / len(gibberish) >= refused
    assert sum(good) / len(good) <= lost


def test_the_labelled_halves_are_of_one_size() -> None:
    assert [sum(case["half"] == half for case in CASES) for half in ("dev", "held_out", "held_out_2")] == [60] * 3
    assert len({case["text"] for case in CASES}) == len(CASES)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Your contract is with our fking team.", "fking is no word"),
        ("Your bill is w lower.", "w is no word"),
        ("no effort is needed.", "begins with a small letter: no"),
        ("We answer Your questions.", "a capital within a sentence: Your"),
        ("It is nHIN.", "nhin is no word"),
        ("We will help you with your.", "ends in: your"),
        ("A contract should.", "ends in: should"),
        ("We hope hope that you are well.", "twice: hope"),
        ("Please tell us what we can do what we can do.", "twice: what we can do"),
        ("We are glad. You are well. We are glad.", "twice: we are glad"),
        ("For {months} you pay less. You pay less for {months}.", "twice: {months}"),
        ("Reply YES and we will answer YES.", "twice: YES"),
        ("Thank you for your we are glad.", "no pair of words: your we"),
        ("Your plan should fair to you.", "the verb is wrong: plan should fair"),
        ("You need to might call us.", "the verb is wrong: need to might"),
        ("We would like to your bill.", "the verb is wrong: like to your"),
        ("We be glad to help.", "the verb is wrong: we be"),
        ("We have listen to you.", "the verb is wrong: we have listen"),
        ("You would like know it.", "the verb is wrong: would like know"),
        ("You can reach us know it.", "the verb is wrong: reach us know"),
        ("We know a chose us.", "the verb is wrong: know a chose"),
        ("This is how you want you need us.", "twice: you want you"),
        ("Your service are here.", "one and many: your service are"),
        ("A discount on your charge is yours can be lower.", "two verbs of one clause: is yours can"),
    ],
)
def test_each_rule_names_what_is_wrong(text: str, fault: str) -> None:
    assert fault in ENGLISH.faults(text)


@pytest.mark.parametrize(
    "text",
    [
        "As we should, we check last month's bill; it works as it should.",
        "All you need to do is reply YES.",
        "What you pay is fair, and the plan that you chose can be changed.",
        "Would a lower bill help? We hope it would.",
        "We will gladly let you know, and you’ll see that it’s easy.",
        "Thank you for your well-known loyalty. Wi-Fi and TV stay as they are from Monday on.",
        "Our team are happy to help.",
        "",
        "{offer} off for {months}.",
    ],
)
def test_english_has_no_fault(text: str) -> None:
    assert ENGLISH.faults(text) == []


def test_the_templates_are_english() -> None:
    assert [
        (entry.text, faults) for entry in template_bank((0, 10)).entries if (faults := ENGLISH.faults(entry.text))
    ] == []


def test_without_its_lists_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    english._counts.cache_clear()
    monkeypatch.setattr(english, "PACKAGE", "no_such_package_at_all")
    with pytest.raises(RetainError, match="no_such_package_at_all is not installed: `make setup` installs it"):
        english.English(WORDS.english)
    monkeypatch.undo()
    monkeypatch.setattr(english, "_package", lambda: tmp_path)
    with pytest.raises(
        RetainError, match=r"frequency_dictionary_en_82_765.txt: can't be read .* install symspellpy again"
    ):
        english.English(WORDS.english)
