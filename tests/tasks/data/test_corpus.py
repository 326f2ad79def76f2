"""What every file of text goes through: broken lines, cleaning, duplicates, split and cap."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from engine.errors import DataError
from engine.stage import Workspace
from tasks.config import DialoguesConfig
from tasks.data import corpus, dialogues, synthetic_text
from tests.tasks.data.texts import Made, make, pairs, text_config, write

Workspaces = Callable[..., Workspace]


@pytest.fixture
def made(tmp_path: Path, workspace: Workspaces) -> Callable[..., Made]:
    """dialogues of files of records or bytes."""

    def run(*files: object, seed: int = 42, datasets: tuple[str, ...] = (), **changes: object) -> Made:
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        inputs = write(root / "source", *files)  # type: ignore[arg-type]
        config = text_config(DialoguesConfig, *(datasets or ["OASST1"] * len(files)), **changes)
        return make(dialogues.run, config, inputs, workspace(root / "out", seed=seed))

    return run


def test_equal_runs_make_equal_bytes_and_another_seed_another_split(made: Callable[..., Made]) -> None:
    first, again, other = made(pairs(800)), made(pairs(800)), made(pairs(800), seed=7)
    for name in ("pairs.parquet", "catalog.json", "curves.parquet"):
        assert (first.folder / name).read_bytes() == (again.folder / name).read_bytes()
    parts = [{row["prompt"]: row["split"] for row in found.rows} for found in (first, other)]
    assert parts[0].keys() == parts[1].keys()
    assert parts[0] != parts[1]


def test_parts_have_their_shares_and_a_row_stays_in_its_part_when_others_come(made: Callable[..., Made]) -> None:
    few, many = (made(pairs(rows), max_rows=10000) for rows in (3000, 10000))
    assert 0.55 < many.metrics["pairs_train"] / 10000 < 0.65
    assert 0.15 < many.metrics["pairs_test"] / 10000 < 0.25
    after = {row["id"]: row["split"] for row in many.rows}
    assert all(after[row["id"]] == row["split"] for row in few.rows)


def test_a_prompt_is_in_one_part_however_it_is_written(made: Callable[..., Made]) -> None:
    records = [
        {"prompt": written, "response": f"{k} {written}"}
        for k in range(60)
        for written in (f"Why {k}?", f"  why  {k}? ", f"WHY {k}?", f"why\t{k}?\r\n")
    ]
    parts: dict[str, set[str]] = {}
    for row in made(records).rows:
        parts.setdefault(corpus.normalised(row["prompt"]), set()).add(row["split"])
    assert len(parts) == 60
    assert {len(found) for found in parts.values()} == {1}


def test_ready_pairs_that_stand_together_share_a_part(made: Callable[..., Made]) -> None:
    """A follow-up stands behind what it follows, and its words don't tell which conversation it is of."""
    parts = {row["prompt"]: row["split"] for row in made(pairs(1600), max_rows=1600).rows}
    in_order = [parts[record["prompt"]] for record in pairs(1600)]
    apart = sum(here != there for here, there in pairwise(in_order))
    assert 20 < apart < 100  # of 99 places where a block ends and the next begins


def test_a_prompt_of_two_conversations_belongs_to_the_first(made: Callable[..., Made]) -> None:
    turns = [[["user", f"start {k}"], ["system", "a"], ["user", "b"], ["system", "c"]] for k in range(60)]
    # the third turn's context begins after the first: the same words in every dialogue
    longer = [
        [*t, ["user", "d"], ["system", f"e {k}"], ["user", "f"], ["system", f"g {k}"]] for k, t in enumerate(turns)
    ]
    found = made([{"turns": t} for t in longer], datasets=("SGD",))
    parts: dict[str, set[str]] = {}
    for row in found.rows:
        parts.setdefault(row["prompt"], set()).add(row["split"])
    assert {len(part) for part in parts.values()} == {1}
    assert found.dropped["prompt_of_another_part"] > 0


