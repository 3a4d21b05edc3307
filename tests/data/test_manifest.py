"""Manifests: round trips, errors that name the line, and the promises of splits and subsets by hypothesis."""

import json
import math
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from speechssl.config import UserError
from speechssl.data.manifest import (
    Reject,
    Utterance,
    filter_manifest,
    k_shot,
    minutes_subset,
    read_manifest,
    split_by_speaker,
    statistics,
    validate_manifest,
    write_manifest,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]))  # JSON files are UTF-8, which has no surrogates
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]))  # control characters in names are refused
SECONDS = st.floats(0, 1e6)
UTTERANCES = st.builds(
    Utterance,
    audio=TEXT.map(lambda name: "/audio/" + name),
    offset=SECONDS,
    duration=SECONDS,
    speaker=st.none() | NAMES,
    text=st.none() | TEXT,
    label=st.none() | NAMES,
    language=st.none() | NAMES,
    split=st.none() | NAMES,
    extras=st.dictionaries(TEXT, TEXT | st.integers(-(2**53), 2**53) | st.booleans() | st.none(), max_size=3),
)


def corpus(count: int, *, speakers: int = 8, labels: int = 3) -> list[Utterance]:
    return [
        Utterance(
            audio=f"/audio/{index:04}.wav",
            duration=1.0 + index % 7,
            speaker=f"s{index % speakers}",
            label=f"c{index % labels}",
        )
        for index in range(count)
    ]


# Reading and writing


@given(st.lists(UTTERANCES, max_size=4))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, utterances: list[Utterance]) -> None:
    path = tmp_path_factory.mktemp("manifest") / "m.jsonl"
    write_manifest(utterances, path)
    again = read_manifest(path)
    assert again == utterances
    assert [list(map(type, one.extras.values())) for one in again] == [
        list(map(type, one.extras.values())) for one in utterances
    ]


def test_lines_are_short_and_readable(tmp_path: Path) -> None:
    write_manifest([Utterance(audio="речь.wav", duration=1.5, text="да\u2028нет", speaker=None)], tmp_path / "m.jsonl")
    text = (tmp_path / "m.jsonl").read_text("utf-8")
    assert text == '{"audio":"речь.wav","duration":1.5,"text":"да\u2028нет"}\n'
    assert len(read_manifest(tmp_path / "m.jsonl")) == 1


def test_relative_paths_are_relative_to_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "corpus").mkdir()
    lines = [{"audio": name, "duration": 1} for name in ("a/b.wav", "/abs/c.wav")]
    (tmp_path / "corpus" / "m.jsonl").write_text("\ufeff" + "\r\n\n".join(map(json.dumps, lines)), "utf-8")
    expected = [str(tmp_path / "corpus" / "a" / "b.wav"), "/abs/c.wav"]
    assert [one.audio for one in read_manifest(tmp_path / "corpus" / "m.jsonl")] == expected
    monkeypatch.chdir(tmp_path)
    assert [one.audio for one in read_manifest("corpus/m.jsonl")] == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON: Expecting"),
        ("[]", "line 2: given list, allowed: a JSON object"),
        ('{"audio": "a.wav"}', r"line 2: 'duration' \(seconds\) is missing; write 0 where it is not known$"),
        ('{"audio": "a.wav", "duration": "long"}', r"line 2: duration: given 'long', allowed: seconds$"),
        ('{"audio": "a.wav", "duration": true}', r"line 2: duration: given True, allowed: seconds$"),
        ('{"audio_filepath": "a.wav", "duration": 1}', "'audio' is missing: .* there is 'audio_filepath'$"),
        (r'{"audio": "a.wav", "duration": 1, "text": "\ud800"}', r"line 2: half a character \(.ud800\)$"),
        ('{"duration": 1}', "line 2: 'audio' is missing: the path of the file$"),
        ('{"audio": "a.wav", "duration": 1, "text": "a", "text": "b"}', "line 2: 'text' is there twice$"),
        ('{"audio": "a.wav", "duration": 1, "label": ["a"]}', r"line 2: label: given \['a'\], allowed: one text"),
        ('{"audio": "a.wav", "duration": 1, "speeker": "x"}', "'speeker' is no field .*; did you mean 'speaker'\\? "),
        ('{"audio": "a.wav", "duration": 1, "extras": {"a": [1]}}', r"line 2: extras.a.*given \[1\]"),
    ],
)  # fmt: skip
def test_wrong_line_is_named(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"audio": "a.wav", "duration": 1}\n' + line + "\n")
    with pytest.raises(UserError, match=message) as caught:
        read_manifest(tmp_path / "m.jsonl")
    assert "\n" not in str(caught.value)


