"""The rule judge against pairs written for it, and that it stands on its own."""

from __future__ import annotations

import ast
import copy
import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tasks.ranking import auc
from tasks.rlhf.judging.rule_judge import frozen
from tasks.rlhf.judging.rule_judge.amounts import read_amounts
from tasks.rlhf.judging.rule_judge.matching import matches as matches_word
from tasks.rlhf.judging.rule_judge.parsing import parse
from tasks.rlhf.judging.rule_judge.scoring import COMPONENTS, RuleJudge
from tests.retain.message_cases import CASES
from tests.words import CUES, RULE_JUDGE

ROOT = Path(__file__).parents[4]
MODULES = sorted(frozen.PACKAGE.glob("*.py"))
score, components = RULE_JUDGE.score, RULE_JUDGE.components
# Where the training pairs come from, and what the service says and refuses. Of the rules' patterns only what stands
# there word for word is compared, of an alternation nothing: docs/WORDS.md says how many cues they refuse.
OTHERS = [
    "tasks/rlhf/retention/domain.py",
    "tasks/rlhf/retention/customers.py",
    "tasks/rlhf/retention/tables.py",
    "ops/messages/phrases.yaml",
    "ops/messages/templates.yaml",
    "tasks/rlhf/prompts.py",
    "retain/message.py",
    "retain/names.py",
    "retain/rules.py",
]

# Written by hand for this test: which of two messages is better, and by what kind of difference.
PAIRS = [json.loads(line) for line in Path(__file__).with_name("rule_judge_pairs.jsonl").read_text().splitlines()]
PROMPT = "Please write a few lines to a subscriber who has been here for 14 months and pays 74.20 a month."
MONTHS = 3

GOOD = "Hello, we know your bill is high, so we can take 20% off it for three months. Would that suit you? Just reply."


def better(pair: dict[str, Any]) -> bool:
    offer, situation = pair["offer"], pair["situation"]
    return score(PROMPT, pair["better"], offer, situation, MONTHS) > score(
        PROMPT, pair["worse"], offer, situation, MONTHS
    )


def test_it_prefers_the_better_of_pairs_written_by_hand() -> None:
    wrong = [pair for pair in PAIRS if not better(pair)]
    asked, missed = Counter(pair["kind"] for pair in PAIRS), Counter(pair["kind"] for pair in wrong)
    print({kind: f"{asked[kind] - missed[kind]}/{asked[kind]}" for kind in asked})
    assert len(PAIRS) >= 60
    assert 1 - len(wrong) / len(PAIRS) >= 0.9, wrong


def test_no_kind_of_difference_is_missed_altogether() -> None:
    kinds = {pair["kind"] for pair in PAIRS}
    assert kinds == {pair["kind"] for pair in PAIRS if better(pair)}


def test_two_decent_messages_seldom_tie() -> None:
    scores = [score(PROMPT, pair["better"], pair["offer"], pair["situation"], MONTHS) for pair in PAIRS]
    assert len(set(scores)) == len(scores)


def test_no_agreeable_word_makes_up_for_an_unsafe_one() -> None:
    plain = "Your bill is 20% lower for three months. Please reply."
    for unsafe in (
        "Only fools pay more.",
        "It is guaranteed forever.",
        "Hurry, it expires at midnight.",
        "Or 40% off.",
    ):
        said = f"Hello and thank you! We care about your budget and your costs. {GOOD} {unsafe} Please tell us."
        assert score(PROMPT, said, 20, "price", MONTHS) < score(PROMPT, plain, 20, "price", MONTHS), unsafe


