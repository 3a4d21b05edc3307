"""The synthetic corpus: each utterance on its own, resumable, and with the cues it promises."""

import ctypes
import dataclasses
import itertools
import multiprocessing
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.config import UserError, load_config
from speechssl.data.corpora import espeak, espeak_engine, espeak_grammar, espeak_room, espeak_styles
from speechssl.data.corpora.espeak import Settings, prepare, render, utterance_spec

FEW = Settings(hours=20 * espeak._MEAN_SECONDS / 3600, workers=1)  # 20 utterances


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.flac"))}


def test_an_utterance_does_not_depend_on_the_others() -> None:
    alone = {index: render(index, Settings()) for index in (17, 3)}  # 3 has a breathy voice, which draws noise
    for index in (40, 3, 9, 21, 17):
        again = render(index, Settings())
        np.testing.assert_array_equal(again, alone.get(index, again))


def test_the_full_run_has_the_utterance_made_alone(tmp_path: Path) -> None:
    utterances = list(prepare(tmp_path, FEW))
    assert len(utterances) == 20
    for index in (17, 3):
        samples, rate = soundfile.read(utterances[index].audio, dtype="int16")
        assert rate == 16000
        np.testing.assert_array_equal(samples, np.round(render(index, FEW) * 32768).astype(np.int16))
        assert utterances[index].duration == len(samples) / 16000


