"""Tables as programs write them: separators, quotation marks, empty rows and columns, encodings, line numbers."""

from pathlib import Path

import pytest

from speechssl.config import UserError
from speechssl.data.tables import Row, open_table


def written(folder: Path, content: str | bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(folder: Path, content: str | bytes, name: str = "t.csv") -> tuple[tuple[str, ...], list[tuple]]:
    table = open_table(written(folder, content, name))
    return table.columns, [row.values for row in table.rows()]


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("a,b\n1,2\n", "t.csv"),
        ("a;b\n1;2\n", "t.csv"),
        ("a\tb\n1\t2\n", "t.csv"),
        ("a\tb\n1\t2\n", "t.TSV"),
        ("\ufeffa,b\r\n1,2\r\n", "t.csv"),
        ("\ufeffa\tb\n1\t2\n".encode("utf-16-le"), "t.tsv"),
        ("\n a , b \n 1, 2\n\n", "t.csv"),
        ("a,b,,\n1,2,,\n,,,\n", "t.csv"),
        ("a,b\n1,2,,\n,,,,\n", "t.csv"),
        ('{"a": "1", "b": "2"}\n\n', "t.jsonl"),
        ('\ufeff{"a ": "1", "b": "2"}\r\n', "t.JSONL"),
    ],
)
def test_one_table_in_many_forms(tmp_path: Path, content: str | bytes, name: str) -> None:
    columns, rows = read(tmp_path, content, name)
    assert columns == ("a", "b")
    assert [tuple(str(value).strip() for value in row) for row in rows] == [("1", "2")]


def test_json_objects_need_not_have_every_key(tmp_path: Path) -> None:
    assert read(tmp_path, '{"a": 1}\n{"b": [2]}\n', "t.jsonl") == (("a", "b"), [(1, None), (None, [2])])


def test_lines_are_counted_through_quoted_line_breaks(tmp_path: Path) -> None:
    table = open_table(written(tmp_path, 'a,b\n\n1,"two\nlines"\n3,4\n'))
    assert list(table.rows()) == [Row(3, ("1", "two\nlines")), Row(5, ("3", "4"))]


def test_quotation_marks_in_tab_separated_text(tmp_path: Path) -> None:
    content = 'a\tb\n1\t"Hello," he said\n2\t"""Hello"""\n3\t"a ""b"" c"\n4\t"\n5\t"open\n'
    assert [row[1] for row in read(tmp_path, content, "t.tsv")[1]] == [
        *('"Hello," he said', '"Hello"', 'a "b" c', '"', '"open'),
    ]


@pytest.mark.parametrize("first", ["", "Unnamed: 0"])
def test_row_numbers_without_a_name(tmp_path: Path, first: str) -> None:
    assert read(tmp_path, f"{first},a\n0,x\n1,y\n") == (("", "a"), [("0", "x"), ("1", "y")])


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("", "t.csv", r"t\.csv: an empty table; its first line must name the columns$"),
        ("a,b,a\n1,2,3\n", "t.csv", r"t\.csv:1: two columns are called 'a'; rename one of them$"),
        ("a,b\n1,2\n3\n", "t.csv", r"t\.csv:3: not as many values \(1\) as the header has columns \(2\)$"),
        ("a,b\n\n1,2,x\n", "t.csv", r"t\.csv:3: not as many values \(3\) as the header has columns \(2\)$"),
        ("a,,b\n1,,2\n1,x,2\n", "t.csv", r"t\.csv:3: 'x' is in column 2, which has no name$"),
        ("a\tb\n1\n", "t.tsv", r"t\.tsv:2: not as many values"),
        (b"a,b\n1,caf\xe9\n", "t.csv", r"t\.csv:2: not UTF-8 text \(byte 0xe9 in place 6\); save the file as UTF-8$"),
        ('a,b\n1,"x" y\n', "t.csv", r"t\.csv:2: a quotation mark opens here"),
        ('a,b\n1,"x\n\n2,y\n', "t.csv", r"t\.csv:2: a quotation mark opens here"),
        ('a,b\n"1\n2","x" y\n', "t.csv", r"t\.csv:3: a quotation mark opens here"),
        ('f,t\na.wav,"x\nb.wav,y"\n', "t.csv", r"t\.csv:2: a quotation mark opens here and closes in line 3"),
        ('{"a": 1}\n{"a": \n', "t.jsonl", r"t\.jsonl:2: not JSON: "),
        ('{"a": 1, "a ": 2}\n', "t.jsonl", r"t\.jsonl:1: 'a' is there twice$"),
        (
            '[{"a": 1}]\n',
            "t.jsonl",
            r"t\.jsonl:1: given list, allowed: a JSON object; JSON lines have one whole",
        ),
        (
            '[\n{"a": 1}\n]\n',
            "t.jsonl",
            r"t\.jsonl:1: not JSON: .*; JSON lines have one whole object per line: write",
        ),
        ('{\n"a": 1\n}\n', "t.jsonl", r"t\.jsonl:1: not JSON: .*; JSON lines have one whole object per line"),
        ("a,b\r1,2\r3,4\r", "t.csv", r"t\.csv: its lines end with a carriage return alone, as those of old Macs; save"),
        ("a\tb\r1\t2", "t.tsv", r"t\.tsv: its lines end with a carriage return alone"),
        ('{"a": 1}\r{"a": 2}\r', "t.jsonl", r"t\.jsonl: its lines end with a carriage return alone"),
        ('a\tb\n1\t"x\ty"\n', "t.tsv", r"t\.tsv:2: not as many values \(3\) .* \(2\); a cell in quotation .*as .csv$"),
        ('a\tb\n1\t"x\ny"\n', "t.tsv", r"t\.tsv:3: not as many values \(1\) .* \(2\); a cell in quotation .*as .csv$"),
        ('a\tb\n"x ""z""\ny"\t1\n', "t.tsv", r"t\.tsv:2: not as many values \(1\) .* \(2\); a cell in quotation"),
        ('a\tb\n1\tsay "no"\t3\n', "t.tsv", r"t\.tsv:2: not as many values \(3\) as the header has columns \(2\)$"),
        ("[1]\n", "t.jsonl", r"t\.jsonl:1: given list, allowed: a JSON object$"),
    ],
)
def test_faults_have_their_line(tmp_path: Path, content: str | bytes, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        list(open_table(written(tmp_path, content, name)).rows())
    assert "\n" not in str(caught.value)


def test_a_text_of_several_lines_is_no_swallowed_row(tmp_path: Path) -> None:
    assert read(tmp_path, 'f,t\na.wav,"one, two\nthree, four"\n')[1] == [("a.wav", "one, two\nthree, four")]
