"""`python -m serve`: the service. With a command it looks after the service's database instead (keep.py)."""

import argparse
import sys

from engine.settings import described
from serve.settings import SETTINGS
from serve.supervisor import main


def run() -> int:
    if len(sys.argv) == 1:
        return main()
    from serve import keep  # its libraries would stay with the supervisor: 50 MB, and a third of a second of its start

    parser = argparse.ArgumentParser(
        prog="python -m serve",
        description="Answers POST /retain; with a command, looks after the database of the service. Both are set by "
        "variables of the environment (docs/SETTINGS.md):",
        epilog=described(SETTINGS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    keep.add_commands(parser)
    options = parser.parse_args()
    return main() if options.command is None else keep.run(options)


sys.exit(run())
