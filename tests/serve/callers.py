"""Callers of a service under load, who remember what they were answered, and the comparison of that with the records.

Each of them asks about customers of its own, with an Idempotency-Key for each request. Where a connection breaks it
sends the same request again. It asks once more with keys that were answered, says what became of offers and opts out.
"""

from __future__ import annotations

import http.client
import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sqlalchemy import select

from retain.release import Release
from serve.batch import digest_of
from serve.database import Database
from serve.tables import decision, outcome, suppression
from tests.releases import rows
from tests.serve.memory import balance
from tests.serve.services import PLENTY, Address
from tests.words import check

PEOPLE = 300  # different ones; their ids are made up
LONGEST_TRIES = 60  # of one request, while everything that could answer it is killed


@dataclass
class Asked:
    """A request that was answered with a decision on record.

    `told` are outcomes and amounts that are on record, `suppressed` that an opt-out is. `meant` and `opts_out` are what
    was sent, which may be on record though the answer was a 503.
    """

    customer: str
    key: str
    body: bytes
    answer: bytes
    decision_id: str
    offer: int | None
    suppressed: bool = False
    opts_out: bool = False
    told: dict[str, Any] = field(default_factory=dict)
    meant: dict[str, Any] = field(default_factory=dict)


@dataclass
class Heard:
    """What one caller has been answered. `tries`: how often a request was sent whose connection broke."""

    asked: list[Asked] = field(default_factory=list)
    suppressed: set[str] = field(default_factory=set)
    codes: Counter[tuple[str, int]] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)  # of decisions: mode and why
    tries: Counter[int] = field(default_factory=Counter)
    unsafe: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    slowest: float = 0.0


class Callers:
    """As many threads as `count`, from __enter__ to __exit__; `addresses` may change meanwhile.

    `pause`: seconds between two requests of one caller.
    """

    def __init__(self, release: Release, addresses: list[Address], count: int = 3, pause: float = 0.01) -> None:
        self.addresses = addresses
        self.asks_again = True  # with keys that were answered
        self.heard = [Heard() for _ in range(count)]
        self._people = rows(release.spec, PEOPLE, seed=6)
        self._id = release.spec.roles["id"]
        self._months = release.terms.offers.months
        self._pause = pause
        self._stop = threading.Event()
        self._run = f"{time.time_ns():x}"
        self._threads = [threading.Thread(target=self._call, args=(number,)) for number in range(count)]
        self._failures: list[Exception] = []

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if error[0] is None:
            assert self._failures == []

    @property
    def asked(self) -> list[Asked]:
        return [each for heard in self.heard for each in heard.asked]

    @property
    def codes(self) -> Counter[tuple[str, int]]:
        return sum((Counter(heard.codes) for heard in self.heard), Counter())

    @property
    def reasons(self) -> Counter[str]:
        return sum((Counter(heard.reasons) for heard in self.heard), Counter())

    @property
    def tries(self) -> Counter[int]:
        return sum((Counter(heard.tries) for heard in self.heard), Counter())

    @property
    def wrong(self) -> list[str]:
        return [text for heard in self.heard for text in heard.wrong]

    @property
    def suppressed(self) -> set[str]:
        return {name for heard in self.heard for name in heard.suppressed}

    @property
    def unrecorded(self) -> int:
        """Answers without a contact, since nothing could be put on record."""
        return self.reasons["baseline state_unavailable"]

    @property
    def unavailable(self) -> int:
        """Outcomes and opt-outs that couldn't be put on record."""
        return sum(count for (_, code), count in self.codes.items() if code == 503)

    @property
    def answers(self) -> int:
        """To /retain, so far."""
        return sum(heard.codes["/retain", 200] for heard in self.heard)

    def check(self) -> None:
        """Nobody was answered with a 5xx by /retain, an unsafe message, or something else than before."""
        assert {code for path, code in self.codes if path == "/retain"} == {200}, self.codes
        assert {code for _, code in self.codes} <= {200, 503}, (self.codes, self.wrong)
        unsafe = [text for heard in self.heard for text in heard.unsafe]
        assert unsafe == [], unsafe
        assert self.wrong == [], self.wrong

    # -- one caller ------------------------------------------------------------------------------------------------

    def _call(self, number: int) -> None:
        heard, rng = self.heard[number], random.Random(number)
        caller = _Caller(self.addresses, heard, number)
        try:
            for count in range(10**9):
                if self._stop.wait(self._pause):
                    break
                customer = f"{self._run}-{number}-{count}"
                person = rng.choice(self._people) | {self._id: customer}
                body = json.dumps({"customer": person}).encode()
                self._ask(caller, heard, customer, body)
                if heard.asked:
                    self._tell(caller, heard, rng)
        except Exception as error:
            self._failures.append(error)
            raise
        finally:
            caller.close()

    def _ask(self, caller: _Caller, heard: Heard, customer: str, body: bytes) -> None:
        status, answer = caller.post("/retain", body, key=customer)
        if status != 200:
            return
        content = json.loads(answer)
        heard.reasons[f"{content['mode']} {content['why']}"] += 1
        if content["message"] is not None and not is_safe(content["message"]["text"], content["offer"], self._months):
            heard.unsafe.append(content["message"]["text"])
        if content["decision_id"] is None:
            if content["offer"] is not None or content["why"] != "state_unavailable":
                heard.wrong.append(f"an offer that isn't on record: {content}")
            return
        if content["repeated"]:
            heard.wrong.append(f"a new customer has an offer already: {content}")
        heard.asked.append(Asked(customer, customer, body, answer, content["decision_id"], content["offer"]))

    def _tell(self, caller: _Caller, heard: Heard, rng: random.Random) -> None:
        asked = rng.choice(heard.asked[-20:])
        match rng.choice(["again", "accepted", "declined", "churned", "revenue", "suppress", "", "", ""]):
            case "again" if self.asks_again:
                self._again(caller, heard, asked)
            case "suppress":
                asked.opts_out = True
                status, _ = caller.post("/suppress", json.dumps({"customer": asked.customer}).encode())
                if status == 200:
                    asked.suppressed = True
                    heard.suppressed.add(asked.customer)
            case "accepted" | "declined" as answer if asked.offer is not None:
                self._outcome(caller, heard, asked, "answer", {"outcome": asked.meant.setdefault("answer", answer)})
            case "churned":
                self._outcome(caller, heard, asked, "churned", {"outcome": "churned"})
            case "revenue":
                amount = asked.meant.setdefault("revenue", rng.randint(0, 100))
                self._outcome(caller, heard, asked, "revenue", {"outcome": "revenue", "month": 1, "amount": amount})

    def _again(self, caller: _Caller, heard: Heard, asked: Asked) -> None:
        """The same answer comes back, without the contact after an opt-out."""
        status, answer = caller.post("/retain", asked.body, key=asked.key)
        if status != 200 or (content := json.loads(answer))["decision_id"] is None:
            return
        if not asked.opts_out and timeless(answer) != timeless(asked.answer):
            heard.wrong.append(f"another answer for the same key: {answer!r}")
        if asked.suppressed and content["offer"] is not None:
            heard.wrong.append(f"an offer for one who opted out: {answer!r}")

    def _outcome(self, caller: _Caller, heard: Heard, asked: Asked, name: str, told: dict[str, Any]) -> None:
        status, answer = caller.post("/outcomes", json.dumps({"decision_id": asked.decision_id, **told}).encode())
        if status == 200:
            asked.told[name] = told.get("amount", told["outcome"])
        elif status != 503:
            heard.wrong.append(f"{told} was answered {answer!r}")