def test_it_prefers_safe_messages_to_unsafe_ones_of_another_hand() -> None:
    """Those of tests/retain/message_cases.py, half of them safe ones that look dangerous. For a message of part
    `held_out` no word was added here."""
    for part in ("dev", "held_out"):
        scores: dict[bool, list[float]] = {True: [], False: []}
        for case in CASES:
            if case.part == part:
                scores[case.unsafe].append(score("", case.text, case.offer, "default", case.months or MONTHS))
        found = auc(np.array(scores[False]), np.array(scores[True]))
        print(f"{part}: AUC {found:.3f}")
        assert found >= 0.75


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("10 or 20 percent", [(10, "percent"), (20, "percent")]),
        ("ten to fifteen per cent", [(10, "percent"), (15, "percent")]),
        ("one hundred per cent", [(100, "percent")]),
        ("twenty-five pct", [(25, "percent")]),
        ("10,5 % and 1,000 dollars", [(10.5, "percent"), (1000, "money")]),
        ("１０％ or ½ off", [(10, "percent"), (50, "percent")]),
        (
            "half price, a fifth off, two thirds off",
            [(50, "percent"), (20, "percent"), (pytest.approx(200 / 3), "percent")],
        ),
        ("20 off", [(20, "percent")]),
        ("1\u200b0%", [(10, "percent")]),
        ("$5 and 7.50 euros", [(5, "money"), (7.5, "money")]),
        ("a 3-month break, then for a year", [(3, "months"), (12, "months")]),
        ("three weeks", [(21, "days")]),
        ("24/7, one of us, 70 a month, half an hour", []),
    ],
)
def test_amounts_are_read_in_digits_and_words(text: str, found: list[tuple[float, str]]) -> None:
    amounts = read_amounts(parse(text).tokens, RULE_JUDGE.cues.sets.reduction)
    assert [(amount.value, amount.kind) for amount in amounts] == found


def test_numbers_of_the_prompt_are_no_promise() -> None:
    said = "You have been here for 14 months. We can take 20% off for three months."
    assert components(PROMPT, said, 20, "price", MONTHS)["term"] == 1
    stays = said.replace("have been here", "stay")
    assert components("Write to a customer.", stays, 20, "price", MONTHS)["term"] < 0


def test_there_is_nothing_to_say_of_the_duration_of_no_offer() -> None:
    assert components(PROMPT, "We are here for three months. Please reply.", 0, "price", MONTHS)["term"] == 0


def test_components_are_those_of_the_rules_and_bounded() -> None:
    texts = [
        "",
        " ",
        "?",
        "A",
        "%%%",
        "10%",
        "\u200b",
        "word " * 500,
        "!" * 50,
        GOOD,
        GOOD * 30,
        "http://a.b 0123456789 \U0001f389",
    ]
    for text in texts + [pair["worse"] for pair in PAIRS]:
        found = components(PROMPT, text, 20, "price", MONTHS)
        assert list(found) == list(COMPONENTS)
        assert all(-1 <= value <= 1 for value in found.values()), (text, found)


def test_an_empty_reply_is_worse_than_any_decent_one() -> None:
    assert score(PROMPT, "", 20, "price", MONTHS) < score(PROMPT, "20% off. Reply.", 20, "price", MONTHS)


def test_an_unknown_situation_is_refused() -> None:
    with pytest.raises(ValueError, match="'weather'"):
        components(PROMPT, GOOD, 20, "weather", MONTHS)


