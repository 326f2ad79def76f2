"""What is the same result keeps its fingerprint; what may be another one changes it, and is said in words."""

from __future__ import annotations

import platform
import textwrap
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import fingerprint
from engine.fingerprint import Identity, code_digests, differences, library_versions

RISK = '''\
"""Trains the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tasks.tabular import gbm

if TYPE_CHECKING:
    from tasks.config import RiskConfig

ROUNDS = 600


def run(config: RiskConfig, inputs, workspace):
    """Fits and measures."""
    model = gbm.fit(ROUNDS)  # the booster
    return {"auc": {"value": model}}
'''

GBM = """\
import engine.stage
import retain.features


def fit(rounds):
    return retain.features.names(rounds)
"""

HOUSE = {
    "tasks/__init__.py": '"""The stages."""\n',
    "tasks/tabular/__init__.py": '"""Tables."""\n',
    "tasks/tabular/risk.py": RISK,
    "tasks/tabular/gbm.py": GBM,
    "tasks/tabular/accept.py": "def run(config, inputs, workspace):\n    return {}\n",
    "tasks/config.py": "class RiskConfig:\n    depth: int\n",
    "retain/__init__.py": "",
    "retain/features.py": "from retain import dataset\n\n\ndef names(n):\n    return dataset.columns(n)\n",
    "retain/dataset.py": "def columns(n):\n    return [str(i) for i in range(n)]\n",
    "engine/__init__.py": "",
    "engine/stage.py": "GRACE_S = 10.0\n",
}
ENTRY = "tasks.tabular.risk:run"


@pytest.fixture
def house(tmp_path: Path) -> Path:
    write(tmp_path, HOUSE)
    return tmp_path


