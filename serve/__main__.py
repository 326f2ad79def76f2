"""`python -m serve`: the service. With a command it looks after the service's database instead (keep.py)."""

import argparse
import sys

from serve import keep
from serve.settings import described
from serve.supervisor import main

parser = argparse.ArgumentParser(
    prog="python -m serve",
    description="Answers POST /retain; with a command, looks after the database of the service. Both are set by "
    "variables of the environment (docs/SETTINGS.md):",
    epilog=described(),
    formatter_class=argparse.RawDescriptionHelpFormatter,
)
keep.add_commands(parser)
options = parser.parse_args()
sys.exit(main() if options.command is None else keep.run(options))
