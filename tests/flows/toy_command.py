"""`python -m tests.flows.toy_command ROOT`: what `make run` calls, Prefect and all, on two toy stages."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from engine.output import make_decoration
from flows import __main__ as command
from tests.flows.toy_plan import toy_plan, toy_stage


def main(root: str) -> int:
    plan = toy_plan(Path(root), (toy_stage("customers"), toy_stage("accept", ("customers",))))
    command.make_plan = lambda experiment, wanted: plan  # type: ignore[assignment]
    return command.main(["run", "--experiment", "chaos"])


if __name__ == "__main__":
    make_decoration()
    code = main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)
