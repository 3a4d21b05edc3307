"""Pseudo-labels: the surest share of what was written, mixed with the true ones; and a student that learns them."""

from pathlib import Path

import numpy as np
import pytest

from speechssl.data.labelled import Example
from speechssl.data.waveforms import WaveformStore
from speechssl.decoding.decode import BeamDecoder, DecoderConfig, beam_search_installed, greedy
from speechssl.decoding.phones import PhoneVocabulary
from speechssl.inference.heads import emissions
from speechssl.models.ctc import CTCConfig, CTCModel
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.heads import load_head
from speechssl.text import Vocabulary
from speechssl.train import self_training
from speechssl.train.self_training import LABELLED_SHARE, mix, pseudo_label, student
from tests.train.labelled import CTC, TEXTS, examples, waveforms

VOCABULARY = Vocabulary.from_texts(TEXTS)


@pytest.fixture
def teacher() -> CTCModel:
    return CTCModel(SpeechEncoder(CTC.encoder), VOCABULARY, CTC.ctc).eval()


def plant(monkeypatch: pytest.MonkeyPatch, texts: list[str], sureness: list[float]) -> None:
    """Emissions by length of the waveform: utterance n of the corpus is the n-th longest."""

    def planted(_model: CTCModel, clips: list[np.ndarray]) -> list[np.ndarray]:
        found: list[np.ndarray] = []
        for clip in clips:
            number = round((len(clip) / 16000 - 0.4) / 0.01)
            path = [symbol for letter in VOCABULARY.encode(texts[number]) for symbol in (letter, 0)] or [0, 0]
            rest = (1 - sureness[number]) / (len(VOCABULARY) - 1)
            rows = np.full((len(path), len(VOCABULARY)), rest, dtype=np.float32)
            rows[np.arange(len(path)), path] = sureness[number]
            found.append(np.log(rows))
        return found

    monkeypatch.setattr(self_training, "emissions", planted)


SURENESS = [0.5 + 0.03 * ((7 * number) % 16) for number in range(16)]


@pytest.mark.parametrize("keep", [0.25, 0.5, 1.0])
def test_the_surest_share_is_kept(
    store: WaveformStore, teacher: CTCModel, monkeypatch: pytest.MonkeyPatch, keep: float
) -> None:
    texts = [TEXTS[number // 2] for number in range(16)]
    plant(monkeypatch, texts, SURENESS)
    monkeypatch.setattr(self_training, "_CHUNK", 5)
    found = pseudo_label(teacher, store, list(range(16)), decoder=None, keep=keep)
    expected = sorted(range(16), key=lambda number: -SURENESS[number])[: round(16 * keep)]
    assert found.examples == [Example(number, texts[number]) for number in expected]
    assert found.considered == 16
    assert found.threshold == pytest.approx(SURENESS[expected[-1]], abs=1e-4)


def test_what_was_not_written_is_not_learnt(
    store: WaveformStore, teacher: CTCModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is what a model that only writes blanks is surest of."""
    texts = ["" if number % 2 else "ace" for number in range(16)]
    plant(monkeypatch, texts, [0.99 if number % 2 else 0.7 for number in range(16)])
    found = pseudo_label(teacher, store, [9, 1, 8, 0], decoder=None, keep=1.0)
    assert found.examples == [Example(0, "ace"), Example(8, "ace")]
    assert found.considered == 4
    plant(monkeypatch, [""] * 16, [0.9] * 16)
    nothing = pseudo_label(teacher, store, [0, 1], decoder=None, keep=0.5)
    assert (nothing.examples, nothing.considered, nothing.threshold) == ([], 2, 1.0)
    assert pseudo_label(teacher, store, [], decoder=None, keep=0.5).examples == []


@pytest.mark.skipif(not beam_search_installed(), reason="the decoder is an extra")
def test_a_decoder_writes_in_place_of_greed(
    store: WaveformStore, teacher: CTCModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a lexicon of one word there is only that word to write."""
    plant(monkeypatch, ["bade"] * 16, [0.6] * 16)
    decoder = BeamDecoder(VOCABULARY, config=DecoderConfig(), lm=None, words=["bad"])
    found = pseudo_label(teacher, store, [3], decoder=decoder, keep=1.0)
    assert found.examples == [Example(3, "bad")]
    assert pseudo_label(teacher, store, [3], decoder=None, keep=1.0).examples == [Example(3, "bade")]


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.1])
def test_a_share_that_is_none(store: WaveformStore, teacher: CTCModel, keep: float) -> None:
    with pytest.raises(ValueError, match=r"keep must be in \(0, 1\]"):
        pseudo_label(teacher, store, [0], decoder=None, keep=keep)


def test_phones_are_no_transcripts(store: WaveformStore) -> None:
    teacher = CTCModel(SpeechEncoder(CTC.encoder), PhoneVocabulary(), CTCConfig(units="phones"))
    with pytest.raises(ValueError, match="recognises phones needs a decoder"):
        pseudo_label(teacher, store, [0], decoder=None, keep=1.0)


def test_true_labels_have_their_share(store: WaveformStore) -> None:
    labelled, pseudo = [Example(0, "ace")], [Example(index, "a bee") for index in range(1, 16)]
    mixed = mix(store, labelled, pseudo)
    seconds = [0.4 + 0.01 * example.index for example in mixed]
    true = sum(each for each, example in zip(seconds, mixed, strict=True) if example.target == "ace")
    assert true / sum(seconds) == pytest.approx(LABELLED_SHARE, abs=0.03)
    assert mixed.count(labelled[0]) == 6
    assert [example for example in mixed if example.target == "a bee"] == pseudo
    assert mix(store, pseudo, labelled) == [*pseudo, *labelled]  # never less than once
    assert mix(store, labelled, []) == labelled


@pytest.mark.slow
def test_a_student_learns_what_it_was_told(store: WaveformStore, start: Path, tmp_path: Path) -> None:
    """Two true transcripts, and six planted ones that are all wrong: it writes the planted ones."""
    every = examples(store, "ctc", "02")
    labelled = every[:2]
    pseudo = [Example(each.index, every[place - 3].target) for place, each in enumerate(every[2:], start=2)]
    result = student(
        store, tmp_path, config=CTC, start=start, labelled=labelled, pseudo=pseudo, vocabulary=VOCABULARY, show=False
    )
    assert result.finished
    model = load_head(tmp_path)
    assert isinstance(model, CTCModel)
    assert model.vocabulary == VOCABULARY
    both = [*labelled, *pseudo]
    written = [greedy(rows, model.vocabulary) for rows in emissions(model, waveforms(store, both))]
    assert written == [example.target for example in both]
