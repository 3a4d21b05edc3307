"""The verbs of few labels from the command line to their files, one after the other, at toy size."""

import json
from pathlib import Path

import pytest

from speechssl import cli
from speechssl.decoding.decode import beam_search_installed
from speechssl.metrics.results import read_results
from speechssl.train.health import HealthError

from .asr_toys import micro_model, spoken_corpus

QUICK = "--set loop.steps=2 --set loop.precision=fp32 --set batches.batch_seconds=2 --set device=cpu"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A prepared corpus with classes and transcripts, and an encoder that was never trained."""
    folder = tmp_path_factory.mktemp("place")
    spoken_corpus(folder)
    micro_model(folder / "encoder")
    return folder


@pytest.fixture
def told(place, monkeypatch, capfd):
    monkeypatch.chdir(place)

    def tell(line, code=0):
        capfd.readouterr()
        assert cli.main(line.split()) == code, capfd.readouterr().err
        return capfd.readouterr()

    return tell


def test_classes(told):
    told(f"finetune prepared --from encoder --out tone --split train --shots 3 {QUICK}")
    clips = sorted(Path("audio/s5").glob("*.wav"))
    lines = told(f"predict tone {clips[0]} {clips[1]} --format jsonl").out.splitlines()
    assert {json.loads(line)["label"] for line in lines} <= {"high", "low"}
    told("evaluate tone prepared --split test --out tone.json")
    rows = read_results(Path("tone.json"))
    assert {(row.contender, row.metric, row.n) for row in rows} == {
        ("fine-tuned", metric, 16) for metric in ("UAR", "WA", "macro F1")
    }
    assert "trained on" in told("evaluate tone prepared --out tone.json", code=2).err
    assert "±.00" in told("compare tone.json tone.json").out or "0.000" in told("compare tone.json tone.json").out


@pytest.mark.parametrize("run", ["asr.recognise", "emotion.label_efficiency"])
def test_an_experiment_stopped_for_its_health_ends_with_the_advice(run, told, monkeypatch):
    def stops(*_: object, **__: object) -> None:
        raise HealthError("not learning", step=5, evidence="loss 4.6", advice="more updates")

    monkeypatch.setattr(f"speechssl.experiments.{run}", stops)
    verb = run.partition(".")[0]
    amount = "--minutes 0.1" if verb == "asr" else "--shots 2"
    said = told(f"{verb} prepared --encoder encoder --out stopped {amount}", code=3).err
    assert "speechssl: step 5: not learning (loss 4.6)" in said


@pytest.mark.slow
def test_emotion(told):
    told(f"emotion prepared --encoder encoder --out emotion --shots 2 --draws 1 --test-limit 8 {QUICK}")
    rows = read_results(Path("emotion/results.json"))
    assert len({row.contender for row in rows}) == 7  # six and chance
    told("report emotion --out emotion/report.html")
    line = "compare emotion/results.json emotion/results.json --contender-a mfcc --contender-b none"
    assert told(line, code=2).err.count("\n") == 1


def test_speech_recognition(told):
    line = f"asr prepared --encoder encoder --out asr --minutes 0.08 --beam 5 --rounds 1 --no-scratch {QUICK}"
    told(f"{line} --rivals hmm-mfcc")
    rows = read_results(Path("asr/results.json"))
    assert {row.metric for row in rows} == {"WER", "CER"}
    told("report asr --out asr/report.html")
    assert "The worst utterances" in Path("asr/report.html").read_text()
    clip = sorted(Path("audio/s5").glob("*.wav"))[0]
    found = json.loads(told(f"predict asr/models/fine-tuned {clip} --format jsonl").out)
    assert set(found) == {"path", "offset", "duration", "text", "confidence", "words", "words_error"}
    answer = told(
        "compare asr/results.json asr/results.json --contender-a fine-tuned --contender-b fine-tuned --json"
    ).out
    compared = json.loads(answer)
    assert [each["contender_a"] == each["contender_b"] for each in compared] == [True] * len(compared)
    assert len(compared) == (4 if beam_search_installed() else 2)


def test_transcripts_by_hand(told):
    told(f"finetune prepared --from encoder --out words --learn text --split train --minutes 0.05 {QUICK}")
    clip = sorted(Path("audio/s5").glob("*.wav"))[0]
    assert told(f"predict words {clip}").out.startswith(f"{clip}\t")