@pytest.mark.slow
def test_several_processes_make_the_same_files(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    first = list(prepare(one, FEW))
    second = list(prepare(two, FEW.model_copy(update={"workers": 2})))
    assert _files(one) == _files(two)
    assert [each.duration for each in first] == [each.duration for each in second]
    assert multiprocessing.active_children() == []


def test_a_broken_run_goes_on(tmp_path: Path) -> None:
    whole = list(prepare(tmp_path, FEW))
    before = _files(tmp_path)
    stamps = {each.audio: Path(each.audio).stat().st_mtime_ns for each in whole}
    for each in (whole[4], whole[11]):
        Path(each.audio).unlink()
    assert list(prepare(tmp_path, FEW)) == whole
    assert _files(tmp_path) == before
    made = {path for path, stamp in stamps.items() if Path(path).stat().st_mtime_ns != stamp}
    assert made == {whole[4].audio, whole[11].audio}


def test_stopping_early_is_clean(tmp_path: Path) -> None:
    utterances = prepare(tmp_path, FEW)
    next(utterances)
    utterances.close()  # type: ignore[attr-defined]
    names = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert names == ["000000.flac"]


def test_a_longer_corpus_begins_with_the_shorter_and_other_settings_never_meet(tmp_path: Path) -> None:
    short = FEW.model_copy(update={"hours": FEW.hours / 10})
    longer = FEW.model_copy(update={"hours": FEW.hours / 5})
    few = list(prepare(tmp_path, short))
    assert list(prepare(tmp_path, longer))[: len(few)] == few
    other = list(prepare(tmp_path, short.model_copy(update={"seed": 1})))
    assert {Path(each.audio).parents[1] for each in other}.isdisjoint(Path(each.audio).parents[1] for each in few)
    assert [each.text for each in other] != [each.text for each in few]


def test_every_speaker_has_every_style_equally_often() -> None:
    for settings in (Settings(), Settings(voices=7), Settings(voices=5, styles=("sad", "angry", "neutral"))):
        count = settings.voices * len(settings.styles)
        cells = Counter((each.speaker.name, each.style) for each in (utterance_spec(i, settings) for i in range(count)))
        assert len(cells) == count
        assert set(cells.values()) == {1}


def test_speakers_differ() -> None:
    speakers = [espeak_styles.speaker(index, seed=0) for index in range(espeak_styles.MAX_VOICES)]
    assert len({each.voice for each in speakers}) == len(speakers) >= 24
    assert 0.3 < np.mean([each.female for each in speakers]) < 0.5
    for accent, variant in zip(espeak_styles.ACCENTS, espeak_styles.VARIANTS, strict=False):
        speech = espeak_engine.synthesize("Good morning.", f"{accent}+{variant}")
        assert 0.4 < speech.samples.size / speech.rate < 2


def test_utterances_are_of_two_to_six_seconds_and_sound() -> None:
    sounds = [render(index, Settings()) for index in range(0, 288, 7)]
    assert abs(np.mean([each.size for each in sounds]) / 16000 - espeak._MEAN_SECONDS) < 0.4
    for samples in sounds:
        assert np.isfinite(samples).all()
        assert np.abs(samples).max() <= 0.95
        assert -40 < 20 * np.log10(np.sqrt(np.mean(samples**2))) < -14
        assert 1.8 < samples.size / 16000 < 6.8


def _pitch(samples: np.ndarray) -> np.ndarray:
    """Octaves above 1 Hz of the louder frames, by the highest peak of the autocorrelation; slow and plain."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, 1024)[::512]
    loud = frames[np.square(frames).sum(axis=1) > np.median(np.square(frames).sum(axis=1))]
    correlations = np.fft.irfft(np.abs(np.fft.rfft(loud * np.hanning(1024), 2048)) ** 2)[:, 40:270]
    return np.log2(16000 / (40 + correlations.argmax(axis=1)))


@pytest.mark.slow
def test_styles_differ_in_pitch_range_and_rate_but_no_cue_gives_them_away() -> None:
    settings = Settings(voices=12)
    cues: dict[str, list[tuple[float, float, float]]] = {style: [] for style in settings.styles}
    for index in range(12 * 6):
        each = utterance_spec(index, settings)
        samples = render(index, settings)
        octaves = _pitch(samples)
        spread = float(np.subtract(*np.percentile(octaves, [80, 20])))
        cues[each.style].append((float(np.median(octaves)), spread, len(each.sentence) / samples.size * 16000))
    mean = {style: np.mean(values, axis=0) for style, values in cues.items()}
    assert mean["excited"][0] > mean["neutral"][0] + 0.1 > mean["sad"][0] + 0.1  # octaves
    assert mean["excited"][1] > 1.2 * mean["sad"][1]
    assert mean["excited"][2] > 1.1 * mean["neutral"][2] > 1.2 * mean["sad"][2]
    for cue, first, second in itertools.product(range(2), cues, cues):
        low, high = np.percentile([row[cue] for row in cues[first]], [0, 100])
        assert any(low <= row[cue] <= high for row in cues[second])


def test_the_manner_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    synthesize = espeak_engine.synthesize
    usual = utterance_spec(0, Settings()).manner
    asked = []
    monkeypatch.setattr(espeak, "synthesize", lambda *args, **named: asked.append(named) or synthesize(*args, **named))

    def render_with(**changes: object) -> np.ndarray:
        monkeypatch.setattr(espeak, "manner", lambda *_, **__: dataclasses.replace(usual, **changes))
        return render(0, Settings())

    low, high = (np.median(_pitch(render_with(pitch=pitch))) for pitch in (20, 80))
    assert 0.5 < high - low < 1.0  # octaves; 60 of about 70 steps, less what noise and room take
    slow, fast = ((render_with(words_per_minute=rate), utterance_spec(0, Settings())) for rate in (130, 195))
    per_letter = [sound.size / len(each.sentence) for sound, each in (slow, fast)]
    assert per_letter[0] > 1.25 * per_letter[1]
    render_with(words_per_minute=150, pitch=40, pitch_range=77)
    assert asked[-1] == {"words_per_minute": 150, "pitch": 40, "pitch_range": 77}
    dull, bright = (np.abs(np.fft.rfft(render_with(tilt=tilt))) for tilt in (-3.0, 3.0))
    assert bright[-8000:].sum() / bright.sum() > 2 * dull[-8000:].sum() / dull.sum()


@pytest.mark.slow
def test_level_says_nothing_about_the_style() -> None:
    tone = np.sin(np.arange(32000) / 9).astype(np.float32)
    levels = {}
    for style in ("angry", "soft"):
        manners = [espeak_styles.manner(i, espeak_styles.STYLES[style], _speaker(), seed=0) for i in range(150)]
        sounds = [espeak_room.record(tone, each, seed=0, index=i) for i, each in enumerate(manners)]
        levels[style] = np.array([20 * np.log10(sound.std()) for sound in sounds])
    assert abs(levels["angry"].mean() - levels["soft"].mean()) < 1.0  # dB; they are spread over 18 dB
    assert levels["angry"].std() > 3


def _speaker() -> espeak_styles.Speaker:
    return espeak_styles.speaker(0, seed=0)


def test_sentences_are_many_and_cover_the_sounds_of_english() -> None:
    sentences = [espeak_grammar.sentence(np.random.default_rng(seed)) for seed in range(1500)]
    assert len(set(sentences)) > 1490
    assert len({word.strip(",").lower() for each in sentences for word in each.split()}) > 600
    assert all(4 <= len(each.split()) <= 24 and each[0].isupper() and each[-1].isalpha() for each in sentences)
    assert not any(f" a {vowel}" in each for each in sentences for vowel in ("apple", "old ", "empty", "orange"))
    phones = _phones(". ".join(sentences))
    wanted = "p b t d k ɡ tʃ dʒ f v θ ð s z ʃ ʒ h m n ŋ l ɹ j w iː ɪ ɛ a ʌ ʊ uː ɜː ə ɔː ɒ ɑː eɪ aɪ ɔɪ əʊ aʊ"
    assert [phone for phone in wanted.split() if phone not in phones] == []


def _phones(text: str) -> str:
    library = espeak_engine._open()
    try:
        library.espeak_Initialize(2, 0, str(espeak_engine._paths()[1].parent).encode(), 0x8000)
        library.espeak_SetVoiceByName(b"en")
        library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        library.espeak_TextToPhonemes.argtypes = [ctypes.POINTER(ctypes.c_char_p), ctypes.c_int, ctypes.c_int]
        rest = ctypes.c_char_p(text.encode())
        phones = ""
        while rest.value:
            phones += (library.espeak_TextToPhonemes(ctypes.byref(rest), 1, 2) or b"").decode()
        return phones
    finally:
        library.espeak_Terminate()
        espeak_engine._close(library)


def test_what_is_said_of_an_utterance(tmp_path: Path) -> None:
    utterance = next(prepare(tmp_path, FEW))
    assert utterance.extras["synthetic"] is True
    assert utterance.label == "neutral"
    assert utterance.language == "en"
    assert utterance.speaker == "s000"
    assert utterance.text is not None
    assert utterance.text[-1].isalpha(), "the final mark would give the style away"
    assert espeak.INFO.synthetic
    assert "ynthetic" in espeak.INFO.story


def test_mistakes_are_one_line() -> None:
    with pytest.raises(UserError, match=r"espeak-ng has no voice 'en-Mars\+m1'"):
        espeak_engine.synthesize("Hello.", "en-Mars+m1")
    with pytest.raises(ValueError, match="pitch: given 100, allowed: 0 to 99"):
        espeak_engine.synthesize("Hello.", "en+m1", pitch=100)
    for override, message in (
        ("voices=105", "key 'voices': given 105"),
        ('styles=["happy"]', "different ones of neutral, excited"),
        ("hours=0", "key 'hours': given 0"),
    ):
        with pytest.raises(UserError, match=message):
            load_config(Settings, overrides=[override])
