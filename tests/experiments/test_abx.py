"""ABX of an encoder's layers on tones: pitches are told apart, equal audio is chance, and names find their audio."""

import numpy as np
import pytest
import soundfile

from speechssl import cli
from speechssl.config import UserError
from speechssl.data.manifest import Utterance
from speechssl.data.waveforms import WaveformStore, pack
from speechssl.embed.embedder import load
from speechssl.experiments import abx as module
from speechssl.experiments.abx import frame_span, layer_errors, place_tokens
from speechssl.experiments.evaluate import evaluate
from speechssl.metrics.alignments import Token, read_tokens
from speechssl.metrics.results import read_results
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
    times = load(model_folder, device="cpu").frame_times(49)
    assert frame_span(times, Token("f", 0.0, 0.1, "e", "b", "t")) == (0, 5)  # 12.5, 32.5, 52.5, 72.5 and 92.5 ms
    assert frame_span(times, Token("f", 0.0325, 0.0326, "e", "b", "t")) == (1, 2)
    first, last = frame_span(times, Token("f", 0.9, 2.0, "e", "b", "t"))
    assert first < last == 49


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


@pytest.fixture(scope="module")
def folder(tones):
    return tones[0].folder.parent


@pytest.fixture(scope="module")
def evaluated(folder, model_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "results.json"
    rows = evaluate(model_folder, folder / "prepared", out, tasks=["abx"], alignments=folder / "lab")
    return rows, out


@pytest.mark.slow
def test_an_evaluation_has_every_layer_beside_the_baselines(evaluated, tones, model_folder):
    rows, out = evaluated
    assert read_results(out) == rows
    layers = [f"{family} (layer {layer})" for family in ("model", "random encoder") for layer in range(3)]
    assert list(dict.fromkeys(row.contender for row in rows)) == [*layers, "MFCC", "chance"]
    errors = {(row.contender, row.probe): row for row in rows if row.metric == "ABX error"}
    assert {probe for _, probe in errors} == {"within", "across"}
    assert {row.n for (_, probe), row in errors.items() if probe == "within"} == {2 * 2 * 18}
    assert errors["chance", "across"].value == 0.5
    store, tokens = tones
    alone = layer_errors(load(model_folder, device="cpu"), store, place_tokens(store, tokens), mode="across")
    assert [errors[f"model (layer {layer})", "across"].value for layer in range(3)] == [each.error for each in alone]
    assert all(row.low == row.value == row.high and row.amount == "no labels" for row in rows)
    ranks = [row.value for row in rows if row.metric == "effective rank"]
    assert len(ranks) == 7
    assert all(1 < rank <= 40 for rank in ranks)
    assert [path.name for path in sorted(out.parent.iterdir())] == ["results.items.json.gz", "results.json"]


@pytest.mark.slow
def test_a_limit_of_triples_keeps_pairs_and_draws_the_same_again(folder, model_folder, tmp_path):
    settings = {"tasks": ["abx"], "alignments": folder / "lab", "baselines": False, "triples": 50}
    first, again = (evaluate(model_folder, folder / "prepared", tmp_path / "r.json", **settings) for _ in range(2))
    assert first == again
    counts = {row.probe: row.n for row in first if row.contender == "chance"}
    assert counts == {"within": 2 * 2 * 4, "across": 2 * 2 * 8}


def test_the_table_and_what_is_left_out_are_on_stderr(folder, model_folder, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    (tmp_path / "lab").mkdir()
    for path in (folder / "lab").iterdir():
        if path.stem not in ("ru_3", "ru_11"):
            (tmp_path / "lab" / path.name).write_text(path.read_text())
    (tmp_path / "lab" / "other.lab").write_text((folder / "lab" / "ru_3.lab").read_text())
    words = ["evaluate", model_folder, folder / "prepared", "--out", tmp_path / "r.json", "--task", "abx"]
    assert cli.main([*map(str, words), "--alignments", str(tmp_path / "lab")]) == 0
    said = capfd.readouterr()
    assert said.out == ""
    text = " ".join(said.err.split())
    assert "abx: 2 phones, phones between the same neighbours" in text
    for part in ("model (layer 2)", "random encoder (layer 0)", "MFCC", "50.0 %", "within", "across", "rank"):
        assert part in text
    assert "2 of 12 utterances have no token of the alignment: " in text
    assert "ru_3" in text
    assert "ru_11" in text
    assert "1 tokens of the alignment are in no utterance" in text


def test_one_speaker_has_no_errors_across_speakers(tones, model_folder, tmp_path, capfd):
    store, _ = tones
    lines = "#file onset offset #phone prev-phone next-phone speaker\n"
    items = [f"ru_{n} 0.0 0.6 {'ei'[n % 2]} b t alone\n" for n in range(12)]
    (tmp_path / "one.item").write_text(lines + "".join(items))
    settings = {"tasks": ["abx"], "alignments": tmp_path / "one.item", "baselines": False}
    rows = evaluate(model_folder, store.folder, tmp_path / "r.json", **settings)
    assert {row.probe for row in rows} == {"within", "frames"}
    assert "abx across speakers left out: no triple" in " ".join(capfd.readouterr().err.split())


def test_alignments_that_cannot_be_used_are_refused_at_once(folder, model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "score_layers", None)
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "other.lab").write_text((folder / "lab" / "ru_3.lab").read_text())
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "ru_3.lab").write_text((folder / "lab" / "ru_3.lab").read_text())
    cases = {
        None: "^--task abx: needs --alignments",
        tmp_path / "none": "none: no such file or folder",
        tmp_path / "lab": r"lab: .*no token of the alignment is in an utterance; the first is of 'other'",
        tmp_path / "few": r"few: no triple of phones between the same neighbours within speakers; ",
    }
    for path, message in cases.items():
        with pytest.raises(UserError, match=message):
            evaluate(model_folder, folder / "prepared", tmp_path / "r.json", tasks=["abx"], alignments=path)
    with pytest.raises(UserError, match="only for --task abx"):
        evaluate(model_folder, folder / "prepared", tmp_path / "r.json", alignments=folder / "lab")
    with pytest.raises(UserError, match="--triples 100: only for --task abx"):
        evaluate(model_folder, folder / "prepared", tmp_path / "r.json", triples=100)
    with pytest.raises(UserError, match="--triples 100: only for --task abx"):
        evaluate(model_folder, folder / "prepared", tmp_path / "r.json", triples=100)
    assert not (tmp_path / "r.json").exists()


@pytest.mark.slow
def test_the_report_shows_the_errors(evaluated, tmp_path):
    _, out = evaluated
    assert cli.main(["report", str(out.parent), "--out", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text()
    for part in (
        "Phones on prepared",
        "ABX error, within",
        "72 triples",
        "model (layer 2)",
        "50.0 %",
        "effective rank",
    ):
        assert part in page
    assert "Few labels" not in page
    assert cli.main(["report", str(out.parent), "--out", str(tmp_path / "r.md")]) == 0
    assert "| ABX error | no labels, within | no labels, across |" in (tmp_path / "r.md").read_text()
