"""Splits and speakers whose names differ only in capitals: compared as one, and told."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechssl.config import UserError
from speechssl.data.findings import Findings, closing_lines, count_known
from speechssl.data.lists import draw_lists
from speechssl.data.manifest import filter_manifest, k_shot, split_by_speaker
from speechssl.data.splits import in_split
from speechssl.data.utterance import Utterance
from speechssl.data.values import alike, folded, merged

NFC, NFD = "gr\u00fcn", "GRU\u0308N"


def with_splits(names: Sequence[str | None]) -> list[Utterance]:
    return [Utterance(audio=f"{number}.wav", duration=1.0, split=name) for number, name in enumerate(names)]


def with_speakers(names: Sequence[str]) -> list[Utterance]:
    return [Utterance(audio=f"{number}.wav", duration=1.0, speaker=name) for number, name in enumerate(names)]


@pytest.mark.parametrize("wanted", ["test", "Test", "TEST", " test "])
def test_a_split_has_all_its_spellings(wanted: str) -> None:
    utterances = with_splits(["Train", "train", "TEST", "test", None, "test-other"])
    assert in_split(utterances, wanted, where="corpus") == [2, 3]
    assert in_split(utterances, None, where="corpus") == [0, 1, 2, 3, 4, 5]
    assert [each.audio for each in filter_manifest(utterances, splits=[wanted])] == ["2.wav", "3.wav"]


def test_a_split_is_found_in_either_unicode_form() -> None:
    assert in_split(with_splits([NFC, "rot"]), NFD, where="corpus") == [0]


@pytest.mark.parametrize("wanted", ["dev", "nan", "", "NaN"])
def test_a_split_that_is_not_there_is_refused(wanted: str) -> None:
    with pytest.raises(UserError, match=f"corpus: no split '{wanted}'; there are Train, test$"):
        in_split(with_splits(["test", "Train", None]), wanted, where="corpus")


@given(st.lists(st.sampled_from(["Anna", "anna", "ANNA", "ben", "Ben", "cy", None])))
def test_names_are_merged_by_capitals_alone(names: list[str | None]) -> None:
    found = merged(names)
    assert [name is None for name in found] == [name is None for name in names]
    for one, name in zip(found, names, strict=True):
        assert one in names
        assert (one or "").lower() == (name or "").lower()
    assert len(set(found)) == len({None if name is None else name.lower() for name in names})


def test_a_person_in_two_spellings_is_on_one_side() -> None:
    names = [name for number in range(20) for name in (f"s{number}", f"S{number}")]
    for seed in range(5):
        parts = split_by_speaker(with_speakers(names), {"train": 0.5, "test": 0.5}, seed=seed)
        train, test = ({str(each.speaker).lower() for each in part} for part in parts.values())
        assert train.isdisjoint(test)
        assert len(parts["train"]) == 20


def test_capitals_alone_change_no_division() -> None:
    lower, mixed = (with_speakers([f"{letter}{number % 9}" for number in range(40)]) for letter in "sS")
    one, other = (split_by_speaker(each, {"a": 0.7, "b": 0.3}, seed=3)["a"] for each in (lower, mixed))
    assert [each.audio for each in one] == [each.audio for each in other]


def test_shots_of_a_speaker_in_two_spellings() -> None:
    assert len(k_shot(with_speakers(["Anna", "anna", "ben", "BEN"]), 2, seed=0, key="speaker")) == 4


def test_the_official_lists_take_any_spelling() -> None:
    few = with_speakers([f"s{number % 20}" for number in range(400)])
    train = [each.model_copy(update={"duration": 20.0, "split": "TRAIN"}) for each in few]
    lists = draw_lists("speechocean762", train)
    assert len(lists["speechocean762-10min"]) == 30


def test_what_differs_only_in_capitals_is_told() -> None:
    utterances = [
        Utterance(audio="0.wav", duration=1.0, speaker="Anna", split="Test", language="EN", label="joy"),
        Utterance(audio="1.wav", duration=1.0, speaker="anna", split="test", language="en", label="fear"),
        Utterance(audio="2.wav", duration=1.0, speaker="ben", split="train", language="en", label="joy"),
    ]
    lines = closing_lines(count_known(utterances), Findings())
    assert lines[1:] == [
        "speakers differ only in capitals: 'Anna', 'anna'",
        "languages differ only in capitals: 'EN', 'en'",
        "splits differ only in capitals: 'Test', 'test'",
    ]


def test_a_group_that_differs_in_more_than_capitals_is_told_so() -> None:
    labels = ["Joy", "joy", "JOY", "jOY", "\uff21", "A"]
    utterances = [Utterance(audio=f"{place}.wav", duration=1.0, label=name) for place, name in enumerate(labels)]
    [note] = count_known(utterances).notes()
    assert note == "labels may be meant to be the same: 'Joy', 'joy', 'JOY', 'jOY'; '\uff21', 'A'"


@pytest.mark.parametrize(
    "names",
    [
        ["P1", "p01", "P-1", "P 1", "P_1", "p_001"],
        ["anna", "an-na", "ANN_A", "an na", "an\u2011na"],
        ["\u0130pek", "ipek", "IPEK", "i\u0307pek", "\u0131pek", "I\u0307PEK"],
        ["1-12", "1_12", "1 12"],
        ["\u0905\u0928\u0940\u0924\u093e", "\u0905\u0928\u0940-\u0924\u093e"],
    ],
)
def test_spellings_of_one_name(names: list[str]) -> None:
    assert len({alike(name) for name in names}) == 1
    assert len(set(merged(names))) == 1
    [note] = count_known(with_speakers(names)).notes()
    assert all(repr(name) in note for name in {str(each.speaker) for each in with_speakers(names)})


@pytest.mark.parametrize(
    "names", [["1-12", "11-2", "112"], ["s1_1", "s11"], ["5", "-5"], ["p1", "p10", "p100"], ["a1b01", "a01b1"]]
)
def test_other_names_stay_apart(names: list[str]) -> None:
    assert merged(names) == names


def test_turkish_capitals_are_capitals() -> None:
    assert len({folded(name) for name in ("\u0130pek", "ipek", "IPEK", "\u0131pek", "i\u0307pek")}) == 1
    [note] = count_known(with_speakers(["\u0130PEK", "ipek"])).notes()
    assert note == "speakers differ only in capitals: '\u0130PEK', 'ipek'"


def test_groups_of_names_are_counted() -> None:
    names = [name for number in range(10) for name in (f"anna{number}", f"Anna{number}")]
    [note] = count_known(with_speakers(names)).notes()
    shown = "; ".join(f"'anna{number}', 'Anna{number}'" for number in range(8))
    assert note == f"speakers differ only in capitals: {shown} and 2 more"


def test_names_of_mixed_scripts_are_told() -> None:
    names = [
        "anna",
        "\u0430nna",
        "\u0410\u043d\u043d\u0430",
        "\u0430\u043d\u043d\u0430",
        "lee \u0410\u043d\u043d\u0430",
        "\u0421OP",
        "ben",
    ]
    assert count_known(with_speakers(names)).notes() == [
        f"speakers may be meant to be the same: 'anna', '\u0430nna'; {names[2]!r}, {names[3]!r}",
        "speakers mix letters of two scripts: '\u0430nna' (U+0430 CYRILLIC SMALL LETTER A beside LATIN), "
        "'\u0421OP' (U+0421 CYRILLIC CAPITAL LETTER ES beside LATIN)",
    ]


def test_groups_that_a_third_name_joins() -> None:
    names = ["\u0441\u043e\u0440", "cop", "\u0421\u041e\u0420", "COP"]  # Cyrillic and Latin letters of one form
    [note] = count_known(with_speakers(names)).notes()
    assert sorted(note.partition(": ")[2].split(", ")) == sorted(map(repr, names))


def test_names_that_a_spreadsheet_rounded_are_told() -> None:
    speakers = ["1.23457E+17"] * 3 + ["1,5E+11", "123456789012345000", "123456789012345678", "1E5", "1.50E+01"]
    utterances = with_speakers(speakers)
    utterances[0] = utterances[0].model_copy(update={"label": "2.1E+09"})
    end = "; different ones may have become one, so export the column as text"
    assert count_known(utterances).notes() == [
        f"labels look rounded by a spreadsheet: '2.1E+09' (1 x){end}",
        "speakers look rounded by a spreadsheet: '1.23457E+17' (3 x), '1,5E+11' (1 x), '123456789012345000' (1 x)"
        + end,
    ]
