"""What may stand in a column of names: names, and whatever else somebody has put there."""

from __future__ import annotations

import re

from hypothesis import strategies as st

from retain.rules import with_pieces
from tests.words import WORDS

# Each is refused as a name.
BAD_NAMES = (
    "<b>Ann</b>", "A" * 200, "https://x.example/a", "ann.example", "\U0001f1fa\U0001f1f8", "\u202eAnn", "A\u200bnn",
    "Idiot", "Free", "50% off", "Fifty", "{offer}", "Ann\nB", "Ann; DROP TABLE", "", " ", "\u0410nn", "Hurry", "W W W",
    "Ann {months}", "twenty", "12", "Percent", "Twenty Percent Off", "Never", "Last Chance", "A B C D E F", "\ud800",
    "you silly clown", "Call Bob instead please", "Vodafone is better", "Ten Percent", "You Silly", "Pay Now", "Stop",
    "ann", "Mary Ann Smith", "W W", "Old Woman", "Ann B C D E", "Ann1", "A" * 41, "\u738b\u4f1f", "Ann.",
    # cut by hyphens, capitals and what surnames begin with
    "Fu-Ck", "Id-Iot", "Hur-Ry", "Guaran-Teed", "Fr-Ee", "Chur-N", "Fu Ck", "Ten-Ten", "Fif-Ty", "FreeGift", "WinCash",
    "PayNow", "CallNow", "FREEGIFT", "Freegift", "McFree", "Mcfree", "McStupid", "O'Idiot", "DeCash", "BitLy", "Dotcom",
    "aNN", "AnN",
    # words
    "Nigger", "Kike", "Faggot", "Cunt Face", "Wanker", "Whore", "Retard", "Nazi", "Adolf Hitler", "Scam Alert",
    "Fraud Victim", "Slow Payer", "Debtor", "Thief", "Criminal", "Lawsuit", "Deceased", "Visit Amazon", "Jackpot",
    "Congratulations Winner", "Gratis", "Null", "Unknown", "Customer", "Test",
)  # fmt: skip


def _spoken() -> list[str]:
    """The plain words of the rules' own patterns and of what is no name."""
    rules, names = WORDS.rules, WORDS.guard.names
    entries = [entry for entries in (*rules.words.values(), rules.discounts, rules.fractions) for entry in entries]
    entries = [with_pieces(entry, rules.pieces) for entry in (*entries, *rules.durations)]
    letters = {word for entry in entries for word in re.findall(r"(?<![\\a-z])[a-z]{2,}", entry)}
    return sorted(letters | {*names.ordinary.split(), *names.no_names.split()})


SPOKEN = _spoken()
_PREFIXES = ("", "Mc", "Mac", "O'", "D'", "De", "La", "Van ", "van ", "al-", "O\u2019")
_MARKS = ("<i>", "</b>", "&amp;", "http://", "www.", ".com", "\u200b", "\u200d", "\u202e", "\U0001f1fa\U0001f1f8", "%",
          "{offer}", "{name}", "\n", "\u0301", "\u0430", "!", "10%", "@", ";")  # fmt: skip


@st.composite
def _dressed(draw: st.DrawFn) -> str:
    """Some words, each in some case, after a prefix, cut in two or not."""
    said = []
    for word in draw(
        st.lists(st.sampled_from(SPOKEN) | st.sampled_from(["ann", "bob", "lee"]), min_size=1, max_size=3)
    ):
        at = draw(st.integers(1, len(word) - 1)) if len(word) > 1 else 0
        cut = draw(st.sampled_from(["", "", "-", "'", " "]))
        first, rest = word[:at], word[at:]
        form = draw(st.sampled_from(["Word", "WORD", "word", "CamelCase"]))
        if form in ("Word", "CamelCase"):
            first = first[:1].upper() + first[1:]
        if cut or form == "CamelCase":
            rest = rest[:1].upper() + rest[1:]
        whole = f"{first}{cut}{rest}"
        said.append(draw(st.sampled_from(_PREFIXES)) + (whole.upper() if form == "WORD" else whole))
    return draw(st.sampled_from([" ", " ", "", "-"])).join(said)


def names() -> st.SearchStrategy[str]:
    marked = st.tuples(_dressed(), st.sampled_from(_MARKS), st.booleans()).map(
        lambda drawn: drawn[1] + drawn[0] if drawn[2] else drawn[0] + drawn[1]
    )
    return _dressed() | marked | st.sampled_from(BAD_NAMES) | st.text(max_size=200) | st.text("ABab' -", max_size=20)
