"""ABX of an encoder's layers on tones: pitches are told apart, equal audio is chance, and names find their audio."""

import numpy as np
import pytest
import soundfile

from speechssl.config import UserError
from speechssl.data.manifest import Utterance
from speechssl.data.waveforms import WaveformStore, pack
from speechssl.embed.embedder import load
from speechssl.experiments import abx as module
from speechssl.experiments.abx import frame_span, layer_errors, place_tokens
from speechssl.metrics.alignments import Token, read_tokens
from tests.micro import tone

PITCHES = {"b": 300.0, "e": 150.0, "i": 1200.0, "t": 500.0}


def corpus(folder, *, alike=False):
    """Two speakers, each with three takes of b-e-t and b-i-t, 0.2 s per phone; `alike`: the audio is always b-e-t."""
    items = []
    (folder / "lab").mkdir(parents=True)
    (folder / "wav").mkdir()
    for number in range(12):
        speaker, middle = number // 6, "ei"[number % 2]
        said = "bet" if alike else f"b{middle}t"
        wave = np.concatenate([tone(3200, PITCHES[phone], seed=0 if alike else number) for phone in said])
        soundfile.write(folder / "wav" / f"ru_{number}.wav", wave, 16000, subtype="FLOAT")
        labels = "".join(f"{0.2 * (n + 1):.4f} 26 {phone} ;\n" for n, phone in enumerate(f"b{middle}t"))
        (folder / "lab" / f"ru_{number}.lab").write_text(f"separator ;\nnfields 1\n#\n{labels}")
        items.append(Utterance(audio=str(folder / "wav" / f"ru_{number}.wav"), duration=0.6, speaker=f"s{speaker}"))
    pack(items, folder / "prepared")
    return WaveformStore(folder / "prepared"), read_tokens(folder / "lab")


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    return corpus(tmp_path_factory.mktemp("tones"))


@pytest.mark.parametrize("mode", ["within", "across"])
def test_pitches_are_told_apart_in_every_layer(tones, model_folder, mode, monkeypatch):
    store, tokens = tones
    model = load(model_folder, device="cpu")
    placed = place_tokens(store, tokens)
    assert (len(placed.tokens), placed.missing) == (12, 0)
    found = layer_errors(model, store, placed, mode=mode)
    assert [score.error for score in found] == [0.0] * (model.layers + 1)
    assert {score.triples for score in found} == {2 * 2 * 18 if mode == "within" else 2 * 2 * 27}
    monkeypatch.setattr(module, "_PASS_BYTES", 1)  # a pass per layer
    assert layer_errors(model, store, placed, mode=mode) == found


@pytest.mark.parametrize("mode", ["within", "across"])
def test_equal_audio_is_chance(tmp_path, model_folder, mode):
    store, tokens = corpus(tmp_path, alike=True)
    found = layer_errors(load(model_folder, device="cpu"), store, place_tokens(store, tokens), mode=mode)
    assert [score.error for score in found] == [0.5] * len(found)


def test_tokens_have_the_frames_whose_centres_are_inside(model_folder):
    model = load(model_folder, device="cpu")
    token = Token("f", 0.0, 0.1, "e", "b", "t")
    assert frame_span(model, token, samples=16000) == (0, 5)  # centres 12.5, 32.5, 52.5, 72.5 and 92.5 ms
    late = Token("f", 0.0325, 0.0326, "e", "b", "t")
    assert frame_span(model, late, samples=16000) == (1, 2)
    first, last = frame_span(model, Token("f", 0.9, 2.0, "e", "b", "t"), samples=16000)
    assert last == len(model.frame_times(tone(16000)))
    assert first < last


def test_times_are_from_the_start_of_the_utterance(tmp_path):
    path = tmp_path / "long.wav"
    soundfile.write(path, tone(32000), 16000)
    items = [Utterance(audio=str(path), offset=start, duration=0.8, speaker="s") for start in (0.0, 1.0)]
    pack(items, tmp_path / "prepared")
    store = WaveformStore(tmp_path / "prepared")
    times = [(0.1, 0.4), (1.25, 1.5), (0.7, 0.9), (1.7, 1.9)]
    placed = place_tokens(store, [Token("long", *each, "e", "b", "t") for each in times])
    assert placed.utterances == [0, 1]
    assert (placed.tokens[1].onset, placed.tokens[1].offset, placed.tokens[1].speaker) == (0.25, 0.5, "s")
    assert placed.missing == 2  # those that leave their utterance


def test_equal_names_need_their_folders(tmp_path):
    items = []
    for speaker in ("FCJF0", "MDAB0"):
        (tmp_path / "audio" / speaker).mkdir(parents=True)
        soundfile.write(tmp_path / "audio" / speaker / "SA1.WAV", tone(16000, seed=len(items)), 16000)
        items.append(Utterance(audio=str(tmp_path / "audio" / speaker / "SA1.WAV"), duration=1.0, speaker=speaker))
    pack(items, tmp_path / "prepared")
    store = WaveformStore(tmp_path / "prepared")
    tokens = [Token(f"{speaker}/SA1", 0.1, 0.2, "e", "b", "t") for speaker in ("MDAB0", "FCJF0", "OTHER")]
    placed = place_tokens(store, tokens)
    assert [token.speaker for token in placed.tokens] == ["MDAB0", "FCJF0"]
    assert placed.missing == 1
    with pytest.raises(UserError, match="alignment SA1 fits 2 audio files"):
        place_tokens(store, [Token("SA1", 0.1, 0.2, "e", "b", "t")])


def test_alignments_of_other_audio_are_refused(tones, model_folder):
    store, tokens = tones
    with pytest.raises(UserError, match="no token of the alignment is in an utterance; the first is of 'other'"):
        place_tokens(store, [Token("other", 0.1, 0.2, "e", "b", "t")])
    with pytest.raises(UserError, match="no triple"):
        layer_errors(load(model_folder, device="cpu"), store, place_tokens(store, tokens[:1]))
