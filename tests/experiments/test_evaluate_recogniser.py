"""A fine-tuned recogniser scored as it is: rates that equal a count by hand, leaks refused, two files compared."""

from pathlib import Path

import pytest
import soundfile
import torch

from speechssl.cli import main
from speechssl.config import UserError
from speechssl.data.manifest import Utterance
from speechssl.data.waveforms import WaveformStore, pack
from speechssl.decoding.decode import greedy
from speechssl.experiments.evaluate_head import evaluate_head
from speechssl.inference.heads import emissions
from speechssl.metrics.results import read_results
from speechssl.metrics.wer import count_errors
from speechssl.models.ctc import CTCConfig, CTCModel
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.heads import load_head, save_head
from speechssl.text import TEXT_RULES, Vocabulary, normalize_transcript
from speechssl.train.examples import examples_of
from tests.toys import MICRO_ENCODER, RATE, tones

TEXTS = ["A cab.", "bad dad", "add a bed", "dead", "a bee", "bade"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spoken")
    made: list[Utterance] = []
    for number, text in enumerate([*TEXTS, None]):
        path = folder / f"{number}.wav"
        soundfile.write(path, tones(0.8, speaker=number % 3, seed=number), RATE)
        made.append(Utterance(audio=str(path), duration=0.0, speaker=f"s{number % 3}", text=text, split="test"))
    pack(made, folder / "corpus", workers=1)
    return folder / "corpus"


def model_folder(folder: Path, *, speakers: list[str], seed: int = 0, **training: object) -> Path:
    """A recogniser that was never trained, and writes something."""
    torch.manual_seed(seed)
    model = CTCModel(SpeechEncoder(MICRO_ENCODER), Vocabulary.from_texts(["abcde"]), CTCConfig())
    with torch.no_grad():
        model.output.weight.mul_(20.0)
    known = {"content_hash": "other", "speakers": speakers, "audio": [], "text_rules": TEXT_RULES}
    save_head(folder, model, extra={"training": known | training})
    return folder


def test_the_rates_are_those_of_the_greedy_transcripts(corpus: Path, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", speakers=["somebody"])
    rows = evaluate_head(folder, corpus, tmp_path / "result.json")
    store, model = WaveformStore(corpus), load_head(folder)
    assert isinstance(model, CTCModel)
    heard = emissions(model, [store.waveform(index) for index in range(len(TEXTS))])
    written = [greedy(each, model.vocabulary) for each in heard]
    assert any(written)
    said = [normalize_transcript(text) for text in TEXTS]
    for row, unit in zip(rows, ("word", "character"), strict=True):
        counts = count_errors(said, written, unit=unit)
        assert row.value == pytest.approx(sum(c.errors for c in counts) / sum(c.words for c in counts))
        assert row.low <= row.value <= row.high
        assert (row.n, row.probe, row.unit) == (len(TEXTS), "greedy", "minutes")
    assert [row.metric for row in rows] == ["WER", "CER"]
    assert read_results(tmp_path / "result.json") == rows


def test_a_speaker_who_was_trained_on_is_refused(corpus: Path, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", speakers=["s1"])
    with pytest.raises(UserError, match="the model was trained on speaker 's1'"):
        evaluate_head(folder, corpus, tmp_path / "result.json")
    assert evaluate_head(folder, corpus, tmp_path / "result.json", other_speakers=True)


def test_nothing_to_score(corpus: Path, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", speakers=[])
    with pytest.raises(UserError, match=r"no split 'dev'; there are test$"):
        evaluate_head(folder, corpus, tmp_path / "result.json", split="dev")


def test_a_split_in_other_capitals(corpus: Path, tmp_path: Path) -> None:
    mixed = [
        item.model_copy(update={"split": "TEST" if number % 2 else "test"})
        for number, item in enumerate(WaveformStore(corpus).utterances)
    ]
    pack(mixed, tmp_path / "mixed", workers=1)
    folder = model_folder(tmp_path / "model", speakers=["somebody"])
    rows = evaluate_head(folder, tmp_path / "mixed", tmp_path / "result.json", split="Test")
    assert {row.n for row in rows} == {len(TEXTS)}


def test_two_models_are_compared(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        folder = model_folder(tmp_path / name, speakers=[], seed=seed)
        assert main(["evaluate", str(folder), str(corpus), "--out", str(tmp_path / f"{name}.json")]) == 0
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 0
    said = capsys.readouterr().out
    assert "WER" in said
    assert "CER" in said


def test_a_model_that_learnt_other_words_is_told(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def notes(**training: object) -> str:
        evaluate_head(model_folder(tmp_path / "model", speakers=[], **training), corpus, tmp_path / "r.json")
        return capsys.readouterr().err

    assert "rules for words" not in notes()
    assert "the model learnt transcripts by version 1 of the rules for words" in notes(text_rules=1)
    said = notes(languages=["tr"])
    assert "the training corpus has a language with a dotless ı" in said
    assert "the test corpus does not" in said


def test_references_are_normalised_by_their_language(tmp_path: Path) -> None:
    made: list[Utterance] = []
    for number, text in enumerate(["IABI", "IDA"]):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, tones(0.8, seed=number), RATE)
        made.append(Utterance(audio=str(path), duration=0.0, text=text, language="tr"))
    pack(made, tmp_path / "corpus", workers=1)
    assert [example.target for example in examples_of(WaveformStore(tmp_path / "corpus"), "text")] == ["ıabı", "ıda"]
