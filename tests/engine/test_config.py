"""Experiments are read as they are meant, or refused with file, line, key, value and what is allowed."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine import config
from engine.config import (
    Resolved,
    argument,
    check_lock,
    check_restated,
    digest,
    experiment_path,
    load,
    lock_path,
    main,
    validate,
    write_lock,
)
from engine.errors import ConfigError

PROJECT = Path(__file__).resolve().parents[2]


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Split(Strict):
    train: float = Field(gt=0, lt=1)
    test: float = Field(gt=0, lt=1)

    @model_validator(mode="after")
    def _whole(self) -> Split:
        if abs(self.train + self.test - 1) > 1e-9:
            raise ValueError(f"train + test is {self.train + self.test:g}, and has to be 1")
        return self


class Risk(Strict):
    depth: int = Field(ge=1, le=10)
    rate: float = Field(gt=0)
    shuffle: bool
    kind: Literal["gbm", "linear"]
    columns: tuple[str, ...]
    split: Split


class Toy(Strict):
    tag: str
    risk: Risk


BASE = """\
tag: base
risk:
  depth: 3
  rate: 0.05
  shuffle: true
  kind: gbm
  columns: [age, tenure]
  split: {train: 0.7, test: 0.3}
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / f"experiment_{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(folder: Path, text: str) -> str:
    """The message that a Toy experiment with this text is refused with."""
    with pytest.raises(ConfigError) as caught:
        validate(load(write(folder, "base", text)), Toy)
    return str(caught.value)


def line_of(text: str, part: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if part in line)


def test_what_stands_there_is_what_the_model_gets(tmp_path: Path) -> None:
    toy = validate(load(write(tmp_path, "base", BASE)), Toy)
    assert toy == Toy(
        tag="base",
        risk=Risk(
            depth=3,
            rate=0.05,
            shuffle=True,
            kind="gbm",
            columns=("age", "tenure"),
            split=Split(train=0.7, test=0.3),
        ),
    )


# --- extends -----------------------------------------------------------------------------------------------------


def test_extends_merges_mappings_and_replaces_lists_and_scalars(tmp_path: Path) -> None:
    write(tmp_path, "base", BASE)
    child = load(
        write(
            tmp_path, "child", "extends: base\ntag: child\nrisk:\n  columns: [age]\n  split: {train: 0.6, test: 0.4}\n"
        )
    )
    assert child.data == {
        "tag": "child",
        "risk": {
            "depth": 3,
            "rate": 0.05,
            "shuffle": True,
            "kind": "gbm",
            "columns": ["age"],
            "split": {"train": 0.6, "test": 0.4},
        },
    }


def test_extends_a_child_of_a_child(tmp_path: Path) -> None:
    write(tmp_path, "base", BASE)
    write(tmp_path, "middle", "extends: base\ntag: middle\nrisk: {depth: 5, rate: 0.1}\n")
    last = load(write(tmp_path, "last", "extends: middle\ntag: last\nrisk: {depth: 7}\n"))
    assert (last.data["risk"]["depth"], last.data["risk"]["rate"], last.data["risk"]["kind"]) == (7, 0.1, "gbm")
    assert "extends" not in last.data


def test_a_mapping_and_a_scalar_replace_each_other(tmp_path: Path) -> None:
    write(tmp_path, "base", "tag: base\na: {b: 1}\nc: 2\n")
    child = load(write(tmp_path, "child", "extends: base\ntag: child\na: 3\nc: {d: 4}\n"))
    assert child.data == {"tag": "child", "a": 3, "c": {"d": 4}}


tree = st.recursive(
    st.one_of(st.integers(), st.booleans(), st.text("abc"), st.lists(st.integers(), max_size=3)),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=4),
)
mapping = st.dictionaries(st.sampled_from("abcd"), tree, max_size=4)


def at(data: Any, key: tuple[str, ...]) -> Any:
    for name in key:
        if not isinstance(data, dict) or name not in data:
            return KeyError
        data = data[name]
    return data


@given(base=mapping, over=mapping, key=st.lists(st.sampled_from("abcd"), min_size=1, max_size=4).map(tuple))
def test_merged_holds_the_childs_leaf_else_the_parents(
    base: dict[str, Any], over: dict[str, Any], key: tuple[str, ...]
) -> None:
    merged = at(config._merge(base, over), key)
    # The deepest ancestor (or the key itself) that the child states decides, unless both hold mappings there.
    theirs, ours = at(base, key), at(over, key)
    if ours is not KeyError and not isinstance(ours, dict):
        assert merged == ours
    elif ours is KeyError:
        hidden = any(at(over, key[:n]) is not KeyError and not isinstance(at(over, key[:n]), dict) for n in range(1, 9))
        replaced = any(
            isinstance(at(over, key[:n]), dict) and not isinstance(at(base, key[:n]), dict) for n in range(1, len(key))
        )
        assert merged == (KeyError if hidden or replaced else theirs)
    else:
        kept = theirs if isinstance(theirs, dict) else {}
        assert isinstance(merged, dict)
        assert isinstance(ours, dict)
        assert merged.keys() == ours.keys() | kept.keys()


