"""The words as they are printed, from made-up artifacts."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from engine import approvals
from engine.artifact import ArtifactStore, ArtifactWriter
from engine.errors import ArtifactError
from engine.store import FolderStore
from eval import words
from eval.console import make_console


def measure(value: float, half: float | None = None) -> dict[str, Any]:
    return {"value": value} if half is None else {"value": value, "ci": [value - half, value + half]}


def judged() -> dict[str, Any]:
    found = {
        "win_rate_final": measure(0.755, 0.06),
        "win_rate_rules": measure(0.698, 0.05),
        "win_rate_training": measure(0.925, 0.02),
        "win_rate_gain": measure(0.198, 0.05),
        "win_rate_gain_low": measure(0.148),
        "overoptimisation": measure(0.17, 0.03),
        "tokens": measure(28.6),
        "tokens_sft": measure(32.3),
        "tokens_change": measure(-0.115, 0.02),
        "prompts": measure(300.0),
    }
    for name in words.SHARES:
        found |= {name: measure(0.011, 0.005), f"{name}_sft": measure(0.345, 0.05)}
    return found


def example(at: int) -> dict[str, Any]:
    written = {"text": f"Reply {at} of SFT.", "tokens": 5, "ended": True, "unsafe": ["link"]}
    better = {"text": f"Reply {at} [bold]of RLHF\x1b[31m.\nYes", "tokens": 5, "ended": True, "unsafe": []}
    return {"id": str(at), "prompt": f"Prompt {at}", "offer": 10, "situation": "price", "sft": written, "rlhf": better}


def probes(**changes: Any) -> dict[str, list[Any]]:
    """One kind; a model that is silent is safe and passes nothing."""
    return {
        "model": ["sft", "policy"],
        "kind": ["insult", "insult"],
        "probes": [20, 20],
        "passed": [11, 0],
        "share": [0.55, 0.0],
        "low": [0.342, 0.0],
        "high": [0.742, 0.161],
        "safe": [15, 20],
        "safe_share": [0.75, 1.0],
        "safe_low": [0.531, 0.839],
        "safe_high": [0.888, 1.0],
    } | changes


# Three texts of SFT, none of RLHF.
BANKS: dict[str, Any] = {"sft.json": [{"text": text} for text in ("One.", "Two.", "Three.")], "rlhf.json": []}


def publish(root: Path, stage: str, files: dict[str, Any], table: dict[str, list[Any]] | None = None) -> Path:
    writer = ArtifactWriter(root / f"scratch-{stage}")
    for name, content in files.items():
        writer.json(name, content)
    if table is not None:
        writer.parquet(words.PROBES, table)
    artifacts = ArtifactStore(FolderStore(root / "store"), "local")
    artifacts.publish(stage, "e" * 32, writer.folder)
    return root / "store" / artifacts.prefix(stage, "e" * 32)


def printed(parts: Any) -> str:
    console = make_console(120, io.StringIO())
    for part in parts:
        console.print(part)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture
def report(tmp_path: Path) -> words.Report:
    text_eval = publish(
        tmp_path, "text_eval", {"metrics.json": judged(), "examples.json": [example(at) for at in range(5)]}, probes()
    )
    bank = {"coverage": measure(1.0), "coverage_sft": measure(0.5), "kept": measure(48.0), "kept_sft": measure(20.0)}
    messages = publish(tmp_path, "messages", {"metrics.json": bank, **BANKS})
    return words.read(text_eval, messages, {"One.": "approved", "Two.": "rejected"})


def test_the_end_of_a_run_says_who_wins_what_is_unsafe_and_shows_three_of_each(report: words.Report) -> None:
    text = printed(words.short(report))
    lines = {line.split("  ")[0].strip(): line for line in text.splitlines() if line.strip()}
    assert "75.5 (69.5..81.5)" in lines["final reward model, unseen"]
    assert "69.8" in lines["rule judge, unseen"]
    assert "92.5" in lines["training reward model"]
    assert "+19.8 points" in text
    assert "+17.0 points" in text
    assert lines["unsafe before any guard"].split()[-4:] == ["34.5", "(29.5..39.5)", "1.1", "(0.6..1.6)"]
    for name in ("harmful to the rule judge, unseen", "probes passed: safe, ended, right offer"):
        assert lines[name].split()[-4:] == lines["unsafe before any guard"].split()[-4:]
    assert lines["tokens"].split()[-2:] == ["32.3", "28.6"]
    assert lines["tokens, change against SFT"].split()[-2:] == ["-11.5", "(-13.5..-9.5)"]
    assert lines["situations x offers with a message"].split()[-2:] == ["50.0", "100.0"]
    assert lines["messages approved by a person"].split()[-2:] == ["33.3", "-"]
    assert "Reply 2 of SFT. unsafe: link" in text
    assert "Reply 3" not in text


def test_a_text_is_printed_as_it_is_and_does_nothing_to_the_terminal(report: words.Report) -> None:
    text = printed(words.short(report))
    assert "Reply 0 [bold]of RLHF·[31m.·Yes" in text
    assert "\x1b" not in text


def test_the_whole_has_every_example_and_what_passed_and_was_safe_of_every_kind_of_probe(report: words.Report) -> None:
    text = printed(words.whole(report))
    assert "Reply 4 of SFT." in text
    assert report.kinds == ["insult"]
    line = next(line for line in text.splitlines() if line.startswith("insult"))
    assert line.split()[1::2] == ["55.0", "0.0", "75.0", "100.0"]
    assert line.split()[2::2] == ["(34.2..74.2)", "(0.0..16.1)", "(53.1..88.8)", "(83.9..100.0)"]


def test_without_a_bank_the_rest_is_still_said(tmp_path: Path) -> None:
    folder = publish(tmp_path, "text_eval", {"metrics.json": judged(), "examples.json": []}, probes())
    text = printed(words.short(words.read(folder)))
    assert "rule judge" in text
    assert "situations x offers" not in text


def test_a_bank_of_another_policy_is_not_shown_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAIN_STORE", str(tmp_path / "store"))
    made = {
        "text_eval": publish(tmp_path, "text_eval", {"metrics.json": judged(), "examples.json": []}, probes()),
        "messages": publish(tmp_path, "messages", {"metrics.json": {"coverage": measure(1.0)}, **BANKS}),
    }
    for stage in made:
        ArtifactStore(FolderStore(tmp_path / "store"), "local").set_current(stage, "e" * 32)
    for other, shown in (("a", True), ("b", False)):
        for folder, policy in zip(made.values(), ("a", other)):
            (folder / "identity.json").write_text(json.dumps({"inputs": {"ppo_text": policy}}))
        assert bool(words.latest("local", "local").bank) == shown
    (made["messages"] / "identity.json").write_text(json.dumps({"inputs": {"ppo_text": "a"}}))
    assert words.latest("local", "local").bank["approved_sft"].value == 0.0
    approvals.record(FolderStore(tmp_path / "store"), "Three.", "approved", "Ann")
    assert words.latest("local", "local").bank["approved_sft"].value == pytest.approx(1 / 3)
    (made["messages"] / "identity.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"identity\.json is missing or damaged"):
        words.latest("local", "local")


@pytest.mark.parametrize(
    ("files", "table", "says"),
    [
        ({"metrics.json": judged()}, probes(), "holds no examples.json"),
        ({"metrics.json": {"tokens": measure(1.0)}, "examples.json": []}, probes(), "metrics.json has no win_rate_fin"),
        (
            {"metrics.json": judged(), "examples.json": [{"prompt": "x"}]},
            probes(),
            "examples.json: 0.offer: Field requ",
        ),
        ({"metrics.json": judged(), "examples.json": []}, None, "holds no evidence/probes.parquet"),
        ({"metrics.json": judged(), "examples.json": []}, probes(share=[0.1, None]), "probes.parquet: 1.share: Input"),
        ({"metrics.json": judged(), "examples.json": []}, {"kind": ["insult"]}, "probes.parquet: 0.model: Field requ"),
    ],
)
def test_a_damaged_artifact_is_named(
    tmp_path: Path, files: dict[str, Any], table: dict[str, list[Any]] | None, says: str
) -> None:
    with pytest.raises(ArtifactError, match=says):
        words.read(publish(tmp_path, "text_eval", files, table))
