"""Files of JSON lines, read record by record; pairs cleaned, de-duplicated, split by prompt and capped.

What a record holds is told by its keys, so the publisher's own file and one of the same shape are read alike. What
can't be used is counted under a reason; a line that is no record at all is broken, and too many of those mean that the
file is damaged or another one.

The part of a pair is a seeded hash of its conversation's first turn: all turns of a conversation, and all trees that
begin with the same words, are in one part. Where a file doesn't say which conversation a pair is of, those that stand
together in it are in one part (dialogues.BLOCK). A prompt that two conversations share is in the part of the first.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import math
import re
import unicodedata
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from engine.errors import DataError
from engine.store import sha256_of
from tasks.data import synthetic_text
from tasks.split import SPLIT_PARTS
from tasks.text_tables import Table

if TYPE_CHECKING:
    from engine.stage import Metrics, Workspace
    from tasks.config import DialoguesConfig, PreferencesConfig, Split, TextFile

    TextConfig = DialoguesConfig | PreferencesConfig

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
LONGEST_LINE = 16 * 2**20
NAMED = 5  # broken lines whose number is said
LONGEST_SOURCE = 40  # characters
SOURCES = 20  # that have a metric of their own
BINS = (25, 50, 100, 200, 400, 800, 1600, 3200, 6400, 12800)  # characters, of the curves

Record = dict[str, Any]


@dataclass(frozen=True)
class Pair:
    """`first`: what tells its conversation, as a rule that one's first turn. `replies`: one, or chosen and rejected.
    `post`: the one that the replies were written to, where that is said."""

    source: str
    prompt: str
    first: str
    replies: tuple[str, ...]
    post: str = ""


class Unusable(Exception):
    """A record of a known shape with nothing to learn from; its words are the reason under which it is counted."""


class Broken(Exception):
    """No record."""


@dataclass
class Reading:
    """What was found in a file."""

    name: str
    records: int = 0
    broken: int = 0
    broken_lines: list[int] = field(default_factory=list)
    cause: str = ""
    dropped: Counter[str] = field(default_factory=Counter)

    def damage(self, line: int, cause: str) -> None:
        self.broken += 1
        self.cause = self.cause or cause
        if len(self.broken_lines) < NAMED:
            self.broken_lines.append(line)

    def check(self, most: float) -> None:
        """Raises DataError for a file of which more than the share `most` is broken, or that holds nothing."""
        lines = self.records + self.broken
        if lines == 0:
            raise DataError(f"{self.name}: the file is empty. Get it again, or take it out of the experiment")
        if self.broken > most * lines:
            first = ", ".join(map(str, self.broken_lines))
            raise DataError(
                f"{self.name}: {self.broken:,} of {lines:,} lines are no record (lines {first}"
                f"{', ...' if self.broken > len(self.broken_lines) else ''}: {self.cause}), more than max_broken "
                f"{most:g}. The file is damaged or another one; get it again"
            )


class Reader(Protocol):
    """Makes pairs of the records of one file; raises Unusable or Broken for a record without."""

    def pairs(self, record: Record) -> Iterable[Pair]:
        """Of a record that stands alone."""

    def rest(self, reading: Reading) -> Iterable[Pair]:
        """Of records that need others, once all are there."""


def run(
    config: TextConfig,
    inputs: Mapping[str, Path],
    workspace: Workspace,
    reader: Callable[[TextFile], Reader],
    made_up: Callable[[int], Iterable[Pair]],
    table: Table,
    replies: Sequence[str],
    max_pairs_a_post: int | None = None,
) -> Metrics:
    """Reads the files that are there, or takes what is made up; writes `table`, catalog.json and curves.parquet.

    `replies` are the table's columns that hold those of a pair. Of pairs that name the same post, at most
    `max_pairs_a_post` are taken.
    """
    folder = inputs.get("source")
    chosen = _Chosen(config, workspace.seed, max_pairs_a_post)
    catalog = []
    if folder is None:
        made = Reading("synthetic")
        for pair in made_up(workspace.seed):
            made.records += 1
            chosen.add(made, "synthetic", pair)
        catalog.append((made, {"name": "synthetic", "published": False}))
    files = [file for file in config.files if folder is not None and (folder / file.names[0]).is_file()]
    for index, file in enumerate(files):
        workspace.progress(index, len(files))
        reading = Reading(file.names[0])
        path = Path(folder or "", file.names[0])
        for pair in read(path, reading, reader(file)):
            chosen.add(reading, file.dataset, pair)
        reading.check(config.max_broken)
        catalog.append((reading, _published(file, path)))
    rows = chosen.rows()
    names = ", ".join(reading.name for reading, _ in catalog)
    for part in SPLIT_PARTS:
        if not any(row.part == part for row in rows):
            raise DataError(f"{names}: of {len(rows):,} usable pairs none is in the part {part}. More are needed")
    columns = {"id": [row.id for row in rows], "source": [row.pair.source for row in rows]}
    columns |= {"prompt": [row.pair.prompt for row in rows]}
    columns |= {name: [row.pair.replies[k] for row in rows] for k, name in enumerate(replies)}
    columns |= {"split": [row.part for row in rows], "half": [row.half for row in rows]}
    workspace.out.parquet(table.file, {name: columns[name] for name in table.columns})
    workspace.out.parquet("curves.parquet", _lengths(rows, replies))
    used = Counter(row.file for row in rows)
    workspace.out.json(
        "catalog.json",
        {
            "synthetic": folder is None,
            "generator": synthetic_text.GENERATOR_VERSION if folder is None else None,
            "missing": [file.names[0] for file in config.files if folder is not None and file not in files],
            "pairs": len(rows),
            "files": [
                about
                | {
                    "records": reading.records,
                    "broken": reading.broken,
                    "broken_lines": reading.broken_lines,
                    "dropped": dict(reading.dropped),
                    "used": used[reading.name],
                }
                for reading, about in catalog
            ],
        },
    )
    workspace.progress(len(catalog), len(catalog), pairs=float(len(rows)))
    return _metrics(rows, [reading for reading, _ in catalog], chosen.over_cap)


def read(path: Path, reading: Reading, reader: Reader) -> Iterator[Pair]:
    """The pairs of a file; what can't be used is counted in `reading`."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LONGEST_LINE):
            number += 1
            if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
                _skip_line(file)
                reading.damage(number, f"longer than {LONGEST_LINE:,} bytes")
                continue
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode())
                if not isinstance(record, dict):
                    raise Broken("no JSON object")
                found = list(reader.pairs(record))
            except Unusable as reason:
                reading.dropped[str(reason)] += 1
                found = []
            except Broken as error:
                reading.damage(number, str(error))
                continue
            except UnicodeDecodeError:
                reading.damage(number, "not UTF-8")
                continue
            except RecursionError:
                reading.damage(number, "nested too deep")
                continue
            except ValueError as error:
                reading.damage(number, f"not JSON: {getattr(error, 'msg', error)}")
                continue
            reading.records += 1
            yield from found
    yield from reader.rest(reading)