def test_missing_and_binary_manifests(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"m.jsonl: the manifest cannot be read \(No such file"):
        read_manifest(tmp_path / "m.jsonl")
    with pytest.raises(UserError, match="Is a directory"):
        read_manifest(tmp_path)
    (tmp_path / "m.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8 text"):
        read_manifest(tmp_path / "m.jsonl")


def test_failed_write_leaves_the_old_manifest(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write_manifest(corpus(3), path)

    def half() -> object:
        yield corpus(1)[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_manifest(half(), path)
    assert read_manifest(path) == corpus(3)
    assert [one.name for one in tmp_path.iterdir()] == ["m.jsonl"]


def test_twenty_thousand_utterances_read_in_about_a_second(tmp_path: Path) -> None:
    write_manifest(corpus(20000), tmp_path / "m.jsonl")
    started = time.process_time()
    assert len(read_manifest(tmp_path / "m.jsonl")) == 20000
    assert time.process_time() - started < 3  # about 0.2 s alone; type checks and a busy machine take their share


def test_records_are_frozen_and_strict() -> None:
    with pytest.raises(ValidationError):
        Utterance(audio="a", duration=1.0).audio = "b"
    with pytest.raises(ValidationError):
        Reject(audio="a", reason="b", cause="c")


# Checks, filters, counts


def test_validate_names_every_problem(tmp_path: Path) -> None:
    good = tmp_path / "good.wav"
    good.touch()
    utterances = [
        Utterance(audio=str(good), duration=1.0),
        Utterance(audio=str(good), duration=0.0, offset=1.0),
        Utterance(audio=str(good), duration=1.0),
        Utterance(audio="", duration=1.0),
        Utterance(audio="no.wav", duration=math.nan, offset=-0.5),
    ]
    assert validate_manifest(utterances[:2], check_files=True) == []
    assert validate_manifest(utterances) == [
        f"utterance 2 ({good}): the same stretch of the same file as utterance 0",
        "utterance 3 (): no audio path",
        "utterance 4 (no.wav): offset must not be negative, got -0.5",
        "utterance 4 (no.wav): duration must be finite, got nan",
    ]
    assert validate_manifest(utterances, check_files=True)[-1] == "utterance 4 (no.wav): no such file"


def test_filter() -> None:
    utterances = corpus(100)
    kept = filter_manifest(utterances, min_duration=2.0, max_duration=3.0, speakers=["s1", "s2"], labels=["c0"])
    assert kept == [
        one
        for one in utterances
        if 2 <= one.duration <= 3 and one.speaker in {"s1", "s2"} and one.label == "c0"
    ]  # fmt: skip
    assert kept
    assert filter_manifest(utterances) == utterances
    assert filter_manifest(utterances, languages=["en"]) == []
    assert filter_manifest(utterances, splits=iter(["train"])) == []
    assert len(filter_manifest(utterances, keep=lambda one: one.audio.endswith("7.wav"))) == 10


def test_statistics() -> None:
    utterances = [*corpus(9), Utterance(audio="x", duration=0.5, text="t", language="en", split="test")]
    found = statistics(utterances)
    assert found.utterances == 10
    assert found.seconds == sum(one.duration for one in utterances)
    assert (found.shortest, found.longest, found.speakers, found.transcribed) == (0.5, 7.0, 8, 1)
    assert found.labels == {"c0": 3, "c1": 3, "c2": 3}
    assert (found.languages, found.splits) == ({"en": 1}, {"test": 1})
    assert statistics([]).seconds == 0


# Splits and subsets

SPEAKERS = st.lists(st.tuples(st.integers(0, 9), st.floats(0.1, 30)), min_size=3, max_size=60)
FRACTIONS = st.lists(st.integers(1, 20), min_size=1, max_size=3).map(
    lambda parts: {f"part{index}": part / sum(parts) for index, part in enumerate(parts)}
)


@given(SPEAKERS, FRACTIONS, st.integers(0, 99))
def test_split_promises(rows: list[tuple[int, float]], fractions: dict[str, float], seed: int) -> None:
    utterances = [
        Utterance(audio=f"{index}.wav", duration=duration, speaker=f"s{speaker}")
        for index, (speaker, duration) in enumerate(rows)
    ]
    speakers = {one.speaker for one in utterances}
    if len(speakers) < len(fractions):
        with pytest.raises(ValueError, match=f"{len(speakers)} speakers cannot fill {len(fractions)} parts"):
            split_by_speaker(utterances, fractions, seed=seed)
        return
    parts = split_by_speaker(utterances, fractions, seed=seed)
    assert list(parts) == list(fractions)
    owners = [{one.speaker for one in part} for part in parts.values()]
    assert sum(map(len, owners)) == len(speakers)
    assert all(owners)
    assert set().union(*owners) == speakers
    assert sorted(one.audio for part in parts.values() for one in part) == sorted(one.audio for one in utterances)
    for part in parts.values():
        assert part == sorted(part, key=lambda one: int(one.audio.removesuffix(".wav")))
    # A part exceeds its share by one speaker at most; filling an empty part may move one more.
    total = sum(one.duration for one in utterances)
    heaviest = max(sum(one.duration for one in utterances if one.speaker == name) for name in speakers)
    for name, part in parts.items():
        assert sum(one.duration for one in part) <= fractions[name] * total + heaviest + 1e-6


def test_split_is_close_with_many_speakers() -> None:
    utterances = corpus(4000, speakers=200)
    total = sum(one.duration for one in utterances)
    parts = split_by_speaker(utterances, {"train": 0.8, "valid": 0.1, "test": 0.1}, seed=3)
    for name, fraction in (("train", 0.8), ("valid", 0.1), ("test", 0.1)):
        assert sum(one.duration for one in parts[name]) / total == pytest.approx(fraction, abs=0.01)


@given(st.permutations(range(24)), st.integers(0, 5))
def test_split_is_seeded_and_does_not_see_the_order(order: list[int], seed: int) -> None:
    utterances = corpus(24)
    fractions = {"train": 0.7, "test": 0.3}
    one = split_by_speaker(utterances, fractions, seed=seed)
    other = split_by_speaker([utterances[index] for index in order], fractions, seed=seed)
    assert {u.audio for u in one["train"]} == {u.audio for u in other["train"]}


def test_seeds_differ() -> None:
    utterances = corpus(64, speakers=16)
    tests = {tuple(u.audio for u in split_by_speaker(utterances, {"a": 0.5, "b": 0.5}, seed=s)["a"]) for s in range(9)}
    assert len(tests) > 5
    assert len({tuple(u.audio for u in k_shot(utterances, 3, seed=s)) for s in range(9)}) > 5
    assert len({tuple(u.audio for u in minutes_subset(utterances, 1.0, seed=s)) for s in range(9)}) > 5


def test_split_counts_utterances_when_durations_are_unknown() -> None:
    utterances = [Utterance(audio=f"{index}", duration=0.0, speaker=f"s{index % 10}") for index in range(100)]
    parts = split_by_speaker(utterances, {"train": 0.8, "test": 0.2}, seed=0)
    assert (len(parts["train"]), len(parts["test"])) == (80, 20)


def test_split_refuses() -> None:
    nameless = [*corpus(5), *(Utterance(audio=f"x{index}", duration=1.0) for index in range(3))]
    with pytest.raises(ValueError, match=r"3 of 8 utterances have no speaker"):
        split_by_speaker(nameless, {"train": 1.0}, seed=0)
    for fractions in ({"a": 0.5, "b": 0.4}, {"a": 1.0, "b": 0.0}, {"a": 1.5, "b": -0.5}, {}, {"a": math.nan}):
        with pytest.raises(ValueError, match="fractions must be above 0 and sum to 1"):
            split_by_speaker(corpus(5), fractions, seed=0)


@given(st.integers(1, 20), st.integers(0, 50), st.permutations(range(60)))
def test_shots_are_equal_nested_and_independent(shots: int, seed: int, order: list[int]) -> None:
    utterances = corpus(60)
    chosen = k_shot(utterances, shots, seed=seed)
    assert statistics(chosen).labels == {"c0": shots, "c1": shots, "c2": shots}
    assert chosen == [one for one in utterances if one in chosen]  # old order
    more = k_shot(utterances, min(20, shots + 3), seed=seed)
    assert {one.audio for one in chosen} <= {one.audio for one in more}
    shuffled = k_shot([utterances[index] for index in order], shots, seed=seed)
    assert {one.audio for one in chosen} == {one.audio for one in shuffled}
    alone = k_shot(filter_manifest(utterances, labels=["c1"]), shots, seed=seed)
    assert alone == filter_manifest(chosen, labels=["c1"])


def test_shots_of_another_key_and_without_class() -> None:
    utterances = [*corpus(24), Utterance(audio="unlabelled", duration=1.0)]
    assert statistics(k_shot(utterances, 2, seed=0, key="speaker")).speakers == 8
    assert len(k_shot(utterances, 1, seed=0)) == 3


def test_shots_refuse() -> None:
    utterances = [*corpus(30), Utterance(audio="rare", duration=1.0, label="rare")]
    with pytest.raises(ValueError, match=r"2 shots asked for, but label 'rare' has 1$"):
        k_shot(utterances, 2, seed=0)
    with pytest.raises(ValueError, match="shots must be at least 1, got 0"):
        k_shot(utterances, 0, seed=0)
    with pytest.raises(ValueError, match="no utterance has a language"):
        k_shot(utterances, 1, seed=0, key="language")


@given(st.floats(0.2, 6), st.floats(1, 1.5), st.integers(0, 50))
def test_minutes_are_met_and_nested(minutes: float, factor: float, seed: int) -> None:
    utterances = corpus(150)  # 9.9 minutes
    chosen = minutes_subset(utterances, minutes, seed=seed)
    seconds = sum(one.duration for one in chosen)
    assert minutes * 60 - 7 < seconds <= minutes * 60 + 1e-6
    assert {one.audio for one in chosen} <= {
        one.audio for one in minutes_subset(utterances, minutes * factor, seed=seed)
    }


def test_all_minutes_are_all_utterances() -> None:
    utterances = corpus(60)
    assert minutes_subset(utterances, sum(one.duration for one in utterances) / 60, seed=1) == utterances


def test_minutes_refuse() -> None:
    with pytest.raises(ValueError, match=r"5 minutes asked for, the manifest holds 0\.47"):
        minutes_subset(corpus(7), 5.0, seed=0)
    with pytest.raises(ValueError, match="minutes must be above 0, got -1"):
        minutes_subset(corpus(7), -1.0, seed=0)
    with pytest.raises(ValueError, match="1 of 1 utterances have no duration"):
        minutes_subset([Utterance(audio="a", duration=0.0)], 1.0, seed=0)
