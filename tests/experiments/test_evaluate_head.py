"""A fine-tuned model on speakers it does not know, and the refusal of those it does."""

import json
import shutil

import pytest
import torch

from speechssl.config import UserError
from speechssl.data.waveforms import WaveformStore, pack
from speechssl.experiments.evaluate_head import evaluate_head
from speechssl.metrics.compare import compare
from speechssl.metrics.items import items_path, read_items
from speechssl.metrics.results import read_results
from speechssl.models.classifier import Classifier, ClassifierConfig
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.heads import save_head

from ..toys import MICRO_ENCODER


def model_of(folder, *, seed=0, classes=("high", "low", "middle"), **training):
    torch.manual_seed(seed)
    model = Classifier(SpeechEncoder(MICRO_ENCODER), classes, ClassifierConfig())
    save_head(
        folder, model, extra={"training": {"content_hash": "0" * 16, "speakers": ["x"], "utterances": 9} | training}
    )
    return folder


def test_a_model_is_scored_and_two_are_compared(corpus, tmp_path):
    rows = {}
    for name in "ab":
        model = model_of(tmp_path / name, seed=ord(name))
        rows[name] = evaluate_head(model, corpus, tmp_path / f"{name}.json", split="test", command="the command")
        assert read_results(tmp_path / f"{name}.json") == rows[name]
    assert [row.metric for row in rows["a"]] == ["UAR", "WA", "macro F1"]
    assert all(row.n == 24 and row.command == "the command" and row.synthetic for row in rows["a"])
    assert rows["a"][0].split_hash == rows["b"][0].split_hash
    assert rows["a"][0].model_hash != rows["b"][0].model_hash
    found = compare(tmp_path / "a.json", tmp_path / "b.json")
    assert [each.b - each.a for each in found] == pytest.approx([each.difference.value for each in found])
    confusion = json.loads((tmp_path / "a.confusion.json").read_text())
    assert sum(map(sum, confusion["cells"][0]["matrix"])) == 24
    evaluate_head(tmp_path / "a", corpus, tmp_path / "capitals.json", split=" TEST")
    assert [(row.n, row.split_hash) for row in read_results(tmp_path / "capitals.json")[:1]] == [
        (24, rows["a"][0].split_hash)
    ]
    evaluate_head(tmp_path / "a", corpus, tmp_path / "whole.json")
    with pytest.raises(UserError, match="different splits of"):
        compare(tmp_path / "a.json", tmp_path / "whole.json")


def test_a_speaker_who_was_trained_on_is_refused(corpus, tmp_path):
    other = model_of(tmp_path / "other", speakers=["s0", "s5"])
    for model in (other, model_of(tmp_path / "capitals", speakers=["S0 ", "s5"])):
        with pytest.raises(UserError, match=r"trained on speaker 's0' \(1 such\); .*--other-speakers"):
            evaluate_head(model, corpus, tmp_path / "r.json", split="test")
    assert not (tmp_path / "r.json").exists()
    evaluate_head(other, corpus, tmp_path / "r.json", split="test", other_speakers=True)
    same = model_of(tmp_path / "same", speakers=["s0"], content_hash=WaveformStore(corpus).content_hash())
    with pytest.raises(UserError, match=r"trained on speaker 's0' \(1 such\)$"):
        evaluate_head(same, corpus, tmp_path / "r.json", split="test", other_speakers=True)
    item = WaveformStore(corpus).utterances[0]
    heard = model_of(tmp_path / "heard", audio=[f"{item.audio}@0"])
    with pytest.raises(UserError, match="1 of 72 test utterances were trained on"):
        evaluate_head(heard, corpus, tmp_path / "r.json", other_speakers=True)


def renamed(corpus, folder, **names):
    """The corpus with other names in some fields: a function per field, of the name and the place."""
    changed = [
        item.model_copy(update={field: rename(getattr(item, field), place) for field, rename in names.items()})
        for place, item in enumerate(WaveformStore(corpus).utterances)
    ]
    pack(changed, folder, workers=1)
    return folder


