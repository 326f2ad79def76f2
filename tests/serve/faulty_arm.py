"""An arm's process with a fault: `python -m tests.serve.faulty_arm FILE ...`, where FILE says what is wrong now.

The fault is looked up at each question, so a test can repair the arm, or break it, while it runs.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from retain.policy import Policy
from serve import arm

FAULT = Path(sys.argv.pop(1))
UNSAFE = "We predict you will leave us. Take {offer} off for {months}, or your contract ends today. Reply YES."


class Faulty(arm.Mind):
    def reply(self, content: dict[str, Any], block: bytes) -> dict[str, Any]:
        replied = super().reply(content, block)
        if (change := CHANGES.get(fault())) and "answers" in replied:
            replied["answers"] = [change(answer) for answer in replied["answers"]]
        return replied

    def ready(self, number: int) -> dict[str, Any]:
        if fault() == "stuck at the start":
            time.sleep(3600)
        ready = super().ready(number)
        for row in ready["table"]:
            if row["said"] and fault() == "unsafe":
                row["said"] |= {"text": UNSAFE, "source": "template"}
            if row["said"] and fault() == "unapproved":
                row["said"] |= {"text": row["said"]["text"] + " Thank you.", "source": "rlhf"}
            if row["chosen"] and fault() == "unsafe at first":
                row["chosen"] |= {"text": UNSAFE}
        return ready | OTHER_RELEASES.get(fault(), {})


CHANGES = {
    "no number": lambda answer: [answer[0], answer[1], ["x"] * len(answer[2])],
    "no probabilities": lambda answer: [answer[0], answer[1], [0.9] * len(answer[2])],
    "too few": lambda answer: [answer[0], answer[1], [1.0]],
    "unlikely action": lambda answer: [answer[0], int(np.argmin(answer[2])), answer[2]],
    "no action": lambda answer: [answer[0], 99, answer[2]],
    "another question's": lambda answer: [answer[0] + 1000, *answer[1:]],
    "a word": lambda answer: "answer",
}
OTHER_RELEASES: dict[str, dict[str, Any]] = {
    "another table": {"dataset": "0" * 64},
    "other offers": {"offers": {"levels": [1]}},
    "no table": {"table": []},
}


def fault() -> str:
    return FAULT.read_text()


def logits(policy: Policy, observation: Any) -> Any:
    match fault():
        case "throws":
            raise ZeroDivisionError("0001-TOY")
        case "nan":
            return SOUND(policy, observation) * np.nan
        case "hangs":
            while True:
                pass
        case "holds":  # in C, with the interpreter's lock, for longer than the world will stand
            re.match(r"(a+)+$", "a" * 60 + "b")
        case "slow":
            time.sleep(0.3)
        case "slower":
            time.sleep(0.7)
        case "eats":
            eaten = []
            while True:
                eaten.append(np.empty(1 << 20))  # not touched, which takes no time: what is reserved counts
        case "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        case "babbles":
            os.write(int(sys.argv[2]), b"\x05\0\0\0\0\0\0\0hello")
        case "prints":
            print("x" * 10_000_000, file=sys.stderr)
    return SOUND(policy, observation)


SOUND = Policy.logits

if __name__ == "__main__":
    arm.Mind = Faulty  # type: ignore[misc]
    Policy.logits = logits  # type: ignore[method-assign]
    sys.exit(arm.main())
