"""Asks services about the customers of an experiment's table, where there are no real ones: to see a rollout work.

    python -m flows.callers --seconds 60

Every request is about somebody whom no model was trained on, under an id that nobody had before.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import secrets
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import pyarrow.parquet as parquet

from engine.artifact import ArtifactStore, open_artifact
from engine.errors import RetainError
from engine.output import make_decoration
from engine.releases import DEFAULT_EXPERIMENT, current_release, experiment_of
from engine.store import open_store, store_url
from flows import stack
from retain.dataset import DatasetSpec
from retain.release import load
from retain.request import request_columns

THREADS = 4
PAUSE = 0.01  # seconds between two requests of one thread
ANSWER_SECONDS = 10.0


class Callers:
    """Ask the services at `apis` (base URLs) in turn, from start() to stop(). `key`: the secret of RETAIN_API_KEYS."""

    def __init__(self, spec: DatasetSpec, people: Sequence[dict[str, Any]], apis: Sequence[str], key: str) -> None:
        self.answers: Counter[str] = Counter()  # by the mode that they name: baseline or learned
        self.codes: Counter[int] = Counter()
        self.broken = 0  # requests without an answer
        self._id = spec.roles.get("id")
        self._people = people
        self._apis = apis
        self._headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        self._run = secrets.token_hex(4)
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(number,), daemon=True) for number in range(THREADS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _call(self, number: int) -> None:
        draw = random.Random(f"{self._run}-{number}")
        parts = urlsplit(self._apis[number % len(self._apis)])
        line = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=ANSWER_SECONDS)
        count = 0
        while not self._stopped.wait(PAUSE):
            count += 1
            person = draw.choice(self._people)
            if self._id is not None:
                person = person | {self._id: f"{self._run}-{number}-{count}"}
            try:
                line.request("POST", "/retain", json.dumps({"customer": person}), self._headers)
                answer = line.getresponse()
                content = json.loads(answer.read())
            except (OSError, http.client.HTTPException, ValueError):  # no answer, or none that is JSON
                line.close()
                with self._lock:
                    self.broken += 1
                continue
            with self._lock:
                self.codes[answer.status] += 1
                self.answers[content.get("mode", "none")] += answer.status == 200
        line.close()


def callers_of(named: str, apis: Sequence[str], key: str) -> Callers:
    """About the table of the experiment that EXPERIMENT names. Raises RetainError."""
    spec = load(open_artifact(current_release(named))).spec
    store = open_store(store_url())
    folder = ArtifactStore(store, experiment_of(named)).folder_of_current("customers")
    if folder is None:
        raise RetainError(f"experiment {named} has no customers in {store.url}")
    names = [column.name for column in request_columns(spec)]
    rows = parquet.read_table(open_artifact(folder)["data.parquet"]).to_pylist()
    return Callers(spec, [{name: row[name] for name in names} for row in rows if row["split"] != "train"], apis, key)


def call(seconds: float, stacked: stack.Stack = stack.SERVING) -> int:
    """Prints what was answered. Raises RetainError."""
    apis = [stacked.addresses[replica] for replica in stack.REPLICAS]
    callers = callers_of(os.environ.get("EXPERIMENT") or DEFAULT_EXPERIMENT, apis, stack.key(stacked))
    callers.start()
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            time.sleep(min(5.0, max(0.0, end - time.monotonic())))
            modes = ", ".join(f"{count} by {mode}" for mode, count in sorted(callers.answers.items()))
            print(f"{callers.codes.total()} requests, decided about: {modes or 'nobody'}", flush=True)
    finally:
        callers.stop()
    refused = {code: count for code, count in callers.codes.items() if code != 200}
    if refused or callers.broken:
        print(f"not answered: {refused}, without an answer: {callers.broken}", file=sys.stderr)
    return 1 if refused or callers.broken or not callers.codes else 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m flows.callers", description="Asks the service of `make serve.up` about customers of its table."
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="for how long (60)")
    try:
        return call(parser.parse_args(arguments).seconds)
    except RetainError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    make_decoration()
    sys.exit(main())