def write(root: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(textwrap.dedent(text), encoding="utf-8")


def same_after(root: Path, files: Mapping[str, str], entry: str = ENTRY) -> bool:
    """Whether the stage's code is the same once these files are written."""
    before = code_digests(entry, root)
    write(root, files)
    return code_digests(entry, root) == before


def risk(before: str, after: str) -> dict[str, str]:
    assert RISK.count(before) == 1
    return {"tasks/tabular/risk.py": RISK.replace(before, after)}


# --- code --------------------------------------------------------------------------------------------------------


def test_the_code_of_a_stage_is_what_it_imports_here(house: Path) -> None:
    assert list(code_digests(ENTRY, house)) == [
        "retain/__init__.py",
        "retain/dataset.py",
        "retain/features.py",
        "tasks/__init__.py",
        "tasks/tabular/__init__.py",
        "tasks/tabular/gbm.py",
        "tasks/tabular/risk.py",
    ]


@pytest.mark.parametrize(
    "files",
    [
        risk("  # the booster", ""),
        risk("  # the booster", "  # something else"),
        risk('    """Fits and measures."""\n', ""),
        risk('"""Fits and measures."""', '"""Measures, after fitting."""'),
        risk('"""Trains the model."""\n', ""),
        risk('{"auc": {"value": model}}', "{\n        'auc': {\n            'value': (model),\n        },\n    }"),
        risk("ROUNDS = 600", "\n\n\nROUNDS = 6_00"),
        risk("from tasks.config import RiskConfig", "from tasks.config import RiskConfig, OtherConfig"),
        risk("    from tasks.config import RiskConfig\n", "    import tasks.config\n    x = 3\n"),
        risk("if TYPE_CHECKING:\n    from tasks.config import RiskConfig\n", ""),
        {"tasks/config.py": "class RiskConfig:\n    depth: int\n    rounds: int\n"},
        {"tasks/tabular/accept.py": "def run(config, inputs, workspace):\n    return {'other': 1}\n"},
        {"tasks/tabular/new.py": "X = 1\n"},
        {"engine/stage.py": "GRACE_S = 20.0\n"},
        {"tasks/__init__.py": '"""The stages, each a file."""\n# and nothing else\n'},
    ],
)
def test_what_can_not_change_the_result(house: Path, files: dict[str, str]) -> None:
    assert same_after(house, files)


def test_a_docstring_of_a_class_or_an_async_function_does_not_count(house: Path) -> None:
    text = 'class A:\n    "{0}"\n    x = 1\n    async def f(self):\n        "{0}"\n        return 1\n'
    write(house, {"tasks/tabular/gbm.py": text.format("one")})
    assert same_after(house, {"tasks/tabular/gbm.py": text.format("two")})


def test_text_that_is_no_docstring_counts(house: Path) -> None:
    write(house, {"tasks/tabular/gbm.py": 'def fit(rounds):\n    x = "one"\n    return x\n'})
    assert not same_after(house, {"tasks/tabular/gbm.py": 'def fit(rounds):\n    x = "two"\n    return x\n'})


@pytest.mark.parametrize(
    "files",
    [
        risk("ROUNDS = 600", "ROUNDS = 601"),
        risk("ROUNDS = 600", "ROUNDS = 600.0"),
        risk("ROUNDS = 600", "ROUNDS = '600'"),
        risk("ROUNDS = 600", "ROUNDS = 600\n\n\ndef helper():\n    return 1"),
        risk("model = gbm.fit(ROUNDS)", "model = -gbm.fit(ROUNDS)"),
        risk("def run(config: RiskConfig", "@staticmethod\ndef run(config: RiskConfig"),
        risk("import numpy as np", "import numpy"),
        risk("if TYPE_CHECKING:", "if True:"),
        risk("import RiskConfig\n", "import RiskConfig\nelse:\n    ROUNDS = 1\n"),
        {"tasks/tabular/gbm.py": HOUSE["tasks/tabular/gbm.py"] + "\n\ndef unused():\n    return 2\n"},
        {"retain/dataset.py": "def columns(n):\n    return [str(i + 1) for i in range(n)]\n"},
        {"tasks/__init__.py": "import os\n"},
        {"tasks/tabular/__init__.py": "X = 1\n"},
        {"retain/__init__.py": "X = 1\n"},
    ],
)
def test_what_may_change_the_result(house: Path, files: dict[str, str]) -> None:
    assert not same_after(house, files)


@pytest.mark.parametrize(
    ("statement", "imported"),
    [
        ("import tasks.shared.deep", "tasks/shared/deep.py"),
        ("import tasks.shared.deep as d", "tasks/shared/deep.py"),
        ("import os, tasks.shared.deep", "tasks/shared/deep.py"),
        ("from tasks.shared import deep", "tasks/shared/deep.py"),
        ("from tasks.shared import deep as d", "tasks/shared/deep.py"),
        ("from tasks.shared.deep import f", "tasks/shared/deep.py"),
        ("from tasks.shared.deep import *", "tasks/shared/deep.py"),
        ("from tasks import shared", "tasks/shared/__init__.py"),
        ("from ..shared import deep", "tasks/shared/deep.py"),
        ("from ..shared.deep import f", "tasks/shared/deep.py"),
        ("from .. import shared", "tasks/shared/__init__.py"),
        ("from . import near", "tasks/tabular/near.py"),
        ("from .near import f", "tasks/tabular/near.py"),
        ("def g():\n    from tasks.shared import deep", "tasks/shared/deep.py"),
        ("def g():\n    from .near import f", "tasks/tabular/near.py"),
        ("try:\n    import tasks.shared.deep\nexcept ImportError:\n    pass", "tasks/shared/deep.py"),
        ("try:\n    pass\nexcept ImportError:\n    from . import near", "tasks/tabular/near.py"),
        ("try:\n    pass\nfinally:\n    from . import near", "tasks/tabular/near.py"),
        ("if 1:\n    pass\nelse:\n    from . import near", "tasks/tabular/near.py"),
        ("match 1:\n    case 1:\n        from . import near", "tasks/tabular/near.py"),
        ("class A:\n    from . import near", "tasks/tabular/near.py"),
        ("import tasks.plain.inner", "tasks/plain/inner.py"),
        ("import tasks.plain.inner", "tasks/__init__.py"),
        ("import tasks.both", "tasks/both/__init__.py"),
        ("import loose.inner.part", "loose/__init__.py"),
    ],
)
def test_every_way_to_import_is_followed(house: Path, statement: str, imported: str) -> None:
    more = {
        "tasks/shared/__init__.py": "",
        "tasks/shared/deep.py": "def f(): return 1\n",
        "tasks/tabular/near.py": "def f(): return 1\n",
        "tasks/plain/inner.py": "",  # a folder without __init__.py
        "tasks/both.py": "",
        "tasks/both/__init__.py": "",  # a package goes before a module of its name
        "loose/__init__.py": "",
        "loose/inner/part.py": "",
        "tasks/tabular/gbm.py": f"def fit(rounds): return rounds\n{statement}\n",
    }
    write(house, more)
    assert imported in code_digests(ENTRY, house)
    assert not same_after(house, {imported: "X = 'changed'\n"})


def test_imports_inside_a_package_are_relative_to_it(house: Path) -> None:
    write(
        house,
        {
            "tasks/tabular/gbm.py": "from tasks import shared\n",
            "tasks/shared/__init__.py": "from .deep import f\nfrom ..tabular import accept\n",
            "tasks/shared/deep.py": "def f(): return 1\n",
        },
    )
    assert {"tasks/shared/deep.py", "tasks/tabular/accept.py"} <= code_digests(ENTRY, house).keys()


def test_a_circle_of_imports_ends(house: Path) -> None:
    write(house, {"retain/dataset.py": "import retain.features\nimport tasks.tabular.risk\n"})
    assert "retain/dataset.py" in code_digests(ENTRY, house)


def test_what_is_imported_for_types_and_for_work_counts(house: Path) -> None:
    write(house, {"tasks/tabular/gbm.py": "def fit(rounds):\n    import tasks.config\n"})
    assert not same_after(house, {"tasks/config.py": "class RiskConfig:\n    depth: float\n"})


def test_a_removed_or_renamed_module_is_a_change(house: Path) -> None:
    write(house, {"retain/extra.py": "", "tasks/tabular/gbm.py": "import retain.extra\n"})
    before = code_digests(ENTRY, house)
    (house / "retain/extra.py").rename(house / "retain/other.py")
    write(house, {"tasks/tabular/gbm.py": "import retain.other\n"})
    assert code_digests(ENTRY, house).keys() ^ before.keys() == {"retain/extra.py", "retain/other.py"}


def test_digests_do_not_depend_on_the_folder(house: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write(elsewhere, HOUSE)
    assert code_digests(ENTRY, elsewhere) == code_digests(ENTRY, house)


def test_encodings_and_line_ends_do_not_count(house: Path) -> None:
    text = 'X = "é"\n\n\ndef fit(rounds):\n    return X\n'
    path = house / "tasks/tabular/gbm.py"
    path.write_bytes(text.encode())
    before = code_digests(ENTRY, house)
    for content in (
        text.replace("\n", "\r\n").encode(),
        b"\xef\xbb\xbf" + text.encode(),
        b"# coding: latin-1\n" + text.encode("latin-1"),
    ):
        path.write_bytes(content)
        assert code_digests(ENTRY, house) == before


# --- libraries ---------------------------------------------------------------------------------------------------


def test_libraries_are_the_named_ones_and_python() -> None:
    assert library_versions(["pydantic", "numpy"]) == {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "numpy": version("numpy"),
        "pydantic": version("pydantic"),
    }
    assert library_versions([]) == {"python": "3.11"}


@pytest.mark.parametrize(
    ("installed", "wanted"),
    [
        ({"xgboost": "3.2.0"}, "3.2.0"),
        ({"xgboost-cpu": "3.2.0"}, "3.2.0"),
        ({"xgboost": "3.1.0", "xgboost-cpu": "3.2.0"}, "3.2.0"),  # whose files were written over the other's
    ],
)
def test_a_library_has_one_name_whichever_distribution_it_came_from(
    monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], wanted: str
) -> None:
    monkeypatch.setattr(fingerprint, "_installed", installed.get)
    assert library_versions(["xgboost"]) == {"python": "3.11", "xgboost": wanted}


def test_a_library_that_is_not_installed_here_has_the_version_of_where_the_stage_will_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fingerprint, "_installed", {"numpy": "2.0"}.get)
    elsewhere = {"numpy": "1.0", "xgboost-cpu": "3.2.0"}
    assert library_versions(["numpy", "xgboost"], elsewhere) == {"python": "3.11", "numpy": "2.0", "xgboost": "3.2.0"}
    with pytest.raises(PackageNotFoundError):
        library_versions(["numpy", "trl"], elsewhere)


