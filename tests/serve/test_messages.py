"""What a person sees of the messages of a release, and how she approves them; that nothing unread is ever sent."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from engine import approvals
from engine.approvals import Approvals, Watch, identifier, read, record
from engine.store import FolderStore
from retain.release import Release
from serve import app, messages
from serve.loading import load_release
from serve.readiness import banks, ready
from serve.router import Router
from serve.settings import read as settings
from tests.releases import bank, publish, rows, standing
from tests.serve.apps import app_of
from tests.serve.client import Client

TEXTS = sorted({entry["text"] for source in ("sft", "rlhf") for entry in bank(source)})


@pytest.fixture
def unread(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderStore:
    """A copy of the store whose messages nobody has read."""
    shutil.copytree(store, tmp_path / "store", ignore=shutil.ignore_patterns("approvals*"))
    monkeypatch.setenv("RETAIN_STORE", str(tmp_path / "store"))
    return FolderStore(tmp_path / "store")


_numbers = count()


def run(*arguments: str, **environment: str) -> int:
    return messages.main(arguments, {"EXPERIMENT": "toy", **environment})


def identity(text: str) -> str:
    return identifier(text)[: messages.ID_DIGITS]


def test_every_message_is_shown_with_the_template_in_its_place(
    unread: FolderStore, capsys: pytest.CaptureFixture[str]
) -> None:
    record(unread, TEXTS[0], "approved", "Ann")
    record(unread, TEXTS[1], "rejected", "Bob")
    assert run() == 0
    shown = capsys.readouterr().out
    entries = [*bank("sft"), *bank("rlhf")]
    for entry in entries:
        assert f"\n{entry['situation']}, {entry['offer']} %  in its place: " in shown
        assert shown.count(entry["text"] + "\n") == sum(other["text"] == entry["text"] for other in entries)
    lines = [line for line in shown.splitlines() if line.startswith("  ")]
    assert len(lines) == len(entries)
    for text, said in ((TEXTS[0], "approved by Ann, 20"), (TEXTS[1], "rejected by Bob, 20"), (TEXTS[2], "unread")):
        assert all(f"  {said}" in line for line in lines if line.startswith(f"  {identity(text)}"))
    assert "sft: 48 messages, 6 approved (12 %), 6 rejected, 36 wait for a person to read them" in shown
    assert "rlhf: 48 messages, 0 approved (0 %), 0 rejected, 48 wait for a person to read them" in shown


def test_what_was_shown_is_approved_but_what_is_excepted(
    unread: FolderStore, capsys: pytest.CaptureFixture[str]
) -> None:
    record(unread, TEXTS[2], "approved", "Bob")
    run()
    capsys.readouterr()
    refused = [TEXTS[0], TEXTS[2]]
    assert run("approve", "--by", " Ann ", "--except", f"{identity(refused[0])},{identifier(refused[1]).upper()}") == 0
    verdicts = read(unread).verdicts
    assert verdicts == {text: "rejected" if text in refused else "approved" for text in TEXTS}
    assert {reading[-1].by for reading in read(unread).readings.values()} == {"Ann"}
    said = capsys.readouterr().out
    assert f"{len(TEXTS) - 2} approved and 2 rejected by Ann, in {unread.url}." in said
    assert run("approve", "--by", "Eve") == 0  # nothing is left to judge
    assert read(unread).verdicts == verdicts


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "BY: wants the name of the person"),
        (("--by", "  "), "BY: wants the name of the person"),
        (("--by", "Ann\x1b[2J"), "BY: wants the name of the person"),
        (("--by", "A" * 61), "BY: wants the name of the person"),
        (("--by", "Ann", "--except", "00000000"), "EXCEPT=00000000: is the id of no message of this release"),
        (("--by", "Ann", "--except", "a"), "EXCEPT=a: is the id of no message of this release"),
    ],
)
def test_a_bad_name_or_id_records_nothing(
    unread: FolderStore, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], complaint: str
) -> None:
    run()
    capsys.readouterr()
    assert run("approve", *arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"error: {complaint}")
    assert read(unread).readings == {}


def test_what_came_after_the_look_is_not_approved(
    unread: FolderStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run()
    folder = tmp_path / "messages"
    folder.mkdir()
    later = [entry | {"text": entry["text"] + " Thank you."} for entry in bank("sft", situations=("price",))]
    (folder / "sft.json").write_text(json.dumps(later))
    other = str(publish(tmp_path / "other", "messages", folder))
    assert run("approve", "--by", "Ann", SFT_PATH=other) == 2
    assert "4 of these messages were shown to nobody yet: read them with `make messages`" in capsys.readouterr().err
    assert read(unread).readings == {}
    assert run(SFT_PATH=other) == 0
    assert run("approve", "--by", "Ann", SFT_PATH=other) == 0
    assert read(unread).verdicts.keys() >= {entry["text"] for entry in later}


def test_messages_that_can_not_be_printed_move_no_cursor(unread: FolderStore) -> None:
    assert messages._plain("a\x1b[2Jb\n") == "a·[2Jb·"


def sources(client: Client, customer: dict[str, Any]) -> str:
    """Who wrote what is sent to somebody like that customer, whom nobody has asked about yet."""
    answer = client.post({"customer": customer | {"customerID": f"M-{next(_numbers)}"}}).json()
    assert answer["action"] == "contact"
    return str(answer["message"]["source"])


@pytest.mark.parametrize("override", ["", "SFT_PATH"])
def test_a_message_is_sent_when_it_was_approved_and_not_after_it_was_rejected(
    unread: FolderStore, override: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the service runs; a message of another bank waits for a reader as well."""
    environment = {"EXPERIMENT": "toy"}
    if override:
        environment[override] = str(unread.root / "toy" / "messages" / ("f" * 64))
    version, release = load_release(settings(environment))
    monkeypatch.setattr(app, "READ_AGAIN_SECONDS", 0.001)
    served = app_of(version, release, Router(hold_out=0.0), Watch())
    client, service = Client(served), served.state.service
    customer = next(
        row for row in rows(release.spec, 100, 6)
        if client.post({"customer": row}).json()["action"] == "contact"
    )  # fmt: skip
    assert sources(client, customer) == "template"
    ready = client.get("/readyz").json()
    assert ready["messages"]["sft"] == {"listed": 48, "approved": 0, "rejected": 0, "unread": 48}
    assert (
        "48 of 48 messages of sft wait for a person to read them (make messages): others, or templates, are sent"
        in ready["warnings"]
    )

    async def until(wanted: str) -> None:
        heard, take = asyncio.Event(), service.take_approvals

        def listen(approvals: Approvals) -> None:
            take(approvals)
            if approvals.verdicts == dict.fromkeys(TEXTS, wanted):
                heard.set()

        monkeypatch.setattr(service, "take_approvals", listen)
        await heard.wait()

    for verdict, source in (("approved", "sft"), ("rejected", "template")):
        for text in TEXTS:
            record(unread, text, verdict, "Ann")  # type: ignore[arg-type]
        client.run(asyncio.wait_for(until(verdict), 60))
        assert sources(client, customer) == source


