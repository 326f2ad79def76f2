"""What a language model wrote for customers, as a person reads and approves it before it is sent.

    python -m serve.messages
    python -m serve.messages approve --by NAME [--except ID,ID]

The texts are those of the release that `python -m serve` would serve under the same settings, replaced parts included.
Verdicts are written to the store (engine.approvals), where a running service finds them within seconds.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rich.console import Console
from rich.text import Text

from engine.approvals import MAX_NAME, Approvals, identifier, look, not_shown, record, show
from engine.errors import RetainError
from engine.paths import why_unwritable
from engine.store import open_store, store_url
from retain.message import Entry
from retain.release import TEMPLATES, Release
from serve.loading import load_release
from serve.settings import READ_AGAIN_SECONDS, read

WIDTH = 160  # where there is no terminal
ID_DIGITS = 8  # of a text's sha256, which is what EXCEPT names


@dataclass(frozen=True)
class Listed:
    """A release with what people said of its messages."""

    version: str
    release: Release
    approvals: Approvals

    @property
    def entries(self) -> list[Entry]:
        """Of the banks that a language model wrote; by situation and offer, best first."""
        return [entry for name in self.release.reviews for entry in self.release.banks[name].entries]

    @property
    def unread(self) -> list[str]:
        return [text for text in dict.fromkeys(self._texts) if text not in self.approvals.readings]

    @property
    def _texts(self) -> list[str]:
        return [entry.text for entry in self.entries]

    def named(self, prefix: str) -> str:
        """The text whose id begins so. Raises RetainError for none, or for several."""
        found = [text for text in dict.fromkeys(self._texts) if identifier(text).startswith(prefix.lower())]
        if len(prefix) < ID_DIGITS or len(found) != 1:
            raise RetainError(
                f"EXCEPT={prefix}: is the id of no message of this release; `make messages` shows an id of {ID_DIGITS} "
                "digits before each. Nothing was recorded"
            )
        return found[0]


def listed(environment: Mapping[str, str]) -> Listed:
    """Raises RetainError for a release that can't be served."""
    version, release = load_release(read(environment), whole=True)
    approvals = look()
    return Listed(version, replace(release, verdicts=approvals.verdicts), approvals)


def lines(found: Listed) -> Iterator[Text]:
    """Every message under the template that is sent in its place; then how many wait."""
    release, cells = found.release, dict.fromkeys((entry.situation, entry.offer) for entry in found.entries)
    templates = {(entry.situation, entry.offer): entry.text for entry in release.banks[TEMPLATES].entries}
    for situation, offer in sorted(cells):
        yield Text.assemble(
            (f"\n{situation}, {offer} %", "bold"), ("  in its place: ", "dim"), templates[situation, offer]
        )
        for entry in found.entries:
            if (entry.situation, entry.offer) == (situation, offer):
                said, style = _said(found.approvals, entry.text)
                yield Text.assemble(
                    (f"  {identifier(entry.text)[:ID_DIGITS]}  ", "dim"),
                    f"{entry.source:<4} {entry.score:7.3f}  ",
                    (f"{said}  ", style),
                    _plain(entry.text),
                )
    if not release.reviews:
        yield Text("this release holds no messages of a language model: templates are sent")
    yield Text()
    yield from summary(release, found.approvals)


def summary(release: Release, approvals: Approvals) -> Iterator[Text]:
    """How many messages wait for a reader."""
    for name, review in release.reviews.items():
        share = f"{100 * review.approved / review.listed:.0f} %" if review.listed else "none"
        where = "" if name in release.shown else "; shadow_only, sent to nobody"
        yield Text(
            f"{name}: {review.listed} messages, {review.approved} approved ({share}), {review.rejected} "
            f"rejected, {review.unread} wait for a person to read them{where}",
            "yellow" if review.unread else "",
        )
    if approvals.problem:
        yield Text(f"{approvals.problem}: no message counts as read", "bold red")
    for key in approvals.damaged:
        yield Text(f"{key}: is no record of a text, which counts as unread; remove it and read the text again", "red")
    for unreadable in approvals.unreadable:
        yield Text(f"{unreadable}; its text counts as unread", "red")


def approve(found: Listed, by: str, rejected: str) -> list[Text]:
    """Records that `by` approves all that nobody has judged yet, except those whose ids `rejected` names: they are
    rejected, whatever was said of them before. What somebody else judged meanwhile stays as it is. Returns what was
    recorded, in words.

    Raises RetainError before anything is recorded for a bad name, a bad id, or a message that was shown to nobody.
    """
    name = by.strip()
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise RetainError(
            f"BY: wants the name of the person who read the messages, of at most {MAX_NAME} characters: "
            "make messages.approve BY=NAME"
        )
    refused = dict.fromkeys(found.named(prefix) for prefix in re.split(r"[\s,]+", rejected) if prefix)
    unread = [text for text in found.unread if text not in refused]
    store = open_store(store_url())
    if new := not_shown(store, unread):
        raise RetainError(
            f"{len(new)} of these messages were shown to nobody yet: read them with `make messages` first. Nothing was "
            "recorded"
        )
    for text in refused:
        record(store, text, "rejected", name)
    approved = [text for text in unread if record(store, text, "approved", name, only_unread=True)]
    skipped = [text for text in unread if text not in approved]
    left = f"; {len(skipped)} skipped, since somebody else judged them meanwhile" if skipped else ""
    done = Text(
        f"{len(approved)} approved and {len(refused)} rejected by {name}{left}, in {store.url}. A running service goes "
        f"by it within {READ_AGAIN_SECONDS:.0f} seconds"
    )
    return [
        *(Text.assemble(("rejected  ", "red"), _plain(text)) for text in refused),
        *(Text.assemble(("approved  ", "green"), _plain(text)) for text in approved),
        *(Text.assemble(("skipped   ", "yellow"), _plain(text)) for text in skipped),
        done,
    ]


def _said(approvals: Approvals, text: str) -> tuple[str, str]:
    """The last verdict on a text, and its style."""
    readings = approvals.readings.get(text)
    if readings is None:
        return "unread", "yellow"
    last = readings[-1]
    return f"{last.verdict} by {_plain(last.by)}, {last.at[:10]}", "green" if last.verdict == "approved" else "red"


def _plain(text: str) -> str:
    """Nothing of a text moves a terminal's cursor."""
    return "".join(letter if letter.isprintable() else "·" for letter in text)


def _print(texts: Iterable[Text], otherwise: str) -> None:
    """Raises RetainError, which ends in `otherwise`, where not all of it can be printed."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    try:
        for text in texts:
            console.print(text, soft_wrap=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still wants to flush
        raise RetainError(f"standard output: {why_unwritable(error)}; {otherwise}") from None


def main(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> int:
    parser = argparse.ArgumentParser(prog="python -m serve.messages", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command")
    command = commands.add_parser("approve", help="approve every message that was shown and nobody has judged yet")
    command.add_argument("--by", default="", help="who read them")
    command.add_argument("--except", dest="rejected", default="", help="ids of messages that are rejected")
    options = parser.parse_args(arguments)
    try:
        if sys.stdout is None:  # closed by whoever started it
            raise RetainError("standard output is closed: nothing was shown, and nothing recorded")
        found = listed(environment)
        if options.command == "approve":
            _print(approve(found, options.by, options.rejected), "the verdicts are recorded")
        else:
            _print(lines(found), "no message counts as shown")
            show(open_store(store_url()), (entry.text for entry in found.entries))
    except RetainError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