LEVELS, EFFECT = "offers.levels", "assumptions.effect"


@pytest.mark.parametrize(
    ("middle", "own"),
    [
        ("", ""),
        ("", "assumptions: {effect: [3]}"),
        ("", "offers: {levels: [2]}\nassumptions: {effect: [3]}"),
        ("offers: {levels: [2]}", "assumptions: {effect: [3]}"),
        ("offers: {levels: [2]}\nassumptions: {effect: [3]}", ""),
        ("", "offers: {levels: [2]}\nassumptions: !include effect.yaml"),
    ],
)
def test_a_key_may_be_stated_anew_together_with_what_depends_on_it(tmp_path: Path, middle: str, own: str) -> None:
    (tmp_path / "effect.yaml").write_text("effect: [3]")
    write(tmp_path, "base", "tag: base\noffers: {levels: [1]}\nassumptions: {effect: [1]}")
    write(tmp_path, "middle", f"extends: base\ntag: middle\n{middle}")
    check_restated(load(write(tmp_path, "own", f"extends: middle\ntag: own\n{own}")), LEVELS, EFFECT)


@pytest.mark.parametrize(
    ("middle", "own", "file"),
    [
        ("", "offers: {levels: [2]}", "own"),
        ("offers: {levels: [2]}", "", "middle"),
        ("assumptions: {effect: [3]}", "offers: {levels: [2]}", "own"),
        ("", "offers: !include levels.yaml", "levels"),
    ],
)
def test_a_key_is_not_stated_anew_without_what_depends_on_it(tmp_path: Path, middle: str, own: str, file: str) -> None:
    (tmp_path / "levels.yaml").write_text("levels: [2]")
    write(tmp_path, "base", "tag: base\noffers: {levels: [1]}\nassumptions: {effect: [1]}")
    write(tmp_path, "middle", f"extends: base\ntag: middle\n{middle}")
    resolved = load(write(tmp_path, "own", f"extends: middle\ntag: own\n{own}"))
    with pytest.raises(ConfigError, match=r"Write 'assumptions\.effect' into the same file, too") as caught:
        check_restated(resolved, LEVELS, EFFECT)
    assert f"{file}.yaml:" in str(caught.value).partition(": key ")[0]


def test_an_error_in_what_the_parent_says_names_the_parents_line(tmp_path: Path) -> None:
    broken = BASE.replace("depth: 3", 'depth: "8"')
    write(tmp_path, "base", broken)
    child = write(tmp_path, "child", "extends: base\ntag: child\nrisk: {rate: -1}\n")
    with pytest.raises(ConfigError) as caught:
        validate(load(child), Toy)
    depth, rate = sorted(str(caught.value).splitlines())
    assert f"experiment_base.yaml:{line_of(broken, 'depth')}: key 'risk.depth' is '8'" in depth
    assert "experiment_child.yaml:3: key 'risk.rate' is -1" in rate


@pytest.mark.parametrize("parent", ["nobody", "[base]", "5", "../base", "''", "b" * 300], ids=lambda p: p[:9])
def test_extends_something_that_is_not_there(tmp_path: Path, parent: str) -> None:
    path = write(tmp_path, "child", f"tag: child\nextends: {parent}\n")
    with pytest.raises(ConfigError, match=rf"{path}:2: key 'extends' is .*does not exist"):
        load(path)


def test_extends_in_a_circle(tmp_path: Path) -> None:
    write(tmp_path, "a", "extends: b\ntag: a\n")
    write(tmp_path, "b", "extends: c\ntag: b\n")
    path = write(tmp_path, "c", "extends: a\ntag: c\n")
    with pytest.raises(ConfigError, match="extends itself") as caught:
        load(path)
    assert "experiment_c.yaml -> experiment_a.yaml -> experiment_b.yaml -> experiment_c.yaml" in str(caught.value)


# --- include -----------------------------------------------------------------------------------------------------


def test_include_inlines_a_file_beside_the_including_one(tmp_path: Path) -> None:
    (tmp_path / "datasets").mkdir()
    (tmp_path / "configs").mkdir()
    (tmp_path / "datasets" / "telco.yaml").write_text("title: Telco\ncolumns: !include columns.yaml\n")
    (tmp_path / "datasets" / "columns.yaml").write_text("- age\n- tenure\n")
    path = write(tmp_path / "configs", "a", "tag: a\ndataset: !include ../datasets/telco.yaml\n")
    assert load(path).data["dataset"] == {"title": "Telco", "columns": ["age", "tenure"]}


def test_an_error_in_an_included_file_names_that_file(tmp_path: Path) -> None:
    (tmp_path / "split.yaml").write_text("# the parts\ntrain: 0.7\ntest: true\n")
    message = refusal(tmp_path, BASE.replace("{train: 0.7, test: 0.3}", "!include split.yaml"))
    assert message == f"{tmp_path / 'split.yaml'}:3: key 'risk.split.test' is True: input should be a valid number"