def test_without_its_store_nothing_counts_as_read(
    store: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A release that was copied elsewhere, whose approvals were not."""
    monkeypatch.setenv("RETAIN_STORE", str(tmp_path / "none"))
    version, release = load_release(settings({"RELEASE_PATH": str(artifact)}))
    served = app_of(version, release, watch=Watch())
    warnings = Client(served).get("/readyz").json()["warnings"]
    assert f"{tmp_path / 'none'}: can't be read (No such file or directory): no message counts as read" in warnings
    assert banks(served.state.service) == "messages: 24 of template, sft 0 of 48 approved, rlhf 0 of 48 approved"
    served.state.service.take_approvals(Watch(str(store)).changed())
    assert Client(served).get("/readyz").json()["warnings"] == []


def test_a_look_that_fails_leaves_nothing_approved(
    release: Release, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(str(store))
    served = app_of("v1", release, watch=watch)
    service, failed = served.state.service, asyncio.Event()
    assert service.release.verdicts == dict.fromkeys(TEXTS, "approved")
    take = service.take_approvals
    monkeypatch.setattr(app, "READ_AGAIN_SECONDS", 0.001)
    monkeypatch.setattr(watch, "changed", lambda: 1 / 0)
    monkeypatch.setattr(service, "take_approvals", lambda approvals: (take(approvals), failed.set()))

    async def until() -> None:
        async with served.router.lifespan_context(served):
            await failed.wait()

    asyncio.run(asyncio.wait_for(until(), 60))
    assert service.release.verdicts == {}
    assert "ZeroDivisionError" in ready(service)["warnings"][0]


def test_a_look_that_hangs_leaves_nothing_approved_until_the_store_answers(
    release: Release, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approvals, "SETTLED_NS", 0)  # so that a look that is not told to forget sees no change
    watch = Watch(str(store))
    service = (served := app_of("v1", release, watch=watch)).state.service
    take, changed = service.take_approvals, watch.changed
    answers, warnings, back = threading.Event(), [], asyncio.Event()
    assert changed() is None

    def hang() -> Approvals | None:
        answers.wait(60)
        return changed()

    def listen(heard: Approvals) -> None:
        take(heard)
        if heard.problem:
            warnings.append((ready(service)["warnings"][0], service.release.verdicts))
            monkeypatch.setattr(app, "LOOK_SECONDS", 60)
            answers.set()
        else:
            back.set()

    monkeypatch.setattr(app, "READ_AGAIN_SECONDS", 0.001)
    monkeypatch.setattr(app, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(watch, "changed", hang)
    monkeypatch.setattr(service, "take_approvals", listen)

    async def until_back() -> None:
        async with served.router.lifespan_context(served):
            await back.wait()

    asyncio.run(asyncio.wait_for(until_back(), 30))
    assert warnings == [(f"{store}: can't be read (no answer within 0.01 seconds): no message counts as read", {})]
    assert service.release.verdicts == dict.fromkeys(TEXTS, "approved")


def test_a_look_that_hangs_does_not_keep_the_service_from_stopping(
    release: Release, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(str(store))
    served = app_of("v1", release, watch=watch)
    answers = threading.Event()
    monkeypatch.setattr(app, "READ_AGAIN_SECONDS", 0.001)
    before = set(threading.enumerate())

    async def stop_once_it_hangs() -> None:
        hangs, loop = asyncio.Event(), asyncio.get_running_loop()
        monkeypatch.setattr(watch, "changed", lambda: (loop.call_soon_threadsafe(hangs.set), answers.wait(30)))
        async with served.router.lifespan_context(served):
            await hangs.wait()

    asyncio.run(stop_once_it_hangs())
    (looking,) = set(threading.enumerate()) - before  # it hangs, and the loop has ended all the same
    assert looking.daemon
    answers.set()
    looking.join(30)


def test_what_a_release_has_computed_is_kept_where_no_verdict_changed(release: Release) -> None:
    service = app_of("v1", release).state.service
    service.take_approvals(Approvals())  # of a store without records: none of the release's own verdicts counts
    assert service.release.verdicts == {}
    before = service.release
    service.take_approvals(Approvals())
    assert service.release is before
    service.take_approvals(Approvals(problem="away"))
    assert service.release is not before


def test_a_record_that_may_not_be_read_is_named_with_its_cause(release: Release) -> None:
    said = "store/approvals/1.json: can't be read (Permission denied)"
    lines = [line.plain for line in messages.summary(release, Approvals(unreadable=(said,)))]
    assert lines[-1] == f"{said}; its text counts as unread"
    service = app_of("v1", release).state.service
    service.take_approvals(Approvals(unreadable=(said,)))
    assert f"{said}; its text counts as unread" in ready(service)["warnings"]


def test_what_somebody_rejects_meanwhile_is_not_approved(
    unread: FolderStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    capsys.readouterr()

    def late(store: FolderStore, texts: list[str]) -> list[str]:
        record(unread, TEXTS[0], "rejected", "Bob")
        return approvals.not_shown(store, texts)

    monkeypatch.setattr(messages, "not_shown", late)
    assert run("approve", "--by", "Ann") == 0
    assert read(unread).verdicts == dict.fromkeys(TEXTS, "approved") | {TEXTS[0]: "rejected"}
    said = capsys.readouterr().out
    assert f"skipped   {TEXTS[0]}\n" in said
    assert f"{len(TEXTS) - 1} approved and 0 rejected by Ann; 1 skipped, since somebody else judged them" in said


@pytest.mark.parametrize("output", [">&-", ">/dev/full"])
def test_what_can_not_be_printed_does_not_count_as_shown(unread: FolderStore, output: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -m serve.messages {output}', sys.executable],
        env={**os.environ, "EXPERIMENT": "toy"},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: standard output")
    assert done.stderr.count("\n") == 1
    assert approvals.not_shown(unread, TEXTS) == [*TEXTS]


def test_a_release_without_a_language_model_says_so(release: Release) -> None:
    plain = replace(release, banks={"template": release.banks["template"]})
    said = "\n".join(line.plain for line in messages.lines(messages.Listed("v1", plain, Approvals())))
    assert said.strip() == "this release holds no messages of a language model: templates are sent"


def test_a_bank_that_is_shadow_only_says_so(release: Release) -> None:
    in_shadow = standing(release, "rlhf", "shadow_only", "rm.auc")
    sft, rlhf = (line.plain for line in messages.summary(in_shadow, Approvals()))
    assert "sent to nobody" not in sft
    assert rlhf.endswith("; shadow_only, sent to nobody")
