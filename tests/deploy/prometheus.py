"""A real Prometheus on 127.0.0.1, with samples that were taken beforehand, or that it takes itself."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from deploy.calls import Unanswered
from deploy.measured import Prometheus
from tests.deploy.fakes import free_port
from tests.deploy.programs import program

PLENTY = 60.0

# (name, labels, seconds since 1970) -> value
Series = tuple[str, Mapping[str, str], Iterable[tuple[float, float]]]


def backfill(folder: Path, series: Sequence[Series]) -> None:
    """Puts samples into a folder that a Prometheus then starts with."""
    lines = []
    for name, labels, samples in series:
        text = ",".join(f'{label}="{value}"' for label, value in labels.items())
        lines += [f"{name}{{{text}}} {value} {at}" for at, value in samples]
    folder.mkdir(parents=True, exist_ok=True)
    text = folder.parent / "samples.txt"
    text.write_text("\n".join([*lines, "# EOF\n"]), encoding="utf-8")
    command = [program("promtool"), "tsdb", "create-blocks-from", "openmetrics", str(text), str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=PLENTY)


@contextlib.contextmanager
def running(folder: Path, config: str = "", *flags: str, port: int | None = None) -> Iterator[Prometheus]:
    """Once it answers. `folder`: of its data; `config`: the text of its prometheus.yaml."""
    file = folder.parent / "prometheus.yaml"
    file.write_text(config, encoding="utf-8")
    address = f"127.0.0.1:{port or free_port()}"
    command = [
        program("prometheus"), f"--config.file={file}", f"--storage.tsdb.path={folder}",
        f"--web.listen-address={address}", *flags,
    ]  # fmt: skip
    log = (folder.parent / "prometheus.log").open("wb")
    with log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            asked = Prometheus(f"http://{address}", seconds=PLENTY)
            answers(asked)
            yield asked
        finally:
            process.kill()


def answers(prometheus: Prometheus) -> None:
    """Returns once it does."""
    end = time.monotonic() + PLENTY
    while True:
        try:
            prometheus.samples("vector(1)")
            return
        except Unanswered:
            assert time.monotonic() < end
            time.sleep(0.05)