def test_what_is_missing_from_an_included_file_names_that_file_and_the_including_line(tmp_path: Path) -> None:
    (tmp_path / "split.yaml").write_text("train: 0.7\n")
    text = BASE.replace("{train: 0.7, test: 0.3}", "!include split.yaml")
    message = refusal(tmp_path, text)
    including = f"{tmp_path / 'experiment_base.yaml'}:8"
    assert message == f"{tmp_path / 'split.yaml'}:1 (included at {including}): key 'risk.split.test' is missing"


def test_an_included_file_replaces_what_the_parent_has_there(tmp_path: Path) -> None:
    write(tmp_path, "base", BASE)
    (tmp_path / "split.yaml").write_text("train: 0.7\n")
    child = write(tmp_path, "child", "extends: base\ntag: child\nrisk: {depth: 4, split: !include split.yaml}\n")
    assert load(child).data["risk"]["split"] == {"train": 0.7}
    assert load(child).data["risk"]["kind"] == "gbm"
    with pytest.raises(ConfigError) as caught:
        validate(load(child), Toy)
    # Not the parent's line, on which there is a `test`.
    assert str(caught.value) == f"{tmp_path / 'split.yaml'}:1 (included at {child}:3): key 'risk.split.test' is missing"
    grandchild = write(tmp_path, "last", "extends: child\ntag: last\nrisk: {split: {test: 0.3}}\n")
    assert load(grandchild).data["risk"]["split"] == {"train": 0.7, "test": 0.3}


def test_an_error_in_a_list_that_replaces_the_parents_names_the_childs_line(tmp_path: Path) -> None:
    class Item(Strict):
        name: str
        size: int

    class Listed(Strict):
        tag: str
        items: tuple[Item, ...] = Field(min_length=1)

    write(tmp_path, "base", "tag: base\nitems:\n  - name: a\n    size: 1\n  - name: b\n    size: 2\n")
    child = write(tmp_path, "child", "extends: base\ntag: child\nitems:\n  - name: c\n")
    with pytest.raises(ConfigError) as caught:
        validate(load(child), Listed)
    assert str(caught.value) == f"{child}:4: key 'items.0.size' is missing"


def test_a_child_can_change_a_key_of_what_the_parent_includes(tmp_path: Path) -> None:
    (tmp_path / "split.yaml").write_text("train: 0.7\ntest: 0.3\n")
    write(tmp_path, "base", BASE.replace("{train: 0.7, test: 0.3}", "!include split.yaml"))
    child = load(write(tmp_path, "child", "extends: base\ntag: child\nrisk: {split: {train: 0.5}}\n"))
    assert child.data["risk"]["split"] == {"train": 0.5, "test": 0.3}


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("!include nobody.yaml", "does not exist"),
        ("!include .", "does not exist"),
        ("!include [a.yaml]", "takes one file name"),
        ("!include {a: b}", "takes one file name"),
        ('!include "a\\0b"', "does not exist"),
        ("!include " + "a" * 300, "does not exist"),
    ],
)
def test_include_of_something_that_is_no_file(tmp_path: Path, value: str, complaint: str) -> None:
    path = write(tmp_path, "a", f"tag: a\nx: {value}\n")
    with pytest.raises(ConfigError, match=f"{path}:2: .*{complaint}"):
        load(path)


def test_include_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("x: !include two.yaml\n")
    (tmp_path / "two.yaml").write_text("x: !include one.yaml\n")
    with pytest.raises(ConfigError, match=r"one\.yaml: includes itself"):
        load(write(tmp_path, "a", "tag: a\nx: !include one.yaml\n"))
    with pytest.raises(ConfigError, match=r"experiment_a\.yaml: includes itself"):
        load(write(tmp_path, "a", "tag: a\nx: !include experiment_a.yaml\n"))


def test_the_same_file_may_be_included_twice_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "split.yaml").write_text("train: 0.7\n")
    data = load(write(tmp_path, "a", "tag: a\nx: !include split.yaml\ny: !include split.yaml\n")).data
    assert data["x"] == data["y"] == {"train": 0.7}


# --- files elsewhere ---------------------------------------------------------------------------------------------


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for files of one's own, beside a house whose one experiment is `base`."""
    configs, own = tmp_path / "ops" / "configs", tmp_path / "my files"
    configs.mkdir(parents=True)
    own.mkdir()
    write(configs, "base", BASE)
    monkeypatch.setattr(config, "CONFIGS", configs)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return own


@pytest.mark.parametrize("named", ["{own}/mine.yaml", "my files/mine.yaml", "~/my files/mine.yaml"])
def test_an_experiment_is_named_by_the_path_of_its_file(house: Path, named: str) -> None:
    (house / "mine.yaml").write_text("extends: base\ntag: mine\nrisk: {depth: 4}\n")
    path = experiment_path(named.format(own=house))
    assert path == house / "mine.yaml"
    toy = validate(load(path), Toy)
    assert (toy.tag, toy.risk.depth, toy.risk.kind) == ("mine", 4, "gbm")
    # What a hint has to say behind EXPERIMENT=
    assert argument(path) == f"'{path}'"
    assert argument(experiment_path("base")) == "base"


