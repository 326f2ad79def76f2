"""Requests, each about another customer: as many as a service takes (wrk), or at given moments."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

CONNECTIONS = 16
ID = "bench-%010d"
MARK = "0" * 16  # as long as an id

# `args`: the number of the last request before. Heads and bodies are put together by hand, since wrk.format costs more
# than all the rest.
SCRIPT = """
local rows = {%s}
local head = "POST /retain HTTP/1.1\\r\\nHost: localhost\\r\\nContent-Type: application/json\\r\\nContent-Length: "
local number = 0
function init(args) number = tonumber(args[1]) end
function request()
  number = number + 1
  local row = rows[number %% #rows + 1]
  return head .. row[1] .. "\\r\\n\\r\\n" .. row[2] .. string.format("bench-%%010d", number) .. row[3]
end
function done(summary, latency, requests)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format('\\n{"requests": %%d, "seconds": %%f, "failed": %%d, "p50_ms": %%f, "p99_ms": %%f}\\n',
    summary.requests, summary.duration / 1e6, failed, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""

Body = tuple[str, str]  # what comes before the customer's id, and after it


class Numbers:
    """Of requests, none of them twice."""

    def __init__(self) -> None:
        self.last = 0

    def take(self, count: int) -> int:
        """The number before so many new ones."""
        before, self.last = self.last, self.last + count
        return before


def bodies(rows: Sequence[Mapping[str, Any]], column: str) -> list[Body]:
    """Of requests about these customers, without their id, which is in `column`."""
    parts = [json.dumps({"customer": {**row, column: MARK}}).split(MARK) for row in rows]
    return [(before, after) for before, after in parts]


def script(requests: Sequence[Body]) -> str:
    """For wrk."""
    rows = (f"{{{len(a) + len(MARK) + len(b)}, [==[{a}]==], [==[{b}]==]}}" for a, b in requests)
    return SCRIPT % ",\n".join(rows)


def flood(url: str, lua: str, seconds: float, core: int, after: int) -> dict[str, float]:
    """As many requests as CONNECTIONS connections get answered, with numbers above `after`: how many, in how many
    seconds, how many failed, and percentiles of the latency in ms."""
    wrk = shutil.which("wrk")
    assert wrk is not None
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(lua)
        file.flush()
        command = ["taskset", "-c", str(core), wrk, "-t1", f"-c{CONNECTIONS}", f"-d{seconds:.0f}s", "-s", file.name]
        out = subprocess.run([*command, url, "--", str(after)], capture_output=True, encoding="utf-8", check=True)
    found: dict[str, float] = json.loads(out.stdout.splitlines()[-1])
    return found


class Paced(NamedTuple):
    """Seconds from when each request was due to its answer, and how many weren't answered with 200."""

    seconds: list[float]
    failed: int


async def paced(url: str, requests: Sequence[Body], rate: float, seconds: float, after: int) -> Paced:
    """Requests at random moments (a Poisson process of `rate` a second), whether those before were answered or not; a
    request that finds no connection free waits, and that counts."""
    address = urlsplit(url)
    draw, moment, due = random.Random(0), 0.0, asyncio.Queue[tuple[int, float]]()
    connections = [await asyncio.open_connection(address.hostname, address.port) for _ in range(CONNECTIONS)]
    begin = time.perf_counter() + 0.1
    taken: list[float] = []
    failed = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal failed
        while True:
            number, moment = await due.get()
            before, behind = requests[number % len(requests)]
            body = (before + ID % (after + number) + behind).encode()
            head = "POST /retain HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
            writer.write(f"{head}{len(body)}\r\n\r\n".encode() + body)
            said = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in said.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.split(b":")[1]))
            taken.append(time.perf_counter() - moment)
            failed += not said.startswith(b"HTTP/1.1 200")
            due.task_done()

    tasks = [asyncio.create_task(answer(*connection)) for connection in connections]
    number = 0
    while (moment := moment + draw.expovariate(rate)) < seconds:
        number += 1
        await asyncio.sleep(max(0.0, begin + moment - time.perf_counter()))
        due.put_nowait((number, begin + moment))
    await due.join()
    for task in tasks:
        task.cancel()
    for _, writer in connections:
        writer.close()
    return Paced(taken, failed)


def percentile(values: Sequence[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
