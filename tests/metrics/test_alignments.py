"""Readers of phone alignments: what they find, and the file and line of what they refuse."""

import numpy as np
import pytest

from speechssl.config import UserError
from speechssl.metrics.alignments import Segment, Token, frame_phones, read_segments, read_tokens, triphones

LAB = (
    "separator ;\nnfields 1\n#\n    0.1000  100     pau ; score 1 ; \n 0.2 100 b\n 0.35 26 e ;\n0.5 26 g\n0.6 26 pau\n"
)
ITEM = "#file onset offset #phone prev-phone next-phone speaker\nru_1 0.1 0.5 e b g s1\n"


def written(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def test_festvox_labels(tmp_path):
    written(tmp_path / "lab" / "ru_1.lab", LAB)
    written(tmp_path / "lab" / "ru_0.lab", LAB.replace("\n", "\r\n"))
    found = read_segments(tmp_path / "lab")
    assert list(found) == ["ru_0", "ru_1"]
    assert found["ru_0"] == found["ru_1"]
    expected = [("pau", 0, 0.1), ("b", 0.1, 0.2), ("e", 0.2, 0.35), ("g", 0.35, 0.5), ("pau", 0.5, 0.6)]
    assert [(each.phone, each.start, each.end) for each in found["ru_1"]] == expected
    assert read_tokens(tmp_path / "lab")[1] == Token("ru_1", 0.1, 0.5, "e", "b", "g")
    assert read_tokens(tmp_path / "lab" / "ru_1.lab") == [Token("ru_1", 0.1, 0.5, "e", "b", "g")]


def test_timit(tmp_path):
    written(
        tmp_path / "DR1" / "FCJF0" / "SA1.PHN", "0 3050 h#\n3050 4559 sh\n4559 5723 ix\n5723 6642 hv\n6642 8000 h#\n"
    )
    written(tmp_path / "DR1" / "MDAB0" / "SA1.PHN", "0 1600 sh\n1600 3200 ix\n3200 4800 hv\n")
    tokens = read_tokens(tmp_path)
    assert tokens == [
        Token("DR1/FCJF0/SA1", 3050 / 16000, 6642 / 16000, "ix", "sh", "hv"),
        Token("DR1/MDAB0/SA1", 0.0, 0.3, "ix", "sh", "hv"),
    ]


def test_items(tmp_path):
    assert read_tokens(written(tmp_path / "dev.item", ITEM)) == [Token("ru_1", 0.1, 0.5, "e", "b", "g", "s1")]


def test_no_triphone_across_silences_gaps_and_overlaps():
    def made(*ends, phones="beg"):
        return [Segment(phone, float(start), float(end)) for phone, (start, end) in zip(phones, ends, strict=True)]

    assert len(triphones(made((0, 1), (1, 2), (2, 3)))) == 1
    assert triphones(made((0, 1), (1.5, 2), (2, 3))) == []
    assert triphones(made((0, 1), (1, 2), (1.5, 3))) == []
    assert triphones(made((0, 1), (1, 1), (1, 3))) == []  # the middle has no length
    for place in range(3):
        phones = ["b", "e", "g"]
        phones[place] = "SIL"
        assert triphones(made((0, 1), (1, 2), (2, 3), phones=phones)) == []


def test_frames_outside_of_phones_have_none():
    segments = [Segment("a", 0.1, 0.2), Segment("b", 0.3, 0.4)]
    times = np.array([0.05, 0.1, 0.19, 0.2, 0.25, 0.3, 0.4])
    assert frame_phones(segments, times) == [None, "a", "a", None, None, "b", None]
    assert frame_phones([], times[:1]) == [None]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.lab", "0.1 100 pau\n", r"a\.lab: no line '#' that ends the header"),
        ("a.lab", "#\n", r"a\.lab: has no phones"),
        ("a.lab", "#\n0.1 100 a\n0.2 100\n", r"a\.lab:3: need END COLOUR PHONE, got '0.2 100'"),
        ("a.lab", "#\n0.2 100 a\n0.1 100 b\n", r"a\.lab:3: ends at 0.1 s, before the line above it \(0.2 s\)"),
        ("a.lab", "#\nnan 100 a\n", r"a\.lab:2: need a time in seconds of at least 0, got 'nan'"),
        ("a.lab", "#\n-1 100 a\n", r"a\.lab:2: need a time in seconds of at least 0, got '-1'"),
        ("a.phn", "0 10 a\n10.5 20 b\n", r"a\.phn:2: need BEGIN END PHONE, with whole numbers of samples"),
        ("a.phn", "0 10 a\n20 15 b\n", r"a\.phn:2: 20 to 15 does not follow"),
        ("a.phn", "5 10 a\n3 15 b\n", r"a\.phn:2: 3 to 15 does not follow the line above it \(begins at 5\)"),
        ("a.phn", "", r"a\.phn: has no phones"),
        ("a.item", "", r"a\.item:1: the header must be '#file onset offset"),
        ("a.item", ITEM.replace("prev-phone next-phone", "next-phone prev-phone"), r"a\.item:1: the header must be"),
        ("a.item", ITEM.splitlines()[0], r"a\.item: has no line below its header"),
        ("a.item", ITEM + "f 0 1 a b c\n", r"a\.item:3: need 7 columns, got 6"),
        ("a.item", ITEM + "f 1 1 a b c s\n", r"a\.item:3: the offset must be after the onset, got 1 and 1"),
        ("a.item", ITEM + "f x 1 a b c s\n", r"a\.item:3: need a time in seconds of at least 0, got 'x'"),
        ("a.txt", "", r"a\.txt: the ending of an alignment must be \.lab, \.phn or \.item, got '\.txt'"),
    ],
)
def test_errors_name_the_file_and_the_line(tmp_path, name, text, message):
    with pytest.raises(UserError, match=message):
        read_tokens(written(tmp_path / name, text))


def test_unusable_folders_and_texts(tmp_path):
    with pytest.raises(UserError, match=r"none: no such file or folder"):
        read_tokens(tmp_path / "none")
    with pytest.raises(UserError, match=r"no \.lab or \.phn file in this folder"):
        read_tokens(tmp_path)
    written(tmp_path / "a.lab", "#\n0.1 100 а\n", encoding="koi8-r")
    with pytest.raises(UserError, match=r"a\.lab: not UTF-8 text \(byte 10\)"):
        read_tokens(tmp_path)
    written(tmp_path / "b.phn", "0 10 a\n")
    with pytest.raises(UserError, match=r"has \.lab and \.phn files"):
        read_tokens(tmp_path)