@pytest.mark.parametrize("parent", ["{own}/above.yml", "./above.yml", "~/my files/above.yml"])
def test_a_path_is_extended_as_a_name_is(house: Path, parent: str) -> None:
    (house / "above.yml").write_text("extends: base\ntag: above\nrisk: {depth: 5}\n")
    mine = house / "experiment_mine.yaml"
    mine.write_text(f"extends: {parent.format(own=house)}\ntag: mine\nrisk: {{kind: linear}}\n")
    risk = validate(load(experiment_path(str(mine))), Toy).risk
    assert (risk.depth, risk.kind, risk.rate) == (5, "linear", 0.05)


@pytest.mark.parametrize("file", ["{own}/split.yaml", "../my files/split.yaml", "~/my files/split.yaml"])
def test_a_file_elsewhere_is_included(house: Path, file: str) -> None:
    (house / "split.yaml").write_text("train: 0.5\ntest: 0.5\n")
    (house / "mine.yaml").write_text(
        f"extends: base\ntag: mine\nrisk: {{split: !include '{file.format(own=house)}'}}\n"
    )
    assert validate(load(house / "mine.yaml"), Toy).risk.split == Split(train=0.5, test=0.5)


def test_an_experiment_beside_is_extended_before_one_of_the_house(house: Path) -> None:
    write(house, "base", BASE.replace("depth: 3", "depth: 9"))
    (house / "mine.yaml").write_text("extends: base\ntag: mine\n")
    assert validate(load(house / "mine.yaml"), Toy).risk.depth == 9


def test_a_file_elsewhere_has_a_name_of_its_own(house: Path) -> None:
    path = write(house, "base", BASE)
    with pytest.raises(ConfigError, match=r"'base' is the name of .*write into the same folder of the store"):
        experiment_path(str(path))
    assert experiment_path(str(config.CONFIGS / "experiment_base.yaml")) == config.CONFIGS / "experiment_base.yaml"


def test_a_path_that_leads_nowhere(house: Path) -> None:
    with pytest.raises(
        ConfigError, match=rf"no experiment 'no.yaml': {house.parent}/no.yaml does not exist. Known: base"
    ):
        experiment_path("no.yaml")


# --- wrong keys and values ---------------------------------------------------------------------------------------


def test_a_key_that_stands_there_twice(tmp_path: Path) -> None:
    message = refusal(tmp_path, BASE.replace("rate: 0.05", "rate: 0.05\n  depth: 4"))
    assert message == f"{tmp_path / 'experiment_base.yaml'}:5: key 'risk.depth' stands here twice"


def test_an_unknown_key(tmp_path: Path) -> None:
    message = refusal(tmp_path, BASE + "  detph: 4\n")
    assert message.startswith(f"{tmp_path / 'experiment_base.yaml'}:9: key 'risk.detph' is unknown here (4)")


def test_a_missing_key_names_where_it_should_stand(tmp_path: Path) -> None:
    message = refusal(tmp_path, BASE.replace("  rate: 0.05\n", ""))
    assert message == f"{tmp_path / 'experiment_base.yaml'}:2: key 'risk.rate' is missing"
    message = refusal(tmp_path, "tag: base\n")
    assert message == f"{tmp_path / 'experiment_base.yaml'}:1: key 'risk' is missing"


@pytest.mark.parametrize(
    ("before", "after", "key", "allowed"),
    [
        ("depth: 3", 'depth: "8"', "risk.depth' is '8'", "valid integer"),
        ("depth: 3", "depth: 8.0", "risk.depth' is 8.0", "valid integer"),
        ("depth: 3", "depth: true", "risk.depth' is True", "valid integer"),
        ("depth: 3", "depth:", "risk.depth' is None", "valid integer"),
        ("depth: 3", "depth: [3]", "risk.depth' is [3]", "valid integer"),
        ("depth: 3", "depth: 0", "risk.depth' is 0", "greater than or equal to 1"),
        ("depth: 3", "depth: 11", "risk.depth' is 11", "less than or equal to 10"),
        ("rate: 0.05", 'rate: "0.05"', "risk.rate' is '0.05'", "valid number"),
        ("rate: 0.05", "rate: .nan", "risk.rate' is nan", "finite number"),
        ("rate: 0.05", "rate: .inf", "risk.rate' is inf", "finite number"),
        ("rate: 0.05", "rate: -.inf", "risk.rate' is -inf", "finite number"),
        ("rate: 0.05", "rate: true", "risk.rate' is True", "valid number"),
        ("rate: 0.05", "rate: -1", "risk.rate' is -1", "greater than 0"),
        ("shuffle: true", "shuffle: 1", "risk.shuffle' is 1", "valid boolean"),
        ("shuffle: true", 'shuffle: "true"', "risk.shuffle' is 'true'", "valid boolean"),
        ("kind: gbm", "kind: forest", "risk.kind' is 'forest'", "'gbm' or 'linear'"),
        ("columns: [age, tenure]", "columns: age", "risk.columns' is 'age'", "array"),
        ("columns: [age, tenure]", "columns: [age, 7]", "risk.columns.1' is 7", "valid string"),
        ("{train: 0.7, test: 0.3}", "{train: 0.7, test: 0.4}", "risk.split' is {'train': 0.7", "has to be 1"),
    ],
)
def test_a_wrong_value_is_refused_with_file_line_key_value_and_what_is_allowed(
    tmp_path: Path, before: str, after: str, key: str, allowed: str
) -> None:
    text = BASE.replace(before, after)
    message = refusal(tmp_path, text)
    assert message.startswith(f"{tmp_path / 'experiment_base.yaml'}:{line_of(text, after)}: key '{key}")
    assert allowed in message
    assert "\n" not in message