def _skip_line(file: BinaryIO) -> None:
    """Reads on to the end of the line."""
    while (piece := file.readline(LONGEST_LINE)) and not piece.endswith(b"\n"):
        pass


def keys(record: Mapping[str, Any]) -> str:
    """What a record that isn't known has, in a few words: keys may be of any length and hold anything."""
    named = [key if re.fullmatch(r"\w{1,20}", key, re.ASCII) else repr(key[:20]) for key in sorted(record)[:4]]
    return ", ".join(named) or "no keys"


def number(record: Mapping[str, Any], key: str) -> float:
    """A finite number of a record. Raises Broken where there is none."""
    value = record.get(key)
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except OverflowError:  # an integer beyond every float
        pass
    raise Broken(f"{key!r} is {'missing' if key not in record else 'no finite number'}")


def text(record: Mapping[str, Any], key: str) -> str:
    """A text of a record. Raises Broken where there is none."""
    value = record.get(key)
    if not isinstance(value, str):
        raise Broken(f"{key!r} is {'missing' if key not in record else 'no text'}")
    return value


def thread(turns: Sequence[str]) -> str:
    """A prompt of several turns, the first and the last of them the human's."""
    marks = (HUMAN, ASSISTANT)
    return "".join(f"{marks[k % 2]} {clean(turn)}" for k, turn in enumerate(turns)).removeprefix(f"{HUMAN} ")