def test_equal_pairs_are_kept_once(made: Callable[..., Made]) -> None:
    found = made([*pairs(100), *pairs(40), {"prompt": " question 1?\0", "response": "answer 1.\r\n"}])
    assert len(found.rows) == 100
    assert found.dropped == {"duplicate": 41}
    assert found.metrics["dropped_duplicate"] == 41


def test_empty_and_over_long_ones_are_left_out_and_counted(made: Callable[..., Made]) -> None:
    strange = [
        {"prompt": "", "response": "a"},
        {"prompt": "a", "response": " \n\0 "},
        {"prompt": "a" * 200, "response": "b" * 101},
        {"prompt": "a" * 200, "response": "b" * 100},
    ]
    found = made([*pairs(100), *strange])
    assert found.dropped == {"empty": 2, "over_long": 1}
    assert found.catalog["files"][0] | {"sha256": ""} == {
        "name": "file.jsonl",
        "dataset": "OASST1",
        "url": None,
        "licence": "none",
        "sha256": "",
        "published": None,
        "records": 104,
        "broken": 0,
        "broken_lines": [],
        "dropped": {"empty": 2, "over_long": 1},
        "used": 101,
    }


def test_control_characters_and_halves_of_characters_go(made: Callable[..., Made]) -> None:
    line = rb'{"prompt": "a\u0000b\ud800c\u001b[1m", "response": "x\r\ny\u2028z\tw"}'
    found = made(b"".join(json.dumps(pair).encode() + b"\n" for pair in pairs(99)) + line)
    (row,) = [row for row in found.rows if row["prompt"].startswith("ab")]
    assert (row["prompt"], row["response"]) == ("abc[1m", "x\ny\nz\tw")


BROKEN = {
    b'{"prompt": "half': "not JSON",
    b"[1, 2]": "no JSON object",
    b'{"prompt": 7, "response": "a"}': "'prompt' is no text",
    b'{"title": "another", "body": "file"}': "neither message nor pair nor dialogue: has body, title",
    b'{"\\u001b[31m' + b"k" * 200_000 + b'": 1, "ok": 2}': "nor dialogue: has '\\x1b[31mkkkkkkkkkkkkkkk', ok",
    b'{"prompt": "caf\xe9", "response": "a"}': "not UTF-8",
    b"[" * 100_000: "nested too deep",
    b'{"turns": "none"}': "'turns' is no list",
    b'{"turns": [["user", 1], ["system", "b"]]}': "a turn is no [speaker, text]",
    b'{"message_id": "1", "role": "robot"}': "role 'robot' is neither prompter nor assistant",
}


@pytest.mark.parametrize(("line", "cause"), BROKEN.items(), ids=list(BROKEN.values()))
def test_a_few_broken_lines_are_counted_and_named_and_many_are_an_error(
    line: bytes, cause: str, made: Callable[..., Made]
) -> None:
    good = [json.dumps(pair).encode() for pair in pairs(100)]
    found = made(b"\n".join([*good[:50], line, b"", *good[50:], line]))
    assert len(found.rows) == 100
    assert found.metrics["broken"] == 2
    assert found.catalog["files"][0]["broken_lines"] == [51, 103]
    with pytest.raises(DataError) as raised:
        made(b"\n".join([*good, *[line] * 12]))
    message = str(raised.value)
    assert message.startswith("file.jsonl: 12 of 112 lines are no record (lines 101, 102, 103, 104, 105, ...: ")
    assert cause in message
    assert "more than max_broken 0.1" in message
    assert "\n" not in message


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32-le"])
def test_another_encoding_is_an_error_that_says_so(encoding: str, made: Callable[..., Made]) -> None:
    with pytest.raises(DataError, match=r"file\.jsonl: .* lines are no record .*not (UTF-8|JSON)"):
        made("\n".join(json.dumps(pair) for pair in pairs(100)).encode(encoding))


def test_a_huge_line_is_one_broken_line(made: Callable[..., Made], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "LONGEST_LINE", 100)
    lines = [json.dumps(pair).encode() for pair in pairs(99)]
    huge = b'{"prompt": "' + b"x" * 950 + b'", "response": "y"}'
    found = made(b"\n".join([*lines[:50], huge, *lines[50:60], b"no record", *lines[60:], huge]))
    assert found.catalog["files"][0]["broken_lines"] == [51, 62, 102]
    assert found.metrics["records"] == 99
    assert len(found.rows) == 99