def test_a_number_that_yaml_reads_as_text_is_told_how_to_write_it(tmp_path: Path) -> None:
    # YAML 1.1 wants a point and a signed exponent: 1e-3 is text to it, and a common way to write a learning rate.
    message = refusal(tmp_path, BASE.replace("rate: 0.05", "rate: 1e-3"))
    assert "key 'risk.rate' is '1e-3': input should be a valid number" in message
    assert "1.0e-3" in message
    assert validate(load(write(tmp_path, "base", BASE.replace("0.05", "1.0e-3"))), Toy).risk.rate == 0.001


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("kind: gbm", "kind: yes", "risk.kind' is True: input should be 'gbm' or 'linear'"),
        ("[age, tenure]", "[age, yes]", """risk.columns.1' is True: input should be a valid string; write "yes", in \
quotes: without them YAML reads it as true"""),
        ("[age, tenure]", "[age, Off]", """write "Off", in quotes: without them YAML reads it as false"""),
        ("[age, tenure]", "[age, null]", """write "null", in quotes: without them YAML reads it as null"""),
        ("[age, tenure]", "[age, 1.50]", """risk.columns.1' is 1.5: input should be a valid string; write "1.50", in \
quotes"""),
    ],
)  # fmt: skip
def test_a_text_that_yaml_reads_otherwise_is_told_how_to_write_it(
    tmp_path: Path, before: str, after: str, said: str
) -> None:
    message = refusal(tmp_path, BASE.replace(before, after))
    assert message.endswith(said)
    assert "\n" not in message


def test_a_value_of_either_kind_has_one_line(tmp_path: Path) -> None:
    class Either(Strict):
        tag: str
        value: str | int

    path = write(tmp_path, "a", "tag: a\nvalue: yes\n")
    with pytest.raises(ConfigError) as caught:
        validate(load(path), Either)
    assert str(caught.value) == (
        f"{path}:2: key 'value' is True: input should be a valid string or a valid integer; "
        'write "yes", in quotes: without them YAML reads it as true'
    )


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("[a]", "key 'value' is ['a']: tuple should have at least 2 items after validation, not 1"),
        ("[a, 7]", "key 'value.1' is 7: input should be a valid string; write \"7\", in quotes"),
    ],
)
def test_a_list_that_is_too_short_is_told_and_one_of_wrong_items_by_these_alone(
    tmp_path: Path, value: str, said: str
) -> None:
    class Pair(Strict):
        tag: str
        value: tuple[str, ...] = Field(min_length=2)

    path = write(tmp_path, "a", f"tag: a\nvalue: {value}\n")
    with pytest.raises(ConfigError) as caught:
        validate(load(path), Pair)
    assert str(caught.value) == f"{path}:2: {said}"


@pytest.mark.parametrize(("stands", "read"), [("010", 8), ("0x1F", 31), ("0b11", 3), ("12:30", 750), ("1:30.5", 90.5)])
def test_a_code_that_yaml_would_calculate_with_is_refused(tmp_path: Path, stands: str, read: float) -> None:
    message = refusal(tmp_path, BASE.replace("depth: 3", f"depth: {stands}"))
    assert message.endswith(f"experiment_base.yaml:3: YAML reads {stands} as {read}; put it in quotes, or write {read}")


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    text = BASE.replace("depth: 3", "depth: 0").replace("kind: gbm", "kind: forest") + "seeed: 4\n"
    assert [line.split("'")[1] for line in refusal(tmp_path, text).splitlines()] == ["risk.depth", "risk.kind", "seeed"]


def test_a_long_value_is_cut(tmp_path: Path) -> None:
    assert len(refusal(tmp_path, BASE.replace("kind: gbm", "kind: " + "x" * 5000))) < 400


def test_keys_are_the_text_that_stands_there(tmp_path: Path) -> None:
    # YAML 1.1 would read these as False, True and 8.
    assert load(write(tmp_path, "a", "tag: a\nx: {No: 1, on: 2, 010: 3}\n")).data["x"] == {"No": 1, "on": 2, "010": 3}


