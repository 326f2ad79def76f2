"""Reading ease on texts of which it is known."""

from __future__ import annotations

import pytest

from tasks.rlhf.judging.rule_judge.readability import reading_ease, syllables


@pytest.mark.parametrize(
    ("word", "count"),
    [
        ("bill", 1),
        ("charge", 1),
        ("table", 2),
        ("monthly", 2),
        ("thanked", 1),
        ("wanted", 2),
        ("customer", 3),
        ("a", 1),
        ("10", 2),
    ],
)
def test_syllables_of_common_words(word: str, count: int) -> None:
    assert syllables(word) == count


def test_syllables_are_those_of_a_dictionary() -> None:
    known = {"the": 1, "people": 2, "monthly": 2, "service": 2, "discount": 2, "offered": 2, "reply": 2, "technical": 3,
             "situation": 4, "area": 3, "created": 3, "idea": 3, "flexible": 3, "bills": 1, "changes": 2}  # fmt: skip
    right = sum(syllables(word) == count for word, count in known.items())
    assert right >= len(known) - 3


def test_flesch_by_hand() -> None:
    # Six words of one syllable in two sentences.
    assert reading_ease("The cat sat. It was fat.") == pytest.approx(206.835 - 1.015 * 3 - 84.6)


def test_long_words_and_sentences_are_harder() -> None:
    easy = reading_ease("We can help you. Please call us.")
    hard = reading_ease(
        "Considerable administrative complications necessitate telephonic clarification of obligations."
    )
    assert easy > 80 > 0 > hard


def test_a_text_without_words_has_none() -> None:
    assert reading_ease("") == reading_ease("?! %") == 0.0