def test_a_split_in_other_capitals_is_scored_whole(corpus, tmp_path):
    mixed = renamed(corpus, tmp_path / "mixed", split=lambda name, place: name.upper() if place % 2 else name)
    model = model_of(tmp_path / "model")
    for split in ("test", "Test", "TEST"):
        assert evaluate_head(model, mixed, tmp_path / "r.json", split=split)[0].n == 24
    with pytest.raises(UserError, match="no split 'nan'; there are TEST, TRAIN, test, train"):
        evaluate_head(model, mixed, tmp_path / "r.json", split="nan")


def test_a_trained_speaker_in_other_capitals_is_found(corpus, tmp_path):
    mixed = renamed(corpus, tmp_path / "mixed", speaker=lambda name, place: f"Gr\u00fc{name}".upper())
    model = model_of(tmp_path / "model", speakers=["gru\u0308s0"])
    with pytest.raises(UserError, match=r"trained on speaker 'GR\u00dcS0' \(1 such\)"):
        evaluate_head(model, mixed, tmp_path / "r.json", split="test")
    rows = evaluate_head(model, mixed, tmp_path / "r.json", split="test", leave_out=True)
    assert (rows[0].n, rows[0].left_out) == (12, 12)


@pytest.mark.parametrize(
    ("trained", "prefix"),
    [
        ("an-nas0", "anna"),
        ("b_ens0", "ben "),
        ("be ns00", "ben"),
        ("ipeks0", "\u0130PEK"),
        ("i\u0307peks0", "\u0130PEK"),
        ("\u0131rmaks0", "IRMAK"),
        ("IRMAKs0", "\u0131rmak"),
    ],
)
def test_a_trained_speaker_in_another_spelling_is_found(corpus, tmp_path, trained, prefix):
    mixed = renamed(corpus, tmp_path / "mixed", speaker=lambda name, place: f"{prefix}{name}")
    with pytest.raises(UserError, match=r"trained on speaker '.*0' \(1 such\)"):
        evaluate_head(model_of(tmp_path / "model", speakers=[trained]), mixed, tmp_path / "r.json", split="test")


def test_the_interval_takes_two_spellings_for_one_speaker(corpus, tmp_path):
    mixed = renamed(corpus, tmp_path / "mixed", speaker=lambda name, place: name.upper() if place % 2 else name)
    evaluate_head(model_of(tmp_path / "model"), mixed, tmp_path / "r.json")
    [answers] = read_items(items_path(tmp_path / "r.json"))
    assert set(answers.groups) == {f"S{number}" for number in range(6)}


def test_labels_that_the_model_does_not_have_are_left_out_with_a_message(corpus, tmp_path, capsys):
    model = model_of(tmp_path / "model", classes=("high", "low"))
    rows = evaluate_head(model, corpus, tmp_path / "r.json")
    assert rows[0].n == 48
    left_out = "utterances left out: the model does not have their labels: "
    assert f"24 {left_out}'middle' (24 x)\n" in capsys.readouterr().err
    other = renamed(corpus, tmp_path / "other", label=lambda name, place: name.title() if name == "low" else name)
    evaluate_head(model, other, tmp_path / "r.json")
    assert f"48 {left_out}'Low' (24 x, the model has 'low'), 'middle' (24 x)\n" in capsys.readouterr().err
    with pytest.raises(UserError, match="the model has a, b, the corpus has high, low, middle"):
        evaluate_head(model_of(tmp_path / "model", classes=("a", "b")), corpus, tmp_path / "r.json")


def test_what_cannot_be_scored_is_one_line(corpus, encoder_folder, tmp_path):
    model = model_of(tmp_path / "model")
    with pytest.raises(UserError, match="no split 'dev'; there are test, train"):
        evaluate_head(model, corpus, tmp_path / "r.json", split="dev")
    with pytest.raises(UserError, match="is a folder"):
        evaluate_head(model, corpus, tmp_path)
    with pytest.raises(UserError, match="head of kind None"):
        evaluate_head(encoder_folder, corpus, tmp_path / "r.json")


def test_the_page_of_a_scored_model_is_written(corpus, tmp_path):
    from speechssl.report.html import write_report

    model = model_of(tmp_path / "model")
    evaluate_head(model, corpus, model / "results.json", split="test")
    write_report(model, tmp_path / "report.html")
    assert "Confusion matrix" in (tmp_path / "report.html").read_text()
    shutil.rmtree(model)
