"""A CSV file as rows of text, or one clear error: encoding, separator, header, lines cut short."""

from __future__ import annotations

import codecs
import csv
import io
from collections import Counter
from dataclasses import dataclass

from engine.errors import DataError
from retain.dataset import DatasetSpec

LISTED = 20  # columns in a message
SHOWN = 60  # characters of a column's name in it
LONGEST_LINE = 600  # characters of a line to write
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


@dataclass(frozen=True)
class Text:
    """The cells of a file: one list per described column. `lines[i]` is the line of the file on which row i ends (from
    1)."""

    columns: dict[str, list[str]]
    lines: list[int]

    @property
    def rows(self) -> int:
        return len(self.lines)


def parse(content: bytes, spec: DatasetSpec) -> Text:
    """The file's cells in the description's columns. Raises DataError that says which line, and what to do."""
    name = spec.source.files[0]
    text = _decode(content, spec, name)
    # strict: a quote that is never closed is an error, not the rest of the file in one cell.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=spec.source.separator, strict=True)
    rows: list[list[str]] = []
    lines: list[int] = []
    begins = 1
    try:
        header = next(reader, [])
        _check_header(header, spec, name)
        begins = reader.line_num + 1
        for row in reader:
            begins = reader.line_num + 1
            if not row:
                continue
            if len(row) != len(header):
                _check_width(row, reader.line_num, header, text, name)
            rows.append(row)
            lines.append(reader.line_num)
    except csv.Error as error:
        # A cell that reads on over the end of its line has a quote before it; one on a line of its own is just long.
        if "field limit" in str(error) and reader.line_num == begins:
            raise DataError(
                f"{name}, row {begins}: a cell is longer than {csv.field_size_limit():,} characters. Mend the line"
            ) from None
        raise DataError(
            f"{name}, row {begins}: {error}. A quote that is never closed, or a file cut short: get it again"
        ) from None
    if not rows:
        raise DataError(f"{name}: has a header and no row. Get the file again")
    columns = {name: list(cells) for name, cells in zip(header, zip(*rows)) if name not in spec.ignore}
    return Text(columns, lines)


def _decode(content: bytes, spec: DatasetSpec, name: str) -> str:
    if not content.strip():
        raise DataError(f"{name}: is empty. Get the file again")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in content:
        line = content[: content.find(b"\0")].count(b"\n") + 1
        raise DataError(
            f"{name}, row {line}: holds zero bytes, as UTF-16 or a damaged file does. Save it as {spec.source.encoding}"
        )
    if content.startswith(codecs.BOM_UTF8):  # as Excel writes one
        if spec.source.encoding != "utf-8":
            raise DataError(
                f"{name}, row 1: starts with the byte order mark of UTF-8, and its description says "
                f"{spec.source.encoding}: write `encoding: utf-8` under `source`"
            )
        content = content.removeprefix(codecs.BOM_UTF8)
    try:
        return content.decode(spec.source.encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{name}, row {line}: byte 0x{content[error.start]:02x} is not {spec.source.encoding}, perhaps latin-1. "
            f"Save the file as {spec.source.encoding}, or say `encoding: latin-1` in its description"
        ) from None


def _check_header(header: list[str], spec: DatasetSpec, name: str) -> None:
    if header and header[0].startswith("sep="):
        raise DataError(f"{name}, row 1: is no header, but Excel's line {header[0]!r}. Take it out of the file")
    wanted = [*(column.name for column in spec.columns), spec.target.column]
    separator = spec.source.separator
    other = next((s for s in SEPARATORS if s != separator and len(header) == 1 and header[0].count(s) > 1), None)
    if other is not None:
        raise DataError(
            f"{name}, row 1: {SEPARATORS[other]} part its columns, its description says {SEPARATORS[separator]}. "
            f"Write it with {separator!r}, or mend `separator` in the description"
        )
    counts = Counter(header)
    twice = sorted(column for column, count in counts.items() if count > 1)
    missing = [column for column in wanted if column not in counts]
    described = set(wanted)
    unknown = [column for column in header if column not in described and column not in spec.ignore]
    faults = (("twice", twice), ("missing", missing), ("not in its description", unknown))
    said = [
        f"{'column is' if len(columns) == 1 else 'columns are'} {what}: {_listed(columns)}"
        for what, columns in faults
        if columns
    ]
    if said:
        raise DataError(
            f"{name}, row 1: {'; '.join(said)}. Mend the header, or describe the table as it is{_ignoring(unknown)}"
        )


def _ignoring(columns: list[str]) -> str:
    if not columns:
        return ""
    line = f"`ignore: [{', '.join(map(repr, columns))}]`"
    return f": {line if len(line) <= LONGEST_LINE else '`ignore`'} leaves columns out"


def _listed(columns: list[str]) -> str:
    names = [repr(name if len(name) <= SHOWN else name[:SHOWN] + "...") for name in columns[:LISTED]]
    return ", ".join(names) + (f" and {len(columns) - LISTED:,} more" if len(columns) > LISTED else "")


def _check_width(row: list[str], line: int, header: list[str], text: str, name: str) -> None:
    last = line >= text.rstrip("\r\n").count("\n") + 1
    if last and len(row) < len(header):
        raise DataError(f"{name}, row {line}: the last line ends after {len(row)} of {len(header)} columns. "
                        "The file is cut short: get it again")  # fmt: skip
    raise DataError(f"{name}, row {line}: has {len(row)} cells, the header {len(header)}. Mend the line")