class _Caller:
    """Sends requests on a connection that it keeps; on a new one, to the next address, where that breaks."""

    def __init__(self, addresses: list[Address], heard: Heard, number: int) -> None:
        self._addresses, self._heard, self._turn = addresses, heard, number
        self._connection: http.client.HTTPConnection | None = None

    def post(self, path: str, body: bytes, key: str | None = None) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json"} | ({} if key is None else {"Idempotency-Key": key})
        for tries in range(LONGEST_TRIES):
            began = time.monotonic()
            try:
                connection = self._connection
                if connection is None:
                    connection = http.client.HTTPConnection(*self._address(), timeout=PLENTY)
                    self._connection = connection
                connection.request("POST", path, body, headers)
                response = connection.getresponse()
                answer = response.read()
            except (OSError, http.client.HTTPException):
                self.close()
                self._turn += 1
                if tries:
                    time.sleep(min(0.5, 0.05 * tries))
                continue
            self._heard.codes[path, response.status] += 1
            self._heard.tries[tries] += 1
            self._heard.slowest = max(self._heard.slowest, time.monotonic() - began)
            return response.status, answer
        raise AssertionError(f"{path} was not answered at {self._addresses}")

    def _address(self) -> Address:
        addresses = list(self._addresses)
        return addresses[self._turn % len(addresses)]

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def timeless(answer: bytes) -> bytes:
    """An answer without the time from when on its message may be sent, which is another one whenever it is given."""
    return re.sub(rb'"send_after":"[^"]*"', b"", answer)


@cache
def is_safe(text: str, offer: int, months: int) -> bool:
    body, _, _ = text.partition("\n")
    return check(body, offer, months) == []


def compare(url: str, asked: Sequence[Asked], suppressed: Collection[str] = ()) -> dict[str, float]:
    """Every decision that was answered is on record once, with what was answered, and what became of it too; the
    wallet has spent what the records say. Returns figures."""
    with closing(Database(url)) as database:
        spent, opened = balance(database)
        with database.reading() as connection:
            found = connection.execute(select(decision)).all()
            told = connection.execute(select(outcome)).all()
            opted_out = {name for (name,) in connection.execute(select(suppression.c.customer))}
        salt = database.salt
    by_id = {row.id: row for row in found}
    of_customer = Counter(row.customer for row in found if not row.withdrawn)
    outcomes = {(row.decision, row.kind): row.amount for row in told}
    assert max(of_customer.values(), default=0) <= 1, "a request has two decisions"
    assert len(outcomes) == len(told)
    for each in asked:
        row = by_id.get(each.decision_id)
        assert row is not None, f"an answered decision is missing: {each}"
        assert (timeless(row.answer.encode()), row.customer, row.withdrawn) == (
            timeless(each.answer),
            digest_of(each.customer, salt),
            False,
        )
        assert row.offer == each.offer
        if "answer" in each.told:
            assert (row.answered, (row.id, row.answered) in outcomes) == (each.told["answer"], True)
        for kind in ("churned", "revenue"):
            if kind in each.told:
                assert (row.id, kind) in outcomes
        assert "revenue" not in each.told or outcomes[row.id, "revenue"] == each.told["revenue"]
    assert {digest_of(name, salt) for name in suppressed} <= opted_out
    answered = {each.decision_id for each in asked}
    return {
        "answered": len(answered),
        "on record": len(found),
        "withdrawn": sum(bool(row.withdrawn) for row in found),
        "nobody heard of": sum(row.id not in answered and not row.withdrawn for row in found),
        "spent": spent,
        "open": opened,
    }