# --- files that are no experiment --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", ": is empty"),
        (b"# nothing\n\n", ": is empty"),
        (b"~\n", "not a mapping"),
        (b"- tag\n", "holds a list, not a mapping"),
        (b"tag\n", "holds a str, not a mapping"),
        (bytes(range(256)), "isn't UTF-8"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "isn't UTF-8"),
        (b"tag: a\x00\n", "not valid YAML"),
        ("tag: a\n".encode("utf-16"), "isn't UTF-8"),
        ("tag: ä\n".encode("latin-1"), "isn't UTF-8"),
        (b"tag: [a\n", ":2: not valid YAML"),
        (b"tag: a\n\tx: 1\n", ":2: not valid YAML"),
        (b"tag: a\n---\ntag: a\n", ":2: not valid YAML"),
        (b"tag: a\nx: *nobody\n", ":2: not valid YAML"),
        (b"tag: a\nx: " + b"[" * 5000 + b"]" * 5000, "nested too deeply"),
        (b"tag: a\nx: " + b"[" * 50_000 + b"]" * 200_000, "nested too deeply"),
        (b"tag: a\nx: " + b"{a: " * 50_000, "nested too deeply"),
        (b"tag: a\nx:\n  " + b"- " * 50_000 + b"a", "nested too deeply"),
        (b"tag: a\nx:\n  " + b"? " * 50_000 + b"a", "nested too deeply"),
        (b"tag: " + b"a" * 1_000_001, "more than 1,000,000 characters"),
        (b"tag: a\nx: &loop {y: *loop}\n", "nested too deeply"),
        (b"tag: a\n<<: {x: 1}\n", ":2: a key is a plain word"),
        (b"tag: a\n? [x]\n: 1\n", ":2: a key is a plain word"),
        (b"tag: a\nx: !python/name:os.system\n", ":2: "),
        (b"tag: a\nx: !!python/object/apply:os.system [ls]\n", ":2: "),
        (b"tag: a\nx: !!bool maybe\n", ":2: "),
        (b"tag: a\nx: !!int many\n", ":2: "),
        (b"tag: a\nx: 2020-01-01\n", ":2: '2020-01-01' reads as a date; put it in quotes"),
        (b"tag: a\nx: 2020-13-41\n", ":2: "),
        (b"tag: a\nx: " + b"9" * 5000 + b"\n", ":2: "),
        (b"tag: a\nlocked: perhaps\n", ":2: key 'locked' is 'perhaps': true or false is allowed"),
        (b"tag: a\nlocked: 1\n", ":2: key 'locked' is 1: true or false is allowed"),
        (b"x: 1\n", "key 'tag' is None"),
        (b"tag: 3\n", "key 'tag' is 3"),
        (b"tag: ''\n", "key 'tag' is ''"),
        (b"tag: b\n", ":1: key 'tag' is 'b': it has to be the name in experiment_a.yaml"),
    ],
)
def test_a_file_that_is_no_experiment(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "experiment_a.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert complaint in message
    assert "\n" not in message


@pytest.mark.parametrize("depth", [150, 250, 350])
def test_nesting_below_what_yaml_can_read_is_one_line_too(tmp_path: Path, depth: int) -> None:
    message = refusal(tmp_path, BASE.replace("rate: 0.05", "rate: " + "[" * depth + "]" * depth))
    assert message.startswith(str(tmp_path / "experiment_base.yaml"))
    assert len(message) < 300
    assert "\n" not in message


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read"):
        load(tmp_path / "experiment_nobody.yaml")
    (tmp_path / "experiment_a.yaml").mkdir()
    with pytest.raises(ConfigError, match="can't be read"):
        load(tmp_path / "experiment_a.yaml")


@given(st.binary(max_size=200))
def test_any_bytes_load_or_are_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "experiment_any.yaml"
    path.write_bytes(content)
    message = ""
    try:
        assert load(path).tag == "any"
    except ConfigError as error:
        message = str(error)
    assert "\n" not in message


@given(st.text(alphabet="tag: any\n{}[]&*!|>-?#'\",01.e\t%@`~\\", max_size=60))
def test_any_yaml_like_text_loads_or_is_refused(tmp_path_factory: pytest.TempPathFactory, content: str) -> None:
    path = tmp_path_factory.getbasetemp() / "experiment_any.yaml"
    path.write_text("tag: any\nx: " + content, encoding="utf-8")
    with suppress(ConfigError):
        assert load(path).data["tag"] == "any"


def test_a_byte_order_mark_is_not_part_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "experiment_a.yaml"
    path.write_bytes(b"\xef\xbb\xbftag: a\n")
    assert load(path).data == {"tag": "a"}


# --- lock --------------------------------------------------------------------------------------------------------

LOCKED = BASE.replace("tag: base", "tag: base\nlocked: true").replace("{train: 0.7, test: 0.3}", "!include split.yaml")


@pytest.fixture
def locked(tmp_path: Path) -> Path:
    """A locked experiment, with a valid lock, that includes split.yaml."""
    (tmp_path / "split.yaml").write_text("train: 0.7\ntest: 0.3\n")
    path = write(tmp_path, "base", LOCKED)
    write_lock(load(path))
    return path


def test_a_locked_experiment_that_did_not_change_runs(locked: Path) -> None:
    resolved = load(locked)
    assert resolved.locked
    assert "locked" not in resolved.data
    check_lock(resolved)


def test_a_changed_value_refuses(locked: Path) -> None:
    locked.write_text(LOCKED.replace("rate: 0.05", "rate: 0.06"))
    with pytest.raises(ConfigError, match=r"experiment_base\.lock") as caught:
        check_lock(load(locked))
    assert str(locked) in str(caught.value)
    assert "make lock" in str(caught.value)


def test_a_changed_value_in_an_included_file_refuses(locked: Path) -> None:
    (locked.parent / "split.yaml").write_text("train: 0.6\ntest: 0.4\n")
    with pytest.raises(ConfigError, match="locked"):
        check_lock(load(locked))


def test_a_changed_value_in_the_parent_refuses(tmp_path: Path) -> None:
    write(tmp_path, "base", BASE)
    child = write(tmp_path, "child", "extends: base\ntag: child\nlocked: true\n")
    write_lock(load(child))
    check_lock(load(child))
    write(tmp_path, "base", BASE.replace("rate: 0.05", "rate: 0.06"))
    with pytest.raises(ConfigError, match="locked"):
        check_lock(load(child))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("0.05", "'0.05'"),
        ("depth: 3", "depth: 3.0"),
        ("shuffle: true", "shuffle: 1"),
        ("[age, tenure]", "[tenure, age]"),
    ],
)
def test_another_type_or_another_order_of_a_list_refuses(locked: Path, before: str, after: str) -> None:
    locked.write_text(LOCKED.replace(before, after))
    with pytest.raises(ConfigError, match="locked"):
        check_lock(load(locked))


