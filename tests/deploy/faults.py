"""What tests of faults in the whole chain share: how long it took, and that nobody was answered by a wrong arm."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path

from retain.record import Record
from serve.database import Database
from serve.keep import exported
from serve.router import Router
from tests.deploy.chain import Chain, until
from tests.reliability import write_row
from tests.serve.callers import Callers, compare

BACK_SECONDS = 15.0  # from the end of an alert's `for` to the baseline on both replicas
DEAD_SECONDS = 60.0  # from the death of anything in the chain
LOOK_SECONDS = 15.0  # for which a replica may go by what the rollout was before: no longer than its lease holds
SERVED = re.compile(r"([0-9a-f]{12})(?:, which is the champion,)? for ([\d.]+) % of customers")

MakeChain = Callable[..., Chain]


def busy(callers: Callers, more: int = 300) -> None:
    """Returns once so many more requests were answered."""
    answers = callers.answers
    until(lambda: callers.answers > answers + more)


def rolled_back_by(chain: Chain, alert: str) -> float:
    """Seconds from when the alert fires to the baseline on both replicas, and that all of it is on record."""
    until(lambda: chain.state(alert) == "firing", patience=900)
    seconds = until(lambda: chain.served(0.0))
    event = chain.rollout.history[-1]
    assert (event.action, event.by) == ("roll_back", "controller")
    assert alert in event.reason
    until(lambda: any(page["release"] == event.release for page in chain.pager.pages))
    return seconds


def sound(chain: Chain, callers: Callers) -> dict[str, float]:
    """Nobody saw a 5xx or an unsafe message, and what was answered is on record, by the arm that the rollout said."""
    callers.check()
    compare(chain.url, callers.asked, callers.suppressed)
    return by_the_rollout(chain, callers)


def by_the_rollout(chain: Chain, callers: Callers) -> dict[str, float]:
    """Whoever was decided about in a trial was so while the rollout wanted that trial, at its percentage, and is whose
    the draw makes her. How many the challenger has decided about."""
    trials = list(_trials(chain))
    shifted = chain.shift.read_text() != "0" or chain.clock_was_set
    customers = {each.decision_id: each.customer for each in callers.asked}
    learned = 0
    with closing(Database(chain.url)) as database:
        records = [Record.model_validate_json(line) for line in exported(database, None)]
    for record in records:
        detail, versions = record.detail, record.answer["versions"]
        learned += record.arm == "learned"
        if detail.trial is None:
            assert (record.arm, detail.assigned) == ("baseline", "baseline"), record
            continue
        at = datetime.fromisoformat(record.at).timestamp()
        assert any(
            (detail.trial, detail.percent) == trial[:2] and (shifted or trial[2] - 1 <= at <= trial[3] + LOOK_SECONDS)
            for trial in trials
        ), (record, trials)
        assert detail.assigned == "learned" or record.arm == "baseline"
        if record.decision_id in customers:
            assert detail.percent is not None
            router = Router(force_baseline=False, percent=detail.percent)
            assert detail.assigned == router.arm(customers[record.decision_id])
        others = detail.trial if record.arm == "learned" and detail.trial != versions["release"] else None
        assert versions.get("challenger") == others, record
    return {"records": len(records), "learned": learned}


def _trials(chain: Chain) -> Iterator[tuple[str, float, float, float]]:
    """Release, percent, and from when to when, in seconds since 1970."""
    events = chain.rollout.history
    for event, following in zip(events, (*events[1:], None)):
        if found := SERVED.fullmatch(event.after):
            until_when = following.at / 1e6 if following is not None else float("inf")
            yield found[1], float(found[2]), event.at / 1e6, until_when


def report(
    fault: str, came: str, answers: int, took: float | None = None, limit: float | None = None, scale: float = 60
) -> None:
    """A row of docs/RELIABILITY.md."""
    seconds = "—" if took is None else f"{took:.1f}"
    most = "—" if limit is None else f"{limit:.0f}"
    count = str(answers or "—")
    write_row("faults of a rollout", f"| {fault} | {scale:g} | {came} | {seconds} | {most} | {count} |")


@contextmanager
def disk(folder: Path, megabytes: int = 64) -> Iterator[bool]:
    """A file system of its own at that folder; False where only root could mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}M,mode=755", "tmpfs", str(folder)]
    with suppress(FileNotFoundError):
        if subprocess.run(mount, capture_output=True).returncode == 0:
            try:
                yield True
            finally:
                subprocess.run(["umount", "--lazy", str(folder)], check=True)
            return
    yield False


def fill(folder: Path) -> Path:
    """Leaves no room in the file system of that folder. What takes the room, to be removed again."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))
    return ballast
