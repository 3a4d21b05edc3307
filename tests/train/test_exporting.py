"""What a head cannot be exported to is said before it is trained, and `--for` trains one that can be."""

from pathlib import Path

import pytest
import torch
import transformers

from speechssl import cli
from speechssl.audio import normalize
from speechssl.inference.heads import classify, emissions
from speechssl.interop.exportable import PROGRAMS, Program, reasons
from speechssl.models.ctc import CTCConfig, CTCModel
from speechssl.models.encoder import PRESETS, SpeechEncoder
from speechssl.models.heads import load_head
from speechssl.models.storage import save_model
from speechssl.train.exporting import settings_for
from speechssl.train.finetune_config import FinetuneConfig
from tests.interop.exported import PRE
from tests.toys import MICRO_ENCODER, changed, tones
from tests.train.labelled import labelled_corpus

QUICK = ["--set", "loop.steps=2", "--set", "loop.precision=fp32", "--set", "device=cpu", "--valid-share", "0"]


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    (tmp_path / "labelled").mkdir()
    return str(labelled_corpus(tmp_path / "labelled").folder)


def finetune(corpus: str, out: Path, *words: str) -> int:
    return cli.main(["finetune", corpus, "--out", str(out), *words, *QUICK])


def test_said_before_training(corpus: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(tmp_path / "model", SpeechEncoder(PRE))
    # Stopped before the first step by a setting that training refuses: what is said is said before.
    assert finetune(corpus, tmp_path / "run", "--from", str(tmp_path / "model"), "--set", "loop.compile=true") == 2
    said = capsys.readouterr().err
    assert "this model cannot be exported to transformers: classifier.pooling='mean+std'" in said
    assert "fine-tune with --for transformers" in said
    assert "this model cannot be exported to torchaudio: a classifier" in said
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.slow  # transformers is imported
def test_a_classifier_for_transformers(corpus: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(tmp_path / "model", SpeechEncoder(PRE))
    assert finetune(corpus, tmp_path / "run", "--from", str(tmp_path / "model"), "--for", "transformers") == 0
    assert "cannot be exported to transformers" not in capsys.readouterr().err
    assert cli.main(["export", str(tmp_path / "run"), "--to", "huggingface", "--out", str(tmp_path / "hf")]) == 0
    theirs = transformers.AutoModelForAudioClassification.from_pretrained(tmp_path / "hf").eval()
    ours = load_head(tmp_path / "run")
    assert not isinstance(ours, CTCModel)
    waveform = tones(0.7, seed=3)
    expected = torch.from_numpy(classify(ours, [waveform]))
    with torch.no_grad():
        found = theirs(torch.from_numpy(normalize(waveform))[None]).logits.softmax(dim=-1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_a_recogniser_from_scratch_for_transformers(corpus: str, tmp_path: Path) -> None:
    """The default encoder has a Gabor front, which no other program has: it begins with plain convolutions instead."""
    assert finetune(corpus, tmp_path / "run", "--from", "scratch", "--learn", "text", "--for", "transformers") == 0
    assert cli.main(["export", str(tmp_path / "run"), "--to", "huggingface", "--out", str(tmp_path / "hf")]) == 0
    theirs = transformers.AutoModelForCTC.from_pretrained(tmp_path / "hf").eval()
    ours = load_head(tmp_path / "run")
    assert isinstance(ours, CTCModel)
    waveform = tones(0.7, seed=3)
    expected = torch.from_numpy(emissions(ours, [waveform])[0])
    with torch.no_grad():
        found = theirs(torch.from_numpy(normalize(waveform))[None]).logits[0].log_softmax(dim=-1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--for", "torchaudio"], "--for torchaudio: it has no classifiers; train with --learn text"),
        (["--for", "transformers", "--set", "classifier.pooling=attention"], "classifier.pooling='attention'"),
        (["--for", "transformers", "--set", "network=logmel-cnn"], "a network without an encoder"),
    ],
)
def test_refused_before_training(
    corpus: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert finetune(corpus, tmp_path / "run", "--from", "scratch", *words) == 2
    said = capsys.readouterr().err
    assert message in said
    assert not (tmp_path / "run").exists()


def test_an_encoder_that_cannot_be_exported(corpus: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(tmp_path / "gabor", SpeechEncoder(MICRO_ENCODER))
    assert finetune(corpus, tmp_path / "run", "--from", str(tmp_path / "gabor"), "--for", "transformers") == 2
    assert f"--for transformers: {tmp_path / 'gabor'}: front='gabor' cannot be expressed" in capsys.readouterr().err


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("size", ["tiny", "small"])
def test_settings_for(program: Program, size: str) -> None:
    given = FinetuneConfig(kind="ctc", encoder=PRESETS[size], ctc=CTCConfig(conv_layers=2))
    assert program in reasons(given.encoder, given.ctc)
    found = settings_for(program, given)
    assert found.ctc == CTCConfig(layers="last")
    assert program not in reasons(found.encoder, found.ctc)
    conv = found.encoder.conv
    assert (conv.hop, conv.padding, conv.dim) == (given.encoder.conv.hop, 0, given.encoder.conv.dim)
    assert settings_for(program, found) == found
    assert settings_for(None, given) == given


def test_plain_convolutions_stay() -> None:
    given = FinetuneConfig(kind="ctc", encoder=changed(PRE, normalize=False))
    assert settings_for("transformers", given).encoder == given.encoder


def test_phones_are_no_letters_of_a_tokenizer() -> None:
    found = reasons(PRESETS["base"], CTCConfig(layers="last", units="phones"))
    assert sorted(found) == ["torchaudio", "transformers"]
    assert found["transformers"].startswith("ctc.units='phones': transformers would write each phone as a letter")
