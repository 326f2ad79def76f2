"""Takes a rollout forward by people, and back by itself.

    python -m deploy.controller run        watches alerts and Prometheus, renews the lease, rolls back, pages
    python -m deploy.controller status     what is served, and what is waited for
    python -m deploy.controller propose RELEASE [--champion RELEASE] [--in-place-of RELEASE] --by NAME --reason TEXT
    python -m deploy.controller accept PART --criteria A,B --digest DIGEST --by NAME --reason TEXT
    python -m deploy.controller advance --to canary|full --by NAME --reason TEXT
    python -m deploy.controller promote RELEASE --by NAME --reason TEXT
    python -m deploy.controller rollback --by NAME --reason TEXT
    python -m deploy.controller set-percent PERCENT --by NAME --reason TEXT
    python -m deploy.controller release-latch --by NAME --reason TEXT
    python -m deploy.controller forgive RELEASE --by NAME --reason TEXT

Exit codes: 0 done; 1 refused; 2 a bad setting or argument; 3 Prometheus, a replica or the store doesn't answer.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console

from deploy import people
from deploy.people import Desk, Signature, desk
from deploy.settings import SETTINGS, read
from deploy.status import lines
from engine.errors import RetainError, StoreUnavailable
from engine.output import make_decoration
from engine.settings import described
from retain.parts import Acceptance
from retain.rollout import RolloutError

WIDTH = 160  # where there is no terminal
REFUSED, BAD, UNANSWERED = 1, 2, 3

Command = Callable[[Desk, argparse.Namespace], list[str]]


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    options = _parser().parse_args(arguments)
    try:
        ours = desk(read(environment), lambda text: print(text, file=sys.stderr))
        for line in options.carry_out(ours, options):
            print(line)
    except RolloutError as error:
        print(f"Refused: {error}", file=sys.stderr)
        return REFUSED
    except StoreUnavailable as error:
        print(error, file=sys.stderr)
        return UNANSWERED
    except RetainError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.controller",
        description="Takes a rollout forward by people, and back by itself. Exit codes: 0 done, 1 refused, 2 a bad "
        "setting or argument, 3 Prometheus, a replica or the store doesn't answer. Settings are variables of the "
        "environment (docs/SETTINGS.md), RETAIN_STORE and:",
        epilog=described(SETTINGS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    watching = "watches alerts and Prometheus, renews the lease, rolls back, pages"
    commands.add_parser("run", help=watching, description=watching).set_defaults(carry_out=_run)
    standing = "where the rollout stands, what each replica serves, and what is waited for"
    commands.add_parser("status", help=standing, description=standing).set_defaults(carry_out=_status)
    propose = _signed(commands, "propose", _propose, "puts a release's learned policy into the shadow")
    propose.add_argument("release", metavar="RELEASE", help="its version, or its folder in the store")
    propose.add_argument(
        "--champion", metavar="RELEASE", help="release whose baseline decides once the services were restarted"
    )
    propose.add_argument(
        "--in-place-of", metavar="RELEASE", help="the challenger that leaves without blame; the baseline takes over"
    )
    accept = _signed(commands, "accept", _accept, "lets customers be shown a part that missed criteria of value")
    accept.add_argument("part", metavar="PART", help="such as decision")
    accept.add_argument("--criteria", required=True, help="all that it missed, with commas between them")
    accept.add_argument("--digest", required=True, help="of the part, as `propose` shows it")
    advance = _signed(commands, "advance", _advance, "one step forward: canary, its next percent, full")
    advance.add_argument("--to", required=True, choices=["canary", "full"])
    advance.add_argument("--accept-missed", metavar="PART:CRITERIA", help="accepts a part in the same step")
    advance.add_argument("--digest", help="of the part that is accepted")
    advance.add_argument("--accept-hold", action="append", default=[], metavar="SIGNAL", help="full without nrr")
    promote = _signed(commands, "promote", _promote, "makes the challenger that decides about everybody the champion")
    promote.add_argument("release", metavar="RELEASE", help="the challenger's version: naming it confirms it")
    _signed(commands, "rollback", _rollback, "the baseline for everybody, at once")
    percent = _signed(commands, "set-percent", _set_percent, "fewer customers, at once; 0 is the shadow again")
    percent.add_argument("percent", type=_percent, metavar="PERCENT")
    _signed(commands, "release-latch", _release_latch, "after a rollback: other releases may be proposed again")
    forgiven = _signed(commands, "forgive", _forgive, "lets a release out of quarantine")
    forgiven.add_argument("release", metavar="RELEASE", help="its version, or its folder in the store")
    return parser


def _signed(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, carry_out: Command, what: str
) -> argparse.ArgumentParser:
    """A command that a person signs."""
    command = commands.add_parser(name, help=what, description=what)
    command.add_argument("--by", required=True, metavar="NAME", help="who you are")
    command.add_argument("--reason", required=True, metavar="TEXT", help="why, in a line")
    command.set_defaults(carry_out=carry_out)
    return command


def _percent(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def _who(options: argparse.Namespace) -> Signature:
    return Signature(options.by, options.reason)


def _run(desk: Desk, options: argparse.Namespace) -> list[str]:
    from deploy.run import run  # its libraries take half a second, which nobody has who rolls back

    run(desk.settings, desk.store)
    return []


def _status(desk: Desk, options: argparse.Namespace) -> list[str]:
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDTH)
    for line in lines(desk):
        console.print(line)
    return []


def _propose(desk: Desk, options: argparse.Namespace) -> list[str]:
    who, leaves = _who(options), options.in_place_of
    return people.propose_release(desk, options.release, who, options.champion, in_place_of=leaves)


def _accept(desk: Desk, options: argparse.Namespace) -> list[str]:
    return people.accept_part(desk, options.part, options.criteria.split(","), options.digest, _who(options))


def _advance(desk: Desk, options: argparse.Namespace) -> list[str]:
    return people.advance_to(desk, options.to, _who(options), accepted=_accepted(options), holds=options.accept_hold)


def _accepted(options: argparse.Namespace) -> Acceptance | None:
    if options.accept_missed is None and options.digest is None:
        return None
    part, colon, criteria = (options.accept_missed or "").partition(":")
    if not colon or options.digest is None:
        raise RetainError("--accept-missed decision:criterion,criterion and --digest belong together")
    return people.acceptance_of(part, criteria.split(","), options.digest, _who(options))


def _promote(desk: Desk, options: argparse.Namespace) -> list[str]:
    return people.promote_challenger(desk, options.release, _who(options))


def _rollback(desk: Desk, options: argparse.Namespace) -> list[str]:
    return people.roll_back_now(desk, _who(options))


def _set_percent(desk: Desk, options: argparse.Namespace) -> list[str]:
    return people.set_percent_to(desk, options.percent, _who(options))


def _release_latch(desk: Desk, options: argparse.Namespace) -> list[str]:
    return people.release_the_latch(desk, _who(options))


def _forgive(desk: Desk, options: argparse.Namespace) -> list[str]:
    return people.forgive_release(desk, options.release, _who(options))


if __name__ == "__main__":
    make_decoration()
    sys.exit(main())
