"""Marks are those of the samples, wherever a recording is cut, and silence, tones and repetitions have none."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.data import marks as module
from speechssl.data.copies import copies
from speechssl.data.manifest import Utterance
from speechssl.data.marks import BLOCK, WINDOW, Marks, Values, marks, without_common
from speechssl.data.training_audio import AudioRecord
from speechssl.data.waveforms import WaveformStore, pack

from ..toys import RATE, tones

TIMES = np.arange(2 * RATE) / RATE


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    """Samples of a 16-bit file."""
    rng = np.random.default_rng(seed)
    return (np.rint(2000 * rng.standard_normal(round(seconds * RATE))) / 32768).astype(np.float32)


def rounded(samples: np.ndarray) -> np.ndarray:
    return (np.rint(samples * 32767) / 32768).astype(np.float32)


def prepared(folder: Path, items: list[Utterance]) -> WaveformStore:
    pack(items, folder, workers=1)
    return WaveformStore(folder)


def written(path: Path, samples: np.ndarray, **known: str) -> Utterance:
    soundfile.write(path, samples, RATE, subtype="PCM_16")
    return Utterance(audio=str(path), duration=0.0, **known)


@pytest.mark.parametrize("first", [0, 1, 3, 256, 1601])
@pytest.mark.parametrize("last", [1, 2, 777])
def test_a_cut_has_the_marks_of_its_windows(first: int, last: int) -> None:
    whole, cut = noise(2.0), noise(2.0)[first:-last]
    shared = set(marks([whole]).tolist()) & set(marks([cut]).tolist())
    assert shared == set(marks([cut]).tolist())
    assert len(shared) > 0.9 * len(cut) / 512 - 10


def test_blocks_make_no_difference(tmp_path: Path) -> None:
    samples = noise(9.3)
    store = prepared(tmp_path / "corpus", [written(tmp_path / "a.wav", samples)])
    assert len(samples) > 2 * BLOCK
    pieces = [samples[start : start + 5000 + WINDOW - 1] for start in range(0, len(samples) - WINDOW + 1, 5000)]
    expected = marks(pieces).tolist()
    assert store.marks([0])[0].tolist() == expected
    assert 200 < len(expected) < 400


def test_marks_do_not_depend_on_the_form(tmp_path: Path) -> None:
    """A short file of floats, one above full scale, is stored as float32, a file of 16 bits as int16."""
    samples = noise(0.4)
    soundfile.write(tmp_path / "float.wav", np.append(samples, np.float32(1.5)), RATE, subtype="FLOAT")
    items = [written(tmp_path / "int.wav", samples), Utterance(audio=str(tmp_path / "float.wav"), duration=0.0)]
    store = prepared(tmp_path / "corpus", items)
    assert [store.read(number).dtype.name for number in range(2)] == ["int16", "float32"]
    one, other = (own.tolist() for own in store.marks([0, 1]))
    assert one
    assert one == other


@pytest.mark.parametrize(
    "samples",
    [
        pytest.param(np.zeros_like(TIMES), id="silence"),
        *(pytest.param(np.full_like(TIMES, value / 32768), id=f"constant {value}") for value in range(1, 2000, 97)),
        pytest.param(np.random.default_rng(0).integers(-5, 6, len(TIMES)) / 32768, id="dither"),
        *(pytest.param(0.5 * np.sin(2 * np.pi * pitch * TIMES), id=f"{pitch} Hz") for pitch in (50, 440, 440.3, 3000)),
        pytest.param(0.01 * np.sin(2 * np.pi * 1000.1 * TIMES), id="soft tone"),
        pytest.param(np.sign(np.sin(2 * np.pi * 100.3 * TIMES)) * 0.5, id="square"),
        pytest.param(np.resize(noise(0.1), len(TIMES)), id="a loop"),
    ],
)
def test_what_is_no_evidence_has_no_marks(samples: np.ndarray) -> None:
    assert len(marks([rounded(samples)])) == 0


def test_other_recordings_share_no_marks() -> None:
    own = [marks([tones(1.0, speaker=number % 4, seed=number)]) for number in range(100)]
    values = np.concatenate(own)
    assert len(values) > 2000
    assert len(np.unique(values)) == len(values)


def test_what_many_files_share_is_no_evidence() -> None:
    signal = noise(0.5, seed=1)
    own = [marks([np.concatenate([signal, noise(1.0, seed=number)])]) for number in range(2, 22)]
    alone = [set(marks([noise(1.0, seed=number)]).tolist()) for number in range(2, 22)]

    def shares(files: list[str], found: list[Values]) -> bool:
        return bool(set(found[0].tolist()) & set(found[1].tolist()))

    files = [str(number) for number in range(20)]
    rest = without_common(own, files)
    assert not shares(files, rest)
    assert all(expected <= set(found.tolist()) for found, expected in zip(rest, alone, strict=True))
    assert shares(files, without_common(own[:16], files[:16]))  # few files
    assert shares(files, without_common(own, ["one"] * 20))  # overlapping stretches of a file


def test_two_records_together() -> None:
    one, other = (marks([noise(1.0, seed=seed)]) for seed in (1, 2))
    both = Marks.of([one], level=0) | Marks.of([other], level=0)
    assert both.values.tolist() == sorted([*one.tolist(), *other.tolist()])
    assert both.shared([one[:2], marks([noise(1.0, seed=3)]), np.zeros(0, dtype=np.uint64)]) == [True, False, False]
    assert both.complete
    assert not (both | Marks(complete=False)).complete
    assert Marks.decoded(both.encoded(), level=0, complete=True) == both


def test_a_large_corpus_keeps_some_of_its_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 100)
    whole = written(tmp_path / "long.wav", noise(40.0))
    record = AudioRecord.of(prepared(tmp_path / "train", [whole]))
    assert record.marks.level >= 4
    assert 20 < len(record.marks.values) <= 100
    cut = written(tmp_path / "cut.wav", noise(40.0)[12345:100000])
    tested = prepared(tmp_path / "test", [written(tmp_path / "new.wav", noise(2.0, seed=1)), cut])
    assert tested.level < record.marks.level
    assert record.find(tested, [0, 1]) == [1]


def test_sentences_that_begin_alike_are_not_the_same_audio() -> None:
    """As a synthetic voice speaks them: 0.6 s are equal. A second in common is the same audio."""
    begin, rest, other = noise(1.5, seed=1), noise(2.5, seed=2), noise(2.5, seed=3)
    one = Marks.of([marks([np.concatenate([begin[:9600], rest])])], level=0)
    assert one.shared([marks([np.concatenate([begin[:9600], other])])]) == [False]
    one = Marks.of([marks([np.concatenate([begin, rest])])], level=0)
    assert one.shared([marks([np.concatenate([begin, other])])]) == [True]


def test_other_cuts_within_a_corpus(tmp_path: Path) -> None:
    samples = noise(1.0)
    cuts = {"a": samples, "b": samples[3:-1], "c": noise(1.0, seed=1), "d": samples[8000:]}
    speakers = {"a": "x", "b": "x", "c": "y", "d": "y"}
    items = [written(tmp_path / f"{name}.wav", cut, speaker=speakers[name]) for name, cut in cuts.items()]
    store = prepared(tmp_path / "corpus", items)
    assert copies(store, names="abcd") == {3: 0}
    assert copies(store, names="abcd", one_speaker=True) == {1: 0, 3: 0}
