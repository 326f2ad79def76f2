"""What the learned arm says with each offer: which texts the worker takes over, and which it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import uvloop

from retain.message import SITUATIONS, Bank
from retain.release import Release, load
from serve.learned import Wish
from serve.spoken import NO_BANKS, Row, Spoken, judged, ranked_first, table, without_withdrawn
from serve.wire import ROWS
from tests.releases import approved, bank, dataset, inputs, policy, rows, run_stage, standing
from tests.serve.arms import InProcessArm

TELCO = dataset("telco")
ROW = rows(TELCO, 1, seed=7)[0]
CELL = ("price", 10)
UNSAFE = "We predict you will leave us. Take {offer} off for {months}, or your contract ends today. Reply YES."


def received(release: Release, **changes: Any) -> list[Row]:
    """The table as it comes over, with changes of what is said in CELL."""
    content = orjson.loads(orjson.dumps(table(release)))
    for row in content:
        if (row["situation"], row["offer"]) == CELL:
            row["said"] |= changes
    rows: list[Row] = ROWS.validate_python(content)
    return rows


def of_cell(release: Release, own: bool = True, **changes: Any) -> Spoken:
    return judged(received(release, **changes), release, release.verdicts, release if own else None)[CELL]


def test_it_is_what_the_release_says_with_its_amounts(release: Release) -> None:
    cells = judged(received(release), release, release.verdicts, release)
    assert set(cells) == {(situation, offer) for situation in SITUATIONS for offer in release.terms.offers.levels}
    for (situation, offer), spoken in cells.items():
        entry = release.entry("learned", situation, offer)
        assert entry is not None
        assert spoken.said is not None
        assert spoken.said.entry == entry
        assert "{" not in spoken.said.text
        assert (f"{offer}%" in spoken.said.text) == (offer > 0)
        assert spoken.said.tokens == entry.tokens


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"text": UNSAFE, "source": "template"}, "a message that the guard refuses: "),
        ({"text": "Take {offer} off for {years} if you stay with us. Reply YES.", "source": "template"}, "slot"),
        ({"offer": 20}, "a message for an offer of 20 % with one of 10 %"),
        ({"text": "Take {offer} off your charge for {months} if you like. Reply YES."}, "that nobody approved"),
    ],
)
def test_a_text_that_may_not_be_sent_is_refused_with_the_reason(
    release: Release, changes: dict[str, Any], says: str
) -> None:
    spoken = of_cell(release, **changes)
    assert spoken.said is None
    assert says in spoken.refused


def test_the_worker_s_own_release_says_nothing_that_the_worker_does_not_find_there(release: Release) -> None:
    """Neither a sentence that calls itself a template, nor a text of another place, of a bank that isn't shown, or of
    another source. What another release says is put on record."""
    shadow_only = standing(release, "sft", "shadow_only", "sft.training_loss")
    elsewhere, sft = release.entry("learned", "support", 10), release.entry("sft", *CELL)
    assert elsewhere is not None
    assert sft is not None
    invented = {"text": "Take {offer} off your charge for {months} if you like. Reply YES.", "source": "template"}
    for here, changes in (
        (release, invented),
        (release, elsewhere.as_dict()),
        (release, {"source": "sft"}),
        (shadow_only, sft.as_dict()),
    ):
        spoken = of_cell(here, **changes)
        assert spoken.said is None
        assert spoken.refused == "a message that the release doesn't say there"
        said = of_cell(here, own=False, **changes).said
        assert said is not None
        assert said.source == changes.get("source", "rlhf")


def test_a_rejected_text_is_refused_and_one_that_is_rejected_later_is_dropped(release: Release) -> None:
    entry = release.entry("learned", *CELL)
    assert entry is not None
    rejected = dict(release.verdicts) | {entry.text: "rejected"}
    assert judged(received(release), release, rejected, release)[CELL].refused != ""
    cells = judged(received(release), release, release.verdicts, release)
    left = without_withdrawn(cells, rejected)
    assert (left[CELL].said, left[CELL].refused, left[CELL].chosen) == (None, "", cells[CELL].chosen)
    for cell, spoken in cells.items():
        if spoken.said is not None and spoken.said.entry.text != entry.text:
            assert left[cell] == spoken


def test_a_table_has_each_cell_once(release: Release) -> None:
    rows = received(release)
    for wrong in (rows[1:], [*rows, rows[0]], [*rows[1:], rows[1]]):
        with pytest.raises(ValueError, match="one row for each situation and offer"):
            judged(wrong, release, release.verdicts, release)


@pytest.mark.parametrize("approved_too", [True, False])
def test_what_was_ranked_first_counts_though_the_guard_dropped_it(tmp_path: Path, approved_too: bool) -> None:
    given = inputs(tmp_path / "inputs", dataset("telco"), dataset("bank"))
    entry = next(entry for entry in bank("rlhf") if (entry["situation"], entry["offer"]) == CELL)
    best = {**entry, "text": UNSAFE, "score": 9.0}
    (given["messages"] / "rlhf.json").write_text(json.dumps([best, *bank("rlhf")]))
    out = run_stage(tmp_path, given)
    release = load({path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()})
    if approved_too:
        release = approved(release)
    first = ranked_first(release, *CELL)
    assert first is not None
    assert (first.text, first.score) == (UNSAFE, 9.0)
    spoken = of_cell(release)
    assert spoken.refused == ""
    assert spoken.said is not None
    assert spoken.said.source == ("rlhf" if approved_too else "template")
    assert spoken.chosen is not None
    assert "predict you will leave" in spoken.chosen.text
    assert spoken.chosen.breaks != ()
    assert not spoken.chosen.approved


def test_a_bank_that_lacks_the_situation_speaks_by_the_default_one(release: Release) -> None:
    default = [entry for entry in release.banks["rlhf"].entries if entry.situation == "default"]
    first = ranked_first(replace(release, banks={**release.banks, "rlhf": Bank(default)}), *CELL)
    assert first is not None
    assert (first.situation, first.source) == (
        "price",
        "sft",
    )  # as find() does: every bank before the default one
    banks = {name: found for name, found in release.banks.items() if name != "sft"}
    first = ranked_first(replace(release, banks={**banks, "rlhf": Bank(default)}), *CELL)
    assert first is not None
    assert (first.situation, first.source) == ("default", "rlhf")
    assert ranked_first(replace(release, banks={"template": release.banks["template"]}), *CELL) is None


def test_she_is_greeted_by_the_worker(tmp_path: Path) -> None:
    named = dataset("telco", named="first_name")
    out = run_stage(tmp_path, inputs(tmp_path / "inputs", named, dataset("bank")))
    release = approved(load({path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}))

    async def test() -> None:
        arm = InProcessArm("v1", release)
        await arm.start()
        greeted = 0
        for row in rows(named, 20, seed=7):
            assessment = release.assess(row)
            wish = await arm.ask(assessment, 0.0, 60.0)
            assert isinstance(wish, Wish)
            decision = release.decide(assessment, release.terms.new_wallet(), 1.0, "learned")
            message = arm.message(wish)
            assert message == release.message(assessment, decision)
            if wish.said is not None and message is not None:
                assert "Ann" not in message.text
                assert wish.offer is not None
                text = release.greeted(message.text, wish.offer, row)
                greeted += text == f"Hello Ann. {message.text}"
        assert greeted
        await arm.stop()

    uvloop.run(test())


def test_without_a_language_model_s_message_the_template_counts_as_chosen(release: Release) -> None:
    templates = replace(release, banks={"template": release.banks["template"]}, policy=policy(TELCO, 99.0, 20))

    async def test() -> None:
        for here, source in ((templates, "template"), (replace(release, policy=templates.policy), "rlhf")):
            arm = InProcessArm("v1", here)
            await arm.start()
            for row in rows(TELCO, 10, seed=7):
                wish = await arm.ask(release.assess(row), 0.0, 60.0)
                assert isinstance(wish, Wish)
                assert wish.said is not None
                assert (wish.said.source, wish.unsafe) == (source, False)
            await arm.stop()

    uvloop.run(test())
    assert Wish(20, "policy_contact", (), None, None, NO_BANKS, release.assess(ROW).case, 0.0, 0.0).unsafe is None
