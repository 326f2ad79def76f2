"""`python -m engine request.json [--lifeline]`: one attempt at one stage; what a container runs.

With `--debug` in place of `--lifeline` the stage runs in the foreground, for a debugger (engine/debug.py).
"""

from __future__ import annotations

import faulthandler
import os
import sys
from pathlib import Path

from engine.debug import debug
from engine.driver import execute
from engine.environment import of_libraries
from engine.errors import RetainError
from engine.output import make_decoration
from engine.paths import why_unreadable
from engine.stage import BAD_INPUT, StageRequest


def main(arguments: list[str]) -> int:
    if not arguments or arguments[1:] not in ([], ["--lifeline"], ["--debug"]):
        print("usage: python -m engine REQUEST.json [--lifeline | --debug]", file=sys.stderr)
        return BAD_INPUT
    faulthandler.enable()
    try:
        request = StageRequest.model_validate_json(Path(arguments[0]).read_bytes())
    except OSError as error:
        print(f"error: {arguments[0]}: {why_unreadable(error)}", file=sys.stderr)
        return BAD_INPUT
    except ValueError as error:
        print(f"error: {arguments[0]}: not a stage request: {str(error).splitlines()[0]}", file=sys.stderr)
        return BAD_INPUT
    os.environ |= of_libraries(request.threads)  # before they are imported
    try:
        if "--debug" in arguments:
            return debug(request)
        return execute(request, lifeline="--lifeline" in arguments)
    except RetainError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    make_decoration()
    code = main(sys.argv[1:])
    # All is written and recorded. Taking the interpreter and its libraries down was seen to take 1.7 s under load:
    # time that no record would show.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
