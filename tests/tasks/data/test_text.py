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


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda c: b"", "is empty"),
        (lambda c: b"\n \n", "is empty"),
        (lambda c: c.split(b"\n")[0] + b"\n", "has a header and no row"),
        (lambda c: c.decode().encode("utf-16"), "row 1: holds zero bytes, as UTF-16"),
        (lambda c: c.replace(b"0002-SYNTH", b"0002\0SYNTH"), "row 4: holds zero bytes"),
        (lambda c: b"\xef\xbb\xbf" + c, "row 1: starts with a byte order mark"),
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