def test_it_imports_the_standard_library_and_itself_alone() -> None:
    imported = set()
    for node in (node for module in MODULES for node in ast.walk(ast.parse(module.read_text()))):
        if isinstance(node, ast.Import):
            imported |= {name.name for name in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(str(node.module))
    others = {name for name in imported if name.split(".")[0] not in sys.stdlib_module_names}
    assert {name for name in others if not f"{name}.".startswith("tasks.rlhf.judging.rule_judge.")} == set()


@pytest.mark.parametrize("other", OTHERS)
def test_no_cue_of_several_words_stands_in_what_it_judges(other: str) -> None:
    said = runs(other)
    shared = [cue for cue in cues() if " " in cue and any(matches(run, cue) for run in said[len(cue.split())])]
    assert not shared


@pytest.mark.parametrize("other", OTHERS)
def test_no_pattern_of_several_words_stands_in_what_it_judges(other: str) -> None:
    """Runs of two words in the regular expressions, which are no cues."""
    said = runs(other)[2]
    written = [text for module in MODULES for text in strings(str(module)) if "\\b" in text]
    patterns = {run for text in written for run in words_in_a_row(text, 2)}
    assert ("language", "model") in patterns
    assert {("as", "an")} >= patterns & said  # "as an AI": what a language model says of itself


def test_the_comparison_finds_what_is_shared(tmp_path: Path) -> None:
    assert len([cue for cue in cues() if " " in cue]) > 150
    cue = next(cue for cue in cues() if cue.count(" ") == 1 and "*" not in cue)
    (tmp_path / "other.py").write_text(f'"""{cue}"""\nLINE = "Well, {cue.title()} it is."\nNONE = "nothing of it"')
    said = runs(str(tmp_path / "other.py"))
    assert any(matches(run, cue) for run in said[2])
    assert matches(("offers", "ending"), "offer* ending")
    assert not matches(("my", "offer"), "offer")


def test_harm_is_told_from_harmless_messages_written_by_hand() -> None:
    harmful = {"amount", "gift", "guarantee", "pressure", "threat", "link", "identifier", "risk talk", "protected",
               "insult", "characters"}  # fmt: skip
    bad = [harms(pair, "worse") for pair in PAIRS if pair["kind"] in harmful]
    good = [harms(pair, "better") for pair in PAIRS]
    assert len(bad) >= 28
    assert all(bad)
    assert sum(map(bool, good)) <= 2


def harms(pair: dict[str, Any], which: str) -> list[str]:
    return RULE_JUDGE.harms(PROMPT, pair[which], pair["offer"], pair["situation"], MONTHS)


def test_the_digest_is_of_the_code_of_every_module_without_its_comments(tmp_path: Path) -> None:
    package = tmp_path / "rule_judge"
    shutil.copytree(frozen.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    assert frozen.digest(CUES, package) == frozen.digest(CUES)
    for module in package.glob("*.py"):
        code = module.read_text()
        module.write_text(f"# a comment\n{code}")
        assert frozen.digest(CUES, package) == frozen.digest(CUES)
        module.write_text(f"{code}\nFURTHER = 1\n")
        assert frozen.digest(CUES, package) != frozen.digest(CUES), module.name
        module.write_text(code)
    (package / "more.py").write_text("")
    assert frozen.digest(CUES, package) != frozen.digest(CUES)


def test_the_digest_is_of_every_list_but_not_of_the_order_of_keys(tmp_path: Path) -> None:
    assert frozen.digest(backwards(CUES)) == frozen.digest(CUES)
    without_code = frozen.digest(CUES, tmp_path)
    for path in leaves(CUES):
        changed = copy.deepcopy(CUES)
        *above, last = path
        node: Any = changed
        for key in above:
            node = node[key]
        node[last] = f"{node[last]}, more" if isinstance(node[last], str) else node[last] / 2
        assert frozen.digest(changed, tmp_path) != without_code, path


def test_no_key_s_place_changes_a_score() -> None:
    """The experiment's digest and the fingerprint don't see the order of keys, so no score may depend on it."""
    other = RuleJudge.from_lists(backwards(CUES))
    for pair in PAIRS:
        about = (PROMPT, pair["worse"], pair["offer"], pair["situation"], MONTHS)
        assert other.components(*about) == components(*about)


def backwards(node: Any) -> Any:
    return {key: backwards(node[key]) for key in reversed(node)} if isinstance(node, dict) else node


def leaves(node: Any) -> list[tuple[Any, ...]]:
    """The path of every value that is no mapping and no list."""
    if not isinstance(node, dict | list):
        return [()]
    items = node.items() if isinstance(node, dict) else enumerate(node)
    return [(key, *path) for key, value in items for path in leaves(value)]


def source(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text())


def cues() -> set[str]:
    """Of every list of weighted cues."""
    compiled = RULE_JUDGE.cues
    lists = [*(harm.cues for harm in compiled.harm.values()), compiled.courtesy, compiled.invitation]
    return {cue for listed in (*lists, *compiled.topics.values()) for cue in listed}


def matches(run: tuple[str, ...], cue: str) -> bool:
    parts = cue.split()
    return len(run) == len(parts) and all(map(matches_word, run, parts))


def runs(path: str) -> dict[int, set[tuple[str, ...]]]:
    """Every two, three and four words in a row of a file's strings."""
    return {n: {run for text in strings(path) for run in words_in_a_row(text, n)} for n in (2, 3, 4)}


def words_in_a_row(text: str, n: int) -> set[tuple[str, ...]]:
    """Runs end at punctuation; a regular expression's letters that stand for something (\\b, a-z) are no words."""
    found: set[tuple[str, ...]] = set()
    plain = re.sub(r"\\[a-z]|\ba-z", "|", text.lower().replace("\\s", " ").replace("’", "'"))
    for part in re.split(r"[^a-z'\s-]", plain):
        words = re.findall(r"[a-z']+", part)
        found |= set(zip(*(words[at:] for at in range(n))))
    return found


def strings(path: str) -> list[str]:
    """A file's strings, documentation apart."""
    if path.endswith(".yaml"):
        return list(texts(yaml.safe_load((ROOT / path).read_text())))
    tree = source(path)
    documented = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documented
    ]


def texts(node: Any) -> Iterator[str]:
    """Every text in a mapping or list, keys apart."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict | list):
        for value in node.values() if isinstance(node, dict) else node:
            yield from texts(value)