def first_turn(prompt: str) -> str:
    return prompt.partition(ASSISTANT)[0]


# A file has tens of millions of characters: only those that aren't plain are looked up one by one.
_NOT_PLAIN = re.compile(r"[^\n\t -~]")


def clean(text: str) -> str:
    """Without control characters, halves of surrogate pairs and space around it; lines end in \\n."""
    if not text.isprintable():
        text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n").replace("\u2029", "\n")
        text = _NOT_PLAIN.sub(_unless_control, text)
    return text.strip()


def _unless_control(character: re.Match[str]) -> str:
    return "" if unicodedata.category(character[0]) in ("Cc", "Cs", "Cn") else character[0]


@dataclass(frozen=True)
class _Row:
    id: str
    file: str
    pair: Pair
    part: str
    half: str


class _Chosen:
    """At most max_rows pairs: of each dataset a seeded sample, datasets in equal shares as far as each has enough.

    No more than that is kept in memory, besides a hash of every pair and prompt and a count for every post.
    """

    def __init__(self, config: TextConfig, seed: int, max_pairs_a_post: int | None) -> None:
        self.config, self.seed, self.max_pairs_a_post = config, seed, max_pairs_a_post
        self.over_cap = 0
        self._seen: set[bytes] = set()
        self._places: dict[bytes, tuple[str, str]] = {}
        self._posts: Counter[tuple[str, str]] = Counter()
        self._kept: dict[str, list[tuple[int, str, _Row]]] = {}

    def add(self, reading: Reading, dataset: str, pair: Pair) -> None:
        prompt, replies = clean(pair.prompt), tuple(map(clean, pair.replies))
        reason = self._refused(prompt, replies)
        content = _digest(prompt, *replies)
        if not reason and content in self._seen:
            reason = "duplicate"
        # Last but one, so that only what is taken counts; a prompt that is left out claims no part.
        post = reading.name, pair.post
        if not reason and pair.post and self.max_pairs_a_post and self._posts[post] >= self.max_pairs_a_post:
            reason = "over_pairs_a_post"
        place = _place(pair.first, self.seed, self.config.split)
        if not reason and self._places.setdefault(_digest(normalised(prompt)), place) != place:
            reason = "prompt_of_another_part"
        if reason:
            reading.dropped[reason] += 1
            return
        self._seen.add(content)
        self._posts[post] += 1
        identifier = f"{dataset.lower()}-{content.hex()}"
        order = int.from_bytes(_digest(f"{self.seed}:cap:", identifier)[:8], "big")
        kept = self._kept.setdefault(dataset, [])
        full = len(kept) == self.config.max_rows
        self.over_cap += full
        if full and (-order, identifier) < kept[0][:2]:  # most pairs of a large file: no row is made of them
            return
        part, half = place
        pair = Pair(_source(pair.source), prompt, pair.first, replies, pair.post)
        row = -order, identifier, _Row(identifier, reading.name, pair, part, half)
        if full:
            heapq.heapreplace(kept, row)
        else:
            heapq.heappush(kept, row)

    def rows(self) -> list[_Row]:
        """In an order of chance that the seed decides."""
        room, chosen = self.config.max_rows, []
        for index, kept in enumerate(sorted(self._kept.values(), key=len)):
            share = room // (len(self._kept) - index)
            chosen += sorted(kept, reverse=True)[:share]
            self.over_cap += max(0, len(kept) - share)
            room -= min(share, len(kept))
        # Not in the order of the sampling: there, whoever had more to choose from comes first.
        return sorted((row for _, _, row in chosen), key=lambda row: _digest(f"{self.seed}:order:", row.id))

    def _refused(self, prompt: str, replies: tuple[str, ...]) -> str:
        """The reason why a pair can't be taken, or nothing."""
        if not prompt or not all(replies):
            return "empty"
        if len(set(replies)) < len(replies):
            return "no_preference"
        if len(prompt) + max(map(len, replies)) > self.config.max_characters:
            return "over_long"
        return ""


