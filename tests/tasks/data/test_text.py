from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.errors import DataError
from retain.dataset import DatasetSpec
from tasks.data import synthetic, text

Described = Callable[[str], DatasetSpec]


@pytest.fixture
def content(spec: Described) -> bytes:
    """A header and 40 customers."""
    return b"\n".join(synthetic.csv(spec("telco"), 1).split(b"\n")[:41]) + b"\n"


def refusal(content: bytes, spec: DatasetSpec) -> str:
    with pytest.raises(DataError) as caught:
        text.parse(content, spec)
    return str(caught.value)


def test_a_file_becomes_columns_with_the_lines_they_stand_on(content: bytes, spec: Described) -> None:
    cells = text.parse(content, spec("telco"))
    assert cells.rows == 40
    assert cells.lines[:3] == [2, 3, 4]
    assert cells.columns["customerID"][0] == "0000-SYNTH"
    assert set(cells.columns) == {column.name for column in spec("telco").columns} | {"Churn"}


def test_line_ends_and_empty_lines_do_not_matter(content: bytes, spec: Described) -> None:
    plain = text.parse(content, spec("telco"))
    assert text.parse(content.replace(b"\n", b"\r\n"), spec("telco")) == plain
    assert text.parse(content.rstrip(b"\n"), spec("telco")) == plain
    gaps = text.parse(content.replace(b"\n", b"\n\n", 1) + b"\n\n", spec("telco"))
    assert gaps.columns == plain.columns
    assert gaps.lines[0] == plain.lines[0] + 1


def test_latin_1_is_read_where_the_description_says_so(content: bytes, spec: Described) -> None:
    source = spec("telco").source.model_copy(update={"encoding": "latin-1"})
    cells = text.parse(
        content.replace(b"0000-SYNTH", b"M\xfcller"), spec("telco").model_copy(update={"source": source})
    )
    assert cells.columns["customerID"][0] == "Müller"


def test_a_byte_order_mark_is_no_part_of_the_first_column(content: bytes, spec: Described) -> None:
    assert text.parse(b"\xef\xbb\xbf" + content, spec("telco")) == text.parse(content, spec("telco"))
    quoted = content.replace(b"customerID", b'"customerID"', 1)
    assert text.parse(b"\xef\xbb\xbf" + quoted, spec("telco")) == text.parse(content, spec("telco"))


def test_the_mark_of_another_encoding_is_told(content: bytes, spec: Described) -> None:
    source = spec("telco").source.model_copy(update={"encoding": "latin-1"})
    message = refusal(b"\xef\xbb\xbf" + content, spec("telco").model_copy(update={"source": source}))
    assert "starts with the byte order mark of UTF-8" in message
    assert message.endswith("write `encoding: utf-8` under `source`")


def test_ignored_columns_are_not_read(content: bytes, spec: Described) -> None:
    """Not even those that hold line breaks, or that have no name, as an index of pandas has none."""
    header, *rows = content.decode().strip().split("\n")
    more = [f"\ufeff,{header},note", *(f'{at},{row},"a ""long"" note,\nof {at} lines"' for at, row in enumerate(rows))]
    described = spec("telco").model_copy(update={"ignore": ("note", "", "not there")})
    cells = text.parse("\n".join(more).encode(), described)
    plain = text.parse(content, spec("telco"))
    assert cells.columns == plain.columns
    assert cells.lines[:2] == [3, 5]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda c: b"", "is empty"),
        (lambda c: b"\n \n", "is empty"),
        (lambda c: c.split(b"\n")[0] + b"\n", "has a header and no row"),
        (lambda c: c.decode().encode("utf-16"), "row 1: holds zero bytes, as UTF-16"),
        (lambda c: c.replace(b"0002-SYNTH", b"0002\0SYNTH"), "row 4: holds zero bytes"),
        (
            lambda c: b"sep=,\r\n" + c,
            "row 1: is no header, but Excel's line 'sep='. Take it out of the file",
        ),
        (
            lambda c: c.replace(b"Churn", b"Churn,", 1).replace(b"gender", b"gender,note", 1),
            "columns are not in its description: 'note', ''. Mend the header, or describe the table as it is: "
            "`ignore: ['note', '']` leaves columns out",
        ),
        (lambda c: c.replace(b"0003-SYNTH", b"M\xfcller"), "row 5: byte 0xfc is not utf-8, perhaps latin-1"),
        (lambda c: c.replace(b",", b";"), "row 1: semicolons part its columns, its description says commas"),
        (lambda c: c.replace(b",", b"\t"), "row 1: tabs part its columns"),
        (lambda c: c.replace(b"tenure", b"Tenure"), "row 1: column is missing: 'tenure'"),
        (
            lambda c: c.replace(b"tenure", b"tenure "),
            "row 1: column is missing: 'tenure'; column is not in its description: 'tenure '. Mend the header",
        ),
        (
            lambda c: c.replace(b"gender", b"Partner"),
            "row 1: column is twice: 'Partner'; column is missing: 'gender'. Mend the header",
        ),
        (
            lambda c: c.replace(b"0007-SYNTH", b"7" * 131_073),
            "row 9: a cell is longer than 131,072 characters. Mend the line",
        ),
        (
            lambda c: c.replace(b"0007-SYNTH", b'"0007-SYNTH') + c.split(b"\n", 1)[1] * 40,
            "row 9: field larger than field limit (131072). A quote that is never closed",
        ),
        (lambda c: c.replace(b",Churn", b",Churn,score"), "row 1: column is not in its description: 'score'"),
        (
            lambda c: c.rstrip(b"\n").rsplit(b",", 3)[0],
            "row 41: the last line ends after 18 of 21 columns. The file is cut short",
        ),
        (lambda c: c.replace(b"0007-SYNTH,", b"0007-SYNTH,x,"), "row 9: has 22 cells, the header 21"),
        (lambda c: c.replace(b"0007-SYNTH,", b""), "row 9: has 20 cells, the header 21"),
        (lambda c: c.replace(b"0007-SYNTH", b'"0007-SYNTH'), "row 9: unexpected end of data. A quote"),
    ],
)
def test_what_is_no_such_table_is_named_with_its_line(
    damage: Callable[[bytes], bytes], said: str, content: bytes, spec: Described
) -> None:
    message = refusal(damage(content), spec("telco"))
    assert message.startswith("Telco-Customer-Churn.csv")
    assert said in message


def test_a_header_of_many_long_names_is_told_in_few_words(spec: Callable[[str], DatasetSpec]) -> None:
    header = ",".join(f"{name:05d}{'x' * 500}" for name in range(20_000))
    with pytest.raises(DataError) as caught:
        text.parse(f"{header}\n1\n".encode(), spec("telco"))
    message = str(caught.value)
    assert "columns are missing: 'customerID', 'gender', " in message
    assert "columns are not in its description: '00000xxx" in message
    assert "and 19,980 more. Mend the header" in message
    assert len(message) < 3000