def test_an_added_key_refuses(locked: Path) -> None:
    locked.write_text(LOCKED + "more: 1\n")
    with pytest.raises(ConfigError, match="locked"):
        check_lock(load(locked))


def test_comments_order_of_keys_and_layout_do_not_matter(locked: Path) -> None:
    locked.write_text(
        "# another order\nrisk: {split: {test: 0.30, train: 7.0e-1}, columns: ['age', \"tenure\"], kind: gbm,\n"
        "  shuffle: yes, # said otherwise\n  rate: 0.050, depth: 3}\nlocked: true\ntag: base\n"
    )
    check_lock(load(locked))


def shuffled(value: Any, rng: random.Random) -> Any:
    if not isinstance(value, dict):
        return value
    keys = list(value)
    rng.shuffle(keys)
    return {key: shuffled(value[key], rng) for key in keys}


@given(data=mapping, seed=st.integers(0, 1000))
def test_digest_depends_on_content_alone(data: dict[str, Any], seed: int) -> None:
    def resolved(content: dict[str, Any]) -> Resolved:
        return Resolved(tag="a", path=Path("experiment_a.yaml"), data=content, locked=True, origins={})

    same = shuffled(data, random.Random(seed))
    assert digest(resolved(same)) == digest(resolved(data))
    assert digest(resolved({**data, "e": 1})) != digest(resolved(data))


def test_what_yaml_dumps_loads_to_the_same_digest(tmp_path: Path) -> None:
    resolved = load(write(tmp_path, "base", BASE))
    again = load(write(tmp_path, "base", yaml.safe_dump(resolved.data)))
    assert digest(again) == digest(resolved)


# --- what the lock leaves out -------------------------------------------------------------------------------------

UNLOCKED = LOCKED + "unlocked: [risk.rate, risk.split]\n"


@pytest.fixture
def partly_locked(locked: Path) -> Path:
    locked.write_text(UNLOCKED)
    write_lock(load(locked))
    return locked


@pytest.mark.parametrize(
    ("before", "after"),
    [("rate: 0.05", "rate: 0.06"), ("rate: 0.05", "rate: {now: a mapping}"), ("!include split.yaml", "{train: 0.5}")],
)
def test_a_changed_value_of_an_unlocked_key_runs(partly_locked: Path, before: str, after: str) -> None:
    partly_locked.write_text(UNLOCKED.replace(before, after))
    resolved = load(partly_locked)
    assert "unlocked" not in resolved.data
    check_lock(resolved)


def test_a_changed_value_in_an_included_file_of_an_unlocked_key_runs(partly_locked: Path) -> None:
    (partly_locked.parent / "split.yaml").write_text("train: 0.6\ntest: 0.4\n")
    check_lock(load(partly_locked))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("depth: 3", "depth: 4"),
        ("[risk.rate, risk.split]", "[risk.rate, risk.split, risk.depth]"),
        ("[risk.rate, risk.split]", "[risk.rate]"),
        ("unlocked: [risk.rate, risk.split]\n", ""),
    ],
)
def test_what_is_not_unlocked_and_the_list_itself_are_under_the_lock(
    partly_locked: Path, before: str, after: str
) -> None:
    partly_locked.write_text(UNLOCKED.replace(before, after))
    with pytest.raises(ConfigError, match="locked"):
        check_lock(load(partly_locked))