@lru_cache(maxsize=1024)
def _source(name: str) -> str:
    return " ".join(clean(name).split())[:LONGEST_SOURCE]


@lru_cache(maxsize=1024)  # a conversation's pairs stand near each other
def _place(first: str, seed: int, split: Split) -> tuple[str, str]:
    """Part and half of the conversation that begins with `first`."""
    key = normalised(first)
    return _part(_share(f"{seed}:split:{key}"), split), "A" if _share(f"{seed}:half:{key}") < 0.5 else "B"


def normalised(prompt: str) -> str:
    """Prompts that differ in case, width of letters and space alone are the same one."""
    return " ".join(unicodedata.normalize("NFKC", clean(prompt)).casefold().split())


def _part(share: float, split: Split) -> str:
    if share < split.train:
        return "train"
    return "validation" if share < split.train + split.validation else "test"


def _share(name: str) -> float:
    """A number in [0, 1) for each name: the same for ever, whatever other names there are."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") / 2.0**64


def _digest(*texts: str) -> bytes:
    return hashlib.blake2b("\0".join(texts).encode(), digest_size=10).digest()


def _published(file: TextFile, path: Path) -> dict[str, Any]:
    digest = sha256_of(path)
    return {
        "name": file.names[0],
        "dataset": file.dataset,
        "url": file.url,
        "licence": file.licence,
        "sha256": digest,
        # Of a file whose publisher states no hash nobody can tell.
        "published": None if file.sha256 is None else digest == file.sha256,
    }


def _lengths(rows: Sequence[_Row], replies: Sequence[str]) -> dict[str, list[Any]]:
    """How many prompts and replies have up to x characters, and more than the x before."""
    curve: dict[str, list[Any]] = {"curve": [], "x": [], "y": []}
    texts = {"prompt": [row.pair.prompt for row in rows]}
    texts |= {name: [row.pair.replies[k] for row in rows] for k, name in enumerate(replies)}
    for name, values in texts.items():
        counted = Counter(bisect_left(BINS, len(value)) for value in values)
        for k, bound in enumerate((*BINS, LONGEST_LINE)):
            curve["curve"].append(f"{name}_characters")
            curve["x"].append(bound)
            curve["y"].append(counted[k])
    return curve


def _metrics(rows: Sequence[_Row], readings: Sequence[Reading], over_cap: int) -> Metrics:
    figures: dict[str, int] = {"pairs": len(rows), "over_cap": over_cap}
    figures |= {"records": sum(r.records for r in readings), "broken": sum(r.broken for r in readings)}
    figures |= {f"pairs_{part}": sum(row.part == part for row in rows) for part in SPLIT_PARTS}
    figures |= {f"dropped_{reason}": n for reason, n in sum((r.dropped for r in readings), Counter[str]()).items()}
    counted = Counter(re.sub(r"[^a-z0-9]+", "_", row.pair.source.lower()) for row in rows)
    largest = sorted(counted, key=lambda source: (-counted[source], source))
    figures |= {f"pairs_of_{source}": counted[source] for source in largest[:SOURCES]}
    if rest := largest[SOURCES:]:
        figures["pairs_of_other_sources"] = sum(counted[source] for source in rest)
    return {name: {"value": float(value)} for name, value in figures.items()}