def test_a_byte_order_mark_and_windows_line_ends_are_no_harm(made: Callable[..., Made]) -> None:
    found = made("\r\n".join(json.dumps(pair) for pair in pairs(100)).encode("utf-8-sig"))
    assert (len(found.rows), found.metrics["broken"]) == (100, 0)


@pytest.mark.parametrize("content", [b"", b"\n\n \n"])
def test_an_empty_file_is_an_error(content: bytes, made: Callable[..., Made]) -> None:
    with pytest.raises(DataError, match=r"file\.jsonl: the file is empty"):
        made(content)


def test_too_few_pairs_for_three_parts_are_an_error(made: Callable[..., Made]) -> None:
    with pytest.raises(DataError, match=r"file\.jsonl: of 1 usable pairs none is in the part"):
        made(pairs(1))


def test_the_cap_is_a_seeded_sample_with_equal_shares_of_the_datasets(made: Callable[..., Made]) -> None:
    files = (pairs(500), pairs(60, 1000), pairs(500, 2000))
    datasets = ("OASST1", "HH-RLHF", "SGD")
    found = made(*files, datasets=datasets, max_rows=300)
    assert Counter(row["source"] for row in found.rows) == {"OASST1": 120, "HH-RLHF": 60, "SGD": 120}
    assert found.metrics["over_cap"] == 760
    assert [file["used"] for file in found.catalog["files"]] == [120, 60, 120]
    # no first rows of a file, and another sample for another seed
    numbers = {int(row["prompt"][9:-1]) for row in found.rows if row["source"] == "OASST1"}
    assert max(numbers) > 400
    other = made(*files, datasets=datasets, max_rows=300, seed=1)
    assert {row["id"] for row in other.rows} != {row["id"] for row in found.rows}
    # in an order of chance: the datasets are mixed
    assert len({row["source"] for row in found.rows[:30]}) == 3


def test_files_that_are_not_there_are_in_the_catalog(tmp_path: Path, workspace: Workspaces) -> None:
    inputs = write(tmp_path / "source", pairs(100))
    config = text_config(DialoguesConfig, "OASST1", "SGD")
    found = make(dialogues.run, config, inputs, workspace(tmp_path / "out"))
    assert found.catalog["missing"] == ["file-1.jsonl"]
    assert found.catalog["synthetic"] is False


def test_lengths_are_counted(made: Callable[..., Made]) -> None:
    found = made(pairs(100))
    curves = pq.read_table(found.folder / "curves.parquet").to_pylist()
    assert sum(row["y"] for row in curves if row["curve"] == "prompt_characters") == 100
    assert sum(row["y"] for row in curves if row["curve"] == "response_characters") == 100


def test_made_up_dialogues_say_so(tmp_path: Path, workspace: Workspaces) -> None:
    config = text_config(DialoguesConfig, "OASST1", max_rows=5000)
    found = make(dialogues.run, config, {}, workspace(tmp_path))
    assert found.catalog["synthetic"] is True
    assert found.catalog["generator"] == synthetic_text.GENERATOR_VERSION
    assert {row["source"] for row in found.rows} == {"synthetic"}
    assert len(found.rows) > 1000
    # varied: no prompt or reply makes up much of it, and nothing is left unfilled
    assert Counter(row["response"] for row in found.rows).most_common(1)[0][1] < 20
    assert not [row for row in found.rows if "{" in row["prompt"] + row["response"]]


def test_made_up_text_is_seeded() -> None:
    assert synthetic_text.dialogues(1) == synthetic_text.dialogues(1) != synthetic_text.dialogues(2)
    assert synthetic_text.preferences(1) == synthetic_text.preferences(1) != synthetic_text.preferences(2)
    assert all(chosen != rejected for _, chosen, rejected in synthetic_text.preferences(3))