def test_builds_of_a_library_for_a_cpu_and_for_a_gpu_are_one_version(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = []
    for installed in ("2.13.0+cpu", "2.13.0+cu130", "2.13.0"):
        monkeypatch.setattr(fingerprint, "_installed", {"torch": installed}.get)
        versions.append(library_versions(["torch"])["torch"])
    assert versions == ["2.13.0"] * 3


# --- the fingerprint and its differences -------------------------------------------------------------------------

IDENTITY = Identity(
    stage="risk",
    code={"tasks/tabular/risk.py": "a" * 64, "retain/features.py": "b" * 64},
    libraries={"python": "3.11", "xgboost": "3.2.0"},
    config={
        "booster": {"max_depth": 3, "learning_rate": 0.05},
        "folds": 5,
        "columns": ["age", "tenure"],
        "sender": "Your team at Retain, 1 Long Street, Springfield",
    },
    seed=42,
    inputs={"customers": "c" * 64},
    source=None,
)


def changed(**parts: Any) -> Identity:
    return IDENTITY.model_copy(update=parts)


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (changed(code=IDENTITY.code | {"retain/features.py": "d" * 64}), ["code: retain/features.py changed"]),
        (changed(code=IDENTITY.code | {"retain/score.py": "d" * 64}), ["code: retain/score.py is new"]),
        (changed(code={"retain/features.py": "b" * 64}), ["code: tasks/tabular/risk.py is gone"]),
        (changed(libraries={"python": "3.11", "xgboost": "3.3.0"}), ["libraries: xgboost 3.2.0 -> 3.3.0"]),
        (changed(libraries={"python": "3.11"}), ["libraries: xgboost 3.2.0 -> nothing"]),
        (
            changed(config=IDENTITY.config | {"booster": {"max_depth": 4, "learning_rate": 0.05}}),
            ["config: booster.max_depth 3 -> 4"],
        ),
        (changed(config=IDENTITY.config | {"folds": None}), ["config: folds 5 -> null"]),
        (changed(config=IDENTITY.config | {"bootstrap": None}), ["config: bootstrap nothing -> null"]),
        (changed(config=IDENTITY.config | {"folds": 5.0}), ["config: folds 5 -> 5.0"]),
        (changed(config=IDENTITY.config | {"extra": {}}), ["config: extra nothing -> {}"]),
        (
            changed(config=IDENTITY.config | {"columns": ["tenure"]}),
            ['config: columns ["age", "tenure"] -> ["tenure"]'],
        ),
        (changed(seed=43), ["seed: 42 -> 43"]),
        (
            changed(inputs={"customers": "d" * 64}),
            [f"inputs: customers has other bytes ({'c' * 20}... -> {'d' * 20}...)"],
        ),
        (
            changed(config=IDENTITY.config | {"sender": "Your team at Retain, 1 Long Road, Springfield"}),
            ["config: sender ... 1 Long Street, Spri... -> ... 1 Long Road, Spring..."],
        ),
        (
            changed(config=IDENTITY.config | {"sender": "Your team at Retain, 1 Long"}),
            ['config: sender ..., 1 Long Street, Spr... -> ..., 1 Long"'],
        ),
        (changed(config=IDENTITY.config | {"sender": None}), ['config: sender "Your team at Retain... -> null']),
        (changed(source="e" * 64), [f"source: nothing -> {'e' * 20}..."]),
    ],
)
def test_each_part_changes_the_fingerprint_and_is_named(now: Identity, words: list[str]) -> None:
    assert now.fingerprint != IDENTITY.fingerprint
    assert differences(IDENTITY, now) == words