@pytest.mark.parametrize(
    ("stated", "complaint"),
    [
        ("[risk.rate, risk.detph]", "key 'unlocked' names 'risk.detph', which this experiment does not state"),
        ("[risk.rate.more]", "key 'unlocked' names 'risk.rate.more', which this experiment does not state"),
        ("['']", "key 'unlocked' names '', which this experiment does not state"),
        ("risk.rate", "key 'unlocked' is 'risk.rate': wants a list of dotted keys"),
        ("[7]", "key 'unlocked' is [7]: wants a list of dotted keys"),
        ("~", "key 'unlocked' is None: wants a list of dotted keys"),
    ],
)
def test_an_unlocked_key_that_is_none_is_refused(locked: Path, stated: str, complaint: str) -> None:
    text = f"{LOCKED}unlocked: {stated}\n"
    locked.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(locked)
    assert str(caught.value) == f"{locked}:{line_of(text, 'unlocked')}: {complaint}"


def test_a_child_takes_over_what_is_unlocked_and_is_not_locked(partly_locked: Path) -> None:
    child = write(partly_locked.parent, "child", "extends: base\ntag: child\n")
    assert not load(child).locked
    child.write_text(child.read_text() + "locked: true\n")
    write_lock(load(child))
    child.write_text(child.read_text() + "risk: {rate: 0.5}\n")
    check_lock(load(child))
    child.write_text(child.read_text().replace("rate: 0.5", "depth: 5"))
    with pytest.raises(ConfigError, match="locked"):
        check_lock(load(child))


def test_a_key_within_an_unlocked_one_may_be_listed_too(locked: Path) -> None:
    locked.write_text(f"{LOCKED}unlocked: [risk, risk.rate, risk.split.train]\n")
    assert digest(load(locked)) == digest(replace(load(locked), data={"tag": "base", "risk": {"rate": 1}}))


def test_a_missing_or_damaged_lock_refuses(locked: Path) -> None:
    resolved = load(locked)
    lock_path(resolved).write_text(digest(resolved)[:-1])
    with pytest.raises(ConfigError, match="locked"):
        check_lock(resolved)
    lock_path(resolved).unlink()
    with pytest.raises(ConfigError, match=r"experiment_base\.lock is missing. `make lock` writes it"):
        check_lock(resolved)


def test_a_child_of_a_locked_experiment_is_not_locked(locked: Path) -> None:
    child = load(write(locked.parent, "child", "extends: base\ntag: child\nrisk: {rate: 0.5}\n"))
    assert not child.locked
    assert "locked" not in child.data
    check_lock(child)


def test_an_unlocked_experiment_needs_no_lock(tmp_path: Path) -> None:
    check_lock(load(write(tmp_path, "base", BASE)))


def test_lock_command_renews(locked: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(config, "CONFIGS", locked.parent)
    locked.write_text(LOCKED.replace("rate: 0.05", "rate: 0.06"))
    assert main(["lock", "base"]) == 0
    assert digest(load(locked)) in capsys.readouterr().out
    check_lock(load(locked))
    assert not list(locked.parent.glob("*.tmp"))


def test_lock_command_refuses_what_is_not_locked_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(config, "CONFIGS", tmp_path)
    write(tmp_path, "base", BASE)
    assert main(["lock", "base"]) == 2
    assert "nothing to lock" in capsys.readouterr().err
    assert not (tmp_path / "experiment_base.lock").exists()
    assert main(["lock", "nobody"]) == 2
    assert "no experiment 'nobody'" in capsys.readouterr().err
    for arguments in ([], ["lock"], ["unlock", "base"], ["lock", "base", "more"]):
        assert main(arguments) == 2
        assert "usage:" in capsys.readouterr().err


def test_python_m_engine_config_lock(locked: Path) -> None:
    """The command itself, in a copy of the package whose experiments are the fixture's."""
    root = locked.parent / "house"
    shutil.copytree(PROJECT / "engine", root / "engine", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "ops" / "configs").mkdir(parents=True)
    for name in ("experiment_base.yaml", "split.yaml"):
        shutil.copy(locked.parent / name, root / "ops" / "configs" / name)
    command = [sys.executable, "-m", "engine.config", "lock"]
    done = subprocess.run([*command, "base"], cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    check_lock(load(root / "ops" / "configs" / "experiment_base.yaml"))
    wrong = subprocess.run([*command, "nobody"], cwd=root, capture_output=True, text=True)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: no experiment 'nobody'")
    assert "Known: base" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_experiment_path_of_a_name_that_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(config, "CONFIGS", tmp_path)
    path = write(tmp_path, "base", BASE)
    assert experiment_path("base") == path
    for name in ("nobody", "../base", "", "x" * 300, "a\0b"):
        with pytest.raises(ConfigError, match="Known: base"):
            experiment_path(name)


def test_aliases_that_multiply_are_refused_at_once(tmp_path: Path) -> None:
    lines = ["tag: bomb", "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    path = tmp_path / "experiment_bomb.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=r"experiment_bomb\.yaml:\d+: more than 20,000 values"):
        config.load(path)
