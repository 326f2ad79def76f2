"""`python -m serve`: the service. `--help` lists its settings."""

import argparse
import sys

from serve.settings import described
from serve.supervisor import main

parser = argparse.ArgumentParser(
    prog="python -m serve",
    description="Answers POST /retain. It is set by variables of the environment alone (docs/SETTINGS.md):",
    epilog=described(),
    formatter_class=argparse.RawDescriptionHelpFormatter,
)
parser.parse_args()
sys.exit(main())