def test_another_stage_of_equal_parts_has_another_fingerprint() -> None:
    assert changed(stage="accept").fingerprint != IDENTITY.fingerprint


def test_several_changes_are_all_named_and_none_is_nothing() -> None:
    now = changed(seed=1, source="e", libraries={"python": "3.12", "xgboost": "3.2.0"})
    assert differences(IDENTITY, now) == ["libraries: python 3.11 -> 3.12", "seed: 42 -> 1", "source: nothing -> e"]
    assert differences(IDENTITY, IDENTITY) == []


def test_a_fingerprint_is_the_same_in_every_order_and_after_a_round_trip() -> None:
    again = Identity.model_validate_json(IDENTITY.model_dump_json())
    assert again.fingerprint == IDENTITY.fingerprint
    turned = changed(code=dict(reversed(IDENTITY.code.items())), config=dict(reversed(IDENTITY.config.items())))
    assert turned.fingerprint == IDENTITY.fingerprint
    assert len(IDENTITY.fingerprint) == 32
    assert set(IDENTITY.fingerprint) <= set("0123456789abcdef")


values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-2, 2),
        st.sampled_from([-1.0, -0.0, 0.0, 1.0, 0.5]),
        st.sampled_from(["", "a", "1", "null"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2)
    ),
    max_leaves=4,
)
configs = st.dictionaries(st.sampled_from(["a", "b"]), values, max_size=2)


@given(one=configs, other=configs)
def test_differences_are_empty_exactly_when_the_fingerprints_are_equal(one: Any, other: Any) -> None:
    before, now = changed(config=one), changed(config=other)
    assert (differences(before, now) == []) == (before.fingerprint == now.fingerprint)
