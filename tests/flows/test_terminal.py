"""What the end of a run says: the decision's comparison, and what the release does without."""

from __future__ import annotations

import io
import logging
import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from engine import approvals, ledger
from engine.artifact import ArtifactWriter
from engine.errors import ArtifactError
from engine.stage import Stage
from engine.store import open_store
from eval.console import make_console
from flows import terminal
from flows.__main__ import main
from flows.board import Board, Row, State
from flows.plan import Plan, key_metrics, load_experiment
from flows.run import Run, carry_out
from retain.parts import Missed, Part, Standing
from tests import releases
from tests.engine.bucket_double import Buckets, serving
from tests.eval import made_decision
from tests.flows.toy_plan import board_of, toy_plan, toy_stage

STAGES: tuple[Stage, ...] = (toy_stage("decision"),)
DONE = Row("decision", (), state="complete")


@pytest.fixture
def console() -> Console:
    """A terminal with colours, 100 columns wide, that keeps what is printed."""
    return make_console(100, io.StringIO(), force_terminal=True, color_system="standard")


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def plain(console: Console) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", said(console))


def plan_with(root: Path, tag: str = "chaos", named: str | None = None) -> Plan:
    """The toy plan, its experiment with the criteria and the name that it would have."""
    plan = toy_plan(root, STAGES)
    experiment = plan.experiment.model_copy(update={"criteria": load_experiment("chaos").criteria, "tag": tag})
    return Plan(**{**vars(plan), "experiment": experiment, "named": named or tag})


def test_make_run_ends_with_the_policies_alone(tmp_path: Path, console: Console) -> None:
    made_decision.publish(tmp_path / "store", "local", tmp_path)
    terminal.show_decision(plan_with(tmp_path / "store", "local"), DONE, console, whole=False)
    text = plain(console)
    assert "What it brings" in text
    assert "Against the best baseline" not in text
    assert "make compare\n" in text


def test_another_experiment_says_its_name(tmp_path: Path, console: Console) -> None:
    made_decision.publish(tmp_path / "store", "chaos", tmp_path)
    terminal.show_decision(plan_with(tmp_path / "store"), DONE, console, whole=False)
    assert "make compare EXPERIMENT=chaos\n" in plain(console)
    plan = plan_with(tmp_path / "store", named="/elsewhere/chaos.yaml")
    terminal.show_decision(plan, DONE, console, whole=False)
    assert "make compare EXPERIMENT=/elsewhere/chaos.yaml\n" in plain(console)


def test_train_ppo_decision_ends_with_the_whole_comparison(tmp_path: Path, console: Console) -> None:
    made_decision.publish(tmp_path / "store", "chaos", tmp_path)
    terminal.show_decision(plan_with(tmp_path / "store"), DONE, console, whole=True)
    text = plain(console)
    # Limits are those of the experiment.
    assert "NRR, customers at risk" in text
    assert ">= 12.00" in text
    assert "make compare" not in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(("arguments", "whole"), [([], False), (["--stage", "decision"], True)])
def test_a_run_prints_all_of_it_only_if_the_stage_was_asked_for(
    arguments: list[str],
    whole: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also when nothing had to run."""
    plan = plan_with(tmp_path / "store")
    fingerprint = plan.identity(STAGES[0], {}).fingerprint
    made_decision.publish(tmp_path / "store", "chaos", tmp_path, fingerprint=fingerprint)
    monkeypatch.setattr("flows.__main__.make_plan", lambda experiment, wanted: plan)
    assert main(["run", "--experiment", "chaos", *arguments]) == 0
    text = capsys.readouterr().out
    assert "nothing changed, nothing to run" in text
    assert "Lagrangian PPO" in text
    assert ("Against the best baseline" in text) is whole
    assert text.index("What it brings") < text.index("metered, not billed")


@pytest.mark.parametrize("state", ["failed", "skipped", "stopped"])
def test_what_an_earlier_run_made_is_not_shown_as_this_one_s(tmp_path: Path, console: Console, state: str) -> None:
    made_decision.publish(tmp_path / "store", "chaos", tmp_path)
    row = Row("decision", (), state=state)  # type: ignore[arg-type]
    terminal.show_decision(plan_with(tmp_path / "store"), row, console, whole=True)
    assert said(console) == ""


def test_before_anything_is_there_nothing_is_said(tmp_path: Path, console: Console) -> None:
    terminal.show_decision(plan_with(tmp_path / "store"), DONE, console, whole=True)
    assert said(console) == ""


def test_what_stages_say_is_shown_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    text = r"column 'a[/b]' of C:\[x] :key: is unknown"
    rows = [Row("risk", (), state="failed", message=text), Row("accept", (), state="running", progress=text)]
    make_console().print(terminal.stage_table(Board({row.stage: row for row in rows})))
    assert capsys.readouterr().out.count(text) == 2


def test_a_store_of_any_name_is_printed_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "a[/b]" / ":key:" / "x"
    plan = plan_with(store)
    fingerprint = plan.identity(STAGES[0], {}).fingerprint
    made_decision.publish(store, "chaos", tmp_path, fingerprint=fingerprint)
    monkeypatch.setattr("flows.__main__.make_plan", lambda experiment, wanted: plan)
    assert main(["run", "--experiment", "chaos"]) == 0
    assert f"experiment chaos, store {store}" in capsys.readouterr().out


def test_a_damaged_artifact_is_one_error(tmp_path: Path, console: Console) -> None:
    folder = made_decision.publish(tmp_path / "store", "chaos", tmp_path)
    for path in (folder / "files").iterdir():
        path.chmod(0o644)
        path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ArtifactError, match="missing or damaged"):
        terminal.show_decision(plan_with(tmp_path / "store"), DONE, console, whole=True)


def part(standing: Standing, **missed: str) -> Part:
    """One that missed criteria: verdict -> kind."""
    stated = tuple(Missed(criterion="a.b", kind=kind, verdict=verdict) for verdict, kind in missed.items())
    return Part(standing=standing, digest="0123456789ab", artifact="0123456789ab", missed=stated)


def test_what_is_left_out_is_said_in_red_with_what_it_missed(console: Console) -> None:
    missed = {
        "decision nrr_gain_at_risk 0.0281 (wanted >= 0.03)": "value",
        "decision over_cap 0.02 (wanted < 0.01)": "safety",
    }
    terminal.show_standings({"risk": part("served"), "decision": part("left_out", **missed)}, console)
    assert plain(console).splitlines() == [
        "LEFT OUT of the release: decision 0123456789ab; the baseline decides. Missed:",
        "  nrr_gain_at_risk 0.0281 (wanted >= 0.03), value",
        "  over_cap 0.02 (wanted < 0.01), safety",
    ]
    assert said(console).count("\x1b[1;31m") == 3


def test_what_is_in_the_shadow_is_said_in_yellow_with_what_it_missed(console: Console) -> None:
    missed = {"rm auc 0.6 (wanted >= 0.7)": "value"}
    terminal.show_standings({"rlhf": part("shadow_only", **missed)}, console)
    assert plain(console).splitlines() == [
        "SHADOW ONLY: rlhf 0123456789ab; the sft messages, or templates, speak for the learned policy. Missed:",
        "  rm auc 0.6 (wanted >= 0.7), value",
    ]
    assert said(console).count("\x1b[1;33m") == 2


def test_of_what_is_served_nothing_is_said(console: Console) -> None:
    terminal.show_standings({"decision": part("served"), "sft": part("served")}, console)
    assert said(console) == ""


def test_a_stage_of_many_criteria_names_those_that_are_not_met(tmp_path: Path) -> None:
    made_decision.publish(tmp_path / "store", "chaos", tmp_path)
    shown = key_metrics(plan_with(tmp_path / "store"), "decision", "d" * 32)
    assert shown == "8 of 9 criteria met, nrr_gain 0.0152 >= 0.03 (not met; shown, not gating)"


def test_a_file_is_given_no_cursor_movements(tmp_path: Path) -> None:
    """Also where FORCE_COLOR makes it a terminal, in rich's words."""
    with (tmp_path / "log").open("w") as file:
        console = make_console(100, file, force_terminal=True, color_system="standard")
        board = Board({"risk": Row("risk", ())})
        with terminal.shown(board, console):
            board.update("risk", state="running")
    text = (tmp_path / "log").read_text()
    assert "\x1b[" in text  # colours
    assert re.findall(r"\x1b\[[0-9;?]*[A-HJKhl]", text) == []
    assert re.search(r"^\[.*\] .*risk .*running", re.sub(r"\x1b\[[0-9;]*m", "", text))


def test_whoever_changes_the_board_waits_for_no_terminal() -> None:
    """One that was stopped by Ctrl-S, or a pipe that nobody reads, takes nothing for as long as it likes."""
    going_on = threading.Event()

    class Stopped(io.StringIO):
        def write(self, text: str) -> int:
            if threading.current_thread() is threading.main_thread() and not going_on.is_set():
                raise AssertionError("would wait here")
            going_on.wait()
            return super().write(text)

    console = make_console(100, Stopped())
    board = Board({"risk": Row("risk", ())})
    with terminal.shown(board, console):
        board.update("risk", state="running")
        board.update("risk", state="complete")
        going_on.set()
    assert [line.split()[3] for line in said(console).splitlines()[:2]] == ["running", "complete"]


# -- warnings of artifacts
# ----------------------------------------------------------------------------------------------------------

CUT_OFF = "only a sample of [7,043] rows is used"
RED = "\x1b[1;31m"


def warned_of(root: Path) -> Plan:
    """A plan whose one stage has an artifact already, which warns."""
    plan = toy_plan(root / "store", (toy_stage("customers"),))
    out = ArtifactWriter(root / "out")
    out.json("metrics.json", {})
    out.warnings([CUT_OFF])
    plan.artifacts.publish("customers", plan.identity(plan.stages[0], {}).fingerprint, root / "out")
    return plan


def test_a_stage_s_warnings_are_said_in_red_when_it_is_done(tmp_path: Path, console: Console) -> None:
    """On a terminal in the table, below the stage; elsewhere below the stage's line."""
    plan = warned_of(tmp_path)
    board = board_of(plan)
    with terminal.shown(board, console):
        carry_out(Run(plan, board), "customers", logging.getLogger("test"), lambda percent: None)
    assert board.rows["customers"].warnings == (CUT_OFF,)
    assert f"WARNING from customers: {CUT_OFF}" in plain(console)
    assert said(console).count(RED + "WARNING") == 1
    console.print(terminal.stage_table(board, warned=True))
    assert said(console).count(RED + "WARNING") == 2


def test_where_there_is_no_terminal_they_stand_below_the_stage_s_line(tmp_path: Path) -> None:
    plan = warned_of(tmp_path)
    board = board_of(plan)
    console = make_console(100, io.StringIO())
    with terminal.shown(board, console):
        carry_out(Run(plan, board), "customers", logging.getLogger("test"), lambda percent: None)
    first, second = said(console).splitlines()[:2]
    assert "customers    reused" in first
    assert second == f"WARNING from customers: {CUT_OFF}"


def test_a_notice_of_the_run_is_said_when_it_is_given_and_stays_on_a_terminal(console: Console) -> None:
    words = "83% of [a] is spent :smile:"
    board, file = Board({"risk": Row("risk", ())}), make_console(100, io.StringIO())
    with terminal.shown(board, file):
        board.notice(words)
    assert words in said(file)
    console.print(terminal.stage_table(board, warned=True))
    assert words in plain(console)


def test_the_summary_shows_the_cap_that_counts(tmp_path: Path, console: Console) -> None:
    plan = toy_plan(tmp_path, STAGES)
    ledger.set_cap(plan.store, plan.experiment.costs.scope, 2.5)
    terminal.show_summary(plan, board_of(plan), console)
    assert "$0.0000 this run, $0.0000 of $2.5 in chaos" in plain(console)


def test_warnings_are_said_again_at_the_end_of_every_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also of one that reuses everything."""
    plan = warned_of(tmp_path)
    monkeypatch.setattr("flows.__main__.make_plan", lambda experiment, wanted: plan)
    assert main(["run", "--experiment", "chaos"]) == 0
    text = capsys.readouterr().out
    assert "nothing changed, nothing to run" in text
    assert text.index("metered, not billed") < text.index(f"WARNING from customers: {CUT_OFF}")


def test_the_end_of_a_run_says_how_many_messages_wait_for_a_reader(
    tmp_path: Path, console: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_with(tmp_path / "store", named="toy")
    given = releases.inputs(tmp_path / "inputs", releases.dataset("telco"), releases.dataset("bank"))
    folder = releases.publish(
        tmp_path / "store", "release", releases.run_stage(tmp_path, given), experiment=plan.artifacts.experiment
    )
    row = Row("release", (), state="complete")
    text = releases.bank("sft")[0]["text"]
    approvals.record(plan.store, text, "approved", "Ann")
    terminal.show_release(plan, row, console)
    shown = plain(console)
    assert f"release: {folder}" in shown.replace("\n", "")
    assert "sft: 48 messages, 6 approved (12 %), 0 rejected, 42 wait for a person to read them" in shown
    assert "rlhf: 48 messages, 0 approved (0 %), 0 rejected, 48 wait for a person to read them" in shown
    assert "until then others, or templates, are sent: make messages EXPERIMENT=toy\n" in shown
    for entry in (*releases.bank("sft"), *releases.bank("rlhf")):
        approvals.record(plan.store, entry["text"], "rejected" if entry["text"] == text else "approved", "Ann")
    terminal.show_release(plan, row, console)
    assert "until then" not in plain(console).removeprefix(shown)
    capsys.readouterr()


def test_a_release_in_a_bucket_is_named_by_its_address_and_where_it_was_copied_to(
    tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RETAIN_CACHE", str(tmp_path / "cache"))
    given = releases.inputs(tmp_path / "inputs", releases.dataset("telco"), releases.dataset("bank"))
    made = releases.run_stage(tmp_path, given)
    with serving(Buckets("bucket")) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        plan = replace(plan_with(tmp_path / "store", named="toy"), store=open_store("gs://bucket/store"))
        plan.artifacts.publish("release", "f" * 32, made)
        plan.artifacts.set_current("release", "f" * 32)
        terminal.show_release(plan, Row("release", (), state="complete"), console)
        shown = plain(console)
        place = f"{plan.experiment.tag}/release/{'f' * 32}"
        assert (
            f"release: gs://bucket/store/{place}, on this machine {tmp_path}/cache/stores/bucket/store/{place}" in shown
        )
        assert "serve it with `DATABASE_URL=sqlite:////FOLDER/serving.db make serve EXPERIMENT=toy`, then ask:" in shown
        known = replace(plan, environment={"DATABASE_URL": "sqlite:////somewhere/serving.db"})
        terminal.show_release(known, Row("release", (), state="failed"), console)
        assert f"the release of an earlier run stays: gs://bucket/store/{place}, on" in plain(console)
        terminal.show_release(known, Row("release", (), state="complete"), console)
        assert "serve it with `make serve EXPERIMENT=toy`, then ask:" in plain(console)
    capsys.readouterr()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (Row("release", (), state="failed", message="the guard [x] is gone"), "release failed: the guard [x] is gone"),
        (Row("release", (), state="refused", message="risk auc 0.7"), "release was refused: risk auc 0.7"),
        (Row("release", (), state="skipped", message="it reads from risk"), "release did not run: it reads from risk"),
        (Row("release", ()), "release did not run"),
    ],
)
def test_a_run_without_a_new_release_ends_with_the_reason(
    tmp_path: Path, console: Console, row: Row, reason: str
) -> None:
    plan = plan_with(tmp_path / "store")
    terminal.show_release(plan, row, console)
    assert plain(console) == f"no new release; {reason}\n"
    plan.artifacts.set_current("release", "f" * 32)
    terminal.show_release(plan, row, console)
    assert "the release of an earlier run stays: " in plain(console)


@pytest.mark.parametrize(
    ("code", "decision", "shown"),
    [(0, "reused", True), (0, "complete", True), (1, "complete", True), (1, "reused", False), (3, "reused", False)],
)
def test_a_failed_run_shows_no_table_of_what_it_reused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    code: int,
    decision: State,
    shown: bool,
) -> None:
    plan = plan_with(tmp_path / "store")
    made_decision.publish(tmp_path / "store", "chaos", tmp_path)

    def carried_out(run: Run, console: Console) -> int:
        run.board.update("decision", state=decision)
        return code

    monkeypatch.setattr("flows.__main__.make_plan", lambda experiment, wanted: plan)
    monkeypatch.setattr("flows.__main__._carry_out", carried_out)
    assert main(["run", "--experiment", "chaos"]) == code
    assert ("What it brings" in capsys.readouterr().out) is shown
