"""Fine-tuning: it can memorise, rests and moves what it should, goes on bit for bit, and refuses what would mislead."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from speechssl.audio import normalize
from speechssl.config import UserError, dump_config
from speechssl.data.labelled import Example
from speechssl.data.waveforms import WaveformStore
from speechssl.decoding import phones, pronunciation
from speechssl.decoding.decode import greedy
from speechssl.inference.heads import classify, emissions
from speechssl.metrics.probe_classifiers import fit_logistic
from speechssl.metrics.wer import count_errors
from speechssl.models.classifier import Classifier
from speechssl.models.ctc import CTCModel
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.heads import load_head
from speechssl.models.storage import load_encoder, model_hash, read_model_config, save_model
from speechssl.nn import transformer
from speechssl.text import Vocabulary
from speechssl.train import loop, trainer
from speechssl.train.finetune import FinetuneResult, finetune
from speechssl.train.finetune_config import FinetuneConfig
from speechssl.train.probe_start import start_as_probe
from tests.toys import changed
from tests.train.conftest import Processes, rows, tensors
from tests.train.labelled import BY_KIND, CLASSIFIER, CTC, RESTLESS, TEXTS, examples, waveforms
from tests.train.test_distributed import gloo_environments

WITH_TERMS = changed(CTC, ctc_terms__label_prior=0.3, ctc_terms__middle=0.3, reset_blocks=1)


def run(
    store: WaveformStore,
    out: Path,
    config: FinetuneConfig,
    *,
    start: Path | None = None,
    train: str | list[Example] = "0123",
    valid: str | list[Example] = "",
    vocabulary: Vocabulary | None = None,
) -> FinetuneResult:
    """Fine-tune on speakers, or on given examples."""
    sides = [examples(store, config.kind, each) if isinstance(each, str) else each for each in (train, valid)]
    return finetune(
        store, out, config=config, start=start, train=sides[0], valid=sides[1], vocabulary=vocabulary, show=False
    )


# It can memorise


@pytest.mark.slow
def test_it_memorises_eight_transcripts(store: WaveformStore, tmp_path: Path) -> None:
    train = examples(store, "ctc", "02")
    run(store, tmp_path, CTC, train=train)
    model = load_head(tmp_path)
    assert isinstance(model, CTCModel)
    written = [greedy(row, model.vocabulary) for row in emissions(model, waveforms(store, train))]
    assert written == TEXTS
    assert sum(each.errors for each in count_errors(TEXTS, written, unit="word")) == 0


@pytest.mark.parametrize(
    "setting", ["probe", *(pytest.param(name, marks=pytest.mark.slow) for name in ("scratch", "pretrained"))]
)
def test_it_memorises_sixteen_labels(store: WaveformStore, start: Path, tmp_path: Path, setting: str) -> None:
    """Labels that nothing but learning by heart can tell: they change within every speaker and text."""
    train = [Example(index, "xy"[int(index in (0, 3, 4, 6, 9, 10, 13, 15))]) for index in range(16)]
    config = changed(CLASSIFIER, loop__steps=35, head_start="probe" if setting == "probe" else "random")
    run(store, tmp_path, config, start=None if setting == "scratch" else start, train=train)
    model = load_head(tmp_path)
    assert isinstance(model, Classifier)
    answers = classify(model, waveforms(store, train)).argmax(axis=1)
    assert [model.classes[answer] for answer in answers] == [example.target for example in train]


# What rests and what moves


def movement(out: Path, start: Path) -> dict[str, float]:
    """The largest change of each weight of the encoder."""
    before, after = load_encoder(start).state_dict(), tensors(out)
    return {
        name: float((after[f"/model/model.trunk.encoder.{name}"] - value).abs().max()) for name, value in before.items()
    }


@pytest.mark.parametrize("kind", BY_KIND)
def test_the_encoder_rests_and_then_moves(
    store: WaveformStore, start: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even weight decay touches it before; the convolutions stay to the last bit to the end."""
    config = changed(BY_KIND[kind], frozen=0.5, train_conv=False, optim__weight_decay=0.5, loop__steps=8)
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        assert not run(store, tmp_path, config, start=start).finished
    assert max(movement(tmp_path, start).values()) == 0
    assert tensors(tmp_path)["/model/model.output.weight"].abs().max() > 0
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        run(store, tmp_path, config, start=start)
    assert max(movement(tmp_path, start).values()) > 0  # from the fifth update on
    run(store, tmp_path, config, start=start)
    moved = movement(tmp_path, start)
    assert max(each for name, each in moved.items() if name.startswith("features.")) == 0
    still = [name for name, each in moved.items() if not each and not name.startswith("features.")]
    assert still == []


def test_convolutions_move_when_told(store: WaveformStore, start: Path, tmp_path: Path) -> None:
    run(store, tmp_path / "told", changed(CTC, train_conv=True, loop__steps=2), start=start)
    assert max(each for name, each in movement(tmp_path / "told", start).items() if name.startswith("features.")) > 0
    run(store, tmp_path / "scratch", changed(CTC, train_conv=False, loop__steps=2))  # nothing there worth keeping
    moments = [name for name in tensors(tmp_path / "scratch") if name.endswith("exp_avg")]
    assert len(moments) == len(list(load_head(tmp_path / "scratch").parameters()))


def test_rates_fall_towards_the_input(store: WaveformStore, start: Path, tmp_path: Path) -> None:
    """AdamW's first update is the rate itself: every weight tells its own."""
    config = changed(
        CTC, loop__steps=1, optim__warmup=0.0, optim__hold=0.9, optim__lr=1e-3, optim__eps=1e-12,
        optim__weight_decay=0.0, optim__encoder_scale=0.5, optim__layer_decay=0.1, optim__final_scale=1.0,
    )  # fmt: skip
    run(store, tmp_path, config, start=start)
    moved = movement(tmp_path, start)
    expected = {
        "transformer.norm.": 5e-4,
        "transformer.layers.1.": 5e-4,
        "transformer.layers.0.": 5e-5,
        "transformer.positions.": 5e-6,
        "projection.": 5e-6,
        "feature_norm.": 5e-6,
        "features.": 5e-6,
    }
    for name, each in moved.items():
        (rate,) = (rate for prefix, rate in expected.items() if name.startswith(prefix))
        assert each == pytest.approx(rate, rel=0.05), name
    bias = tensors(tmp_path)["/model/model.output.bias"]
    assert float(bias.abs().max()) == pytest.approx(1e-3, rel=1e-3)


def test_training_mode_whether_or_not_something_is_held_out(
    store: WaveformStore, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loaded encoder comes in evaluation mode; its dropout must work from the first update on."""
    modes: list[bool] = []
    forward = SpeechEncoder.contextualize

    def watch(self: SpeechEncoder, *args: object, **options: object):
        modes.append(self.transformer.training)
        return forward(self, *args, **options)

    monkeypatch.setattr(SpeechEncoder, "contextualize", watch)
    run(store, tmp_path, changed(CTC, loop__steps=2), start=start)
    assert modes == [True, True]


def test_hidden_while_it_trains_and_not_at_validation(
    store: WaveformStore, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start's mask embedding where frames are hidden; another draw at every update, the same in every run."""
    seen: list[tuple[bool, Tensor]] = []
    forward = SpeechEncoder.contextualize

    def watch(self: SpeechEncoder, projected: Tensor, *args: object, **options: object):
        seen.append((self.training, projected.detach().clone()))
        return forward(self, projected, *args, **options)

    monkeypatch.setattr(SpeechEncoder, "contextualize", watch)
    config = changed(CTC, loop__steps=2, hide={"frames": 0.5, "frame_length": 3, "channels": 0.0}, optim__lr=1e-9)
    for name in ("one", "other"):
        run(store, tmp_path / name, config, start=start, train="012", valid="3")
    half = len(seen) // 2
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(seen[:half], seen[half:], strict=True))
    masked = [(projected - torch.arange(32.0) / 32).abs().amax(dim=-1) < 1e-5 for _, projected in seen[:half]]
    for (training, _), mask in zip(seen, masked, strict=False):
        assert bool(mask.any()) == training
    first, second = (mask for (training, _), mask in zip(seen, masked, strict=False) if training)
    assert first.shape != second.shape or not torch.equal(first, second)


# The head that starts as the probe


@pytest.mark.parametrize("classes", [2, 4])
def test_the_start_is_the_probe(store: WaveformStore, start: Path, classes: int) -> None:
    train = [
        Example(index, str(item.label if classes == 2 else item.speaker)) for index, item in enumerate(store.utterances)
    ]
    names = tuple(sorted({example.target for example in train}))
    torch.manual_seed(0)
    model = Classifier(load_encoder(start), names, CLASSIFIER.classifier)
    before = {name: value.clone() for name, value in model.trunk.state_dict().items()}
    start_as_probe(model, store, train[:12], seed=4)
    assert model.training
    assert all(torch.equal(value, model.trunk.state_dict()[name]) for name, value in before.items())
    clips = waveforms(store, train)
    model.eval()
    with torch.no_grad():
        features = np.concatenate([pooled(model, clip) for clip in clips]).astype(np.float64)
    centre, spread = features[:12].mean(axis=0), features[:12].std(axis=0)
    targets = np.array([names.index(example.target) for example in train])
    groups = [store.utterances[example.index].speaker for example in train[:12]]
    probe = fit_logistic((features[:12] - centre) / spread, targets[:12], groups=groups, seed=4)
    logits = (features - centre) / spread @ probe.weights.T + probe.bias
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(classify(model, clips), expected, atol=2e-3)
    assert (classify(model, clips).argmax(axis=1) == expected.argmax(axis=1)).all()


def pooled(model: Classifier, clip: np.ndarray) -> np.ndarray:
    return model.pooled(torch.from_numpy(normalize(clip).astype(np.float32))[None], torch.tensor([len(clip)])).numpy()


def test_the_run_begins_as_the_probe(store: WaveformStore, start: Path, tmp_path: Path) -> None:
    config = changed(CLASSIFIER, head_start="probe", loop__steps=1, optim__lr=1e-12)
    train = examples(store, "classifier")
    run(store, tmp_path, config, start=start)
    model = Classifier(load_encoder(start), ("high", "low"), config.classifier)
    start_as_probe(model, store, train, seed=config.seed)
    clips = waveforms(store, train)
    np.testing.assert_allclose(classify(load_head(tmp_path), clips), classify(model.eval(), clips), atol=1e-5)


# Going on


def stop_after(monkeypatch: pytest.MonkeyPatch, updates: int) -> None:
    """As if a signal came during an update."""
    counted = iter(range(1, 10_000))
    monkeypatch.setattr(loop, "any_rank", lambda flag, device: flag or next(counted) == updates)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("base", [CTC, CLASSIFIER, WITH_TERMS], ids=["ctc", "classifier", "ctc with more terms"])
def test_a_stopped_run_goes_on_bit_for_bit(
    store: WaveformStore, start: Path, tmp_path: Path, base: FinetuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = changed(base, head_start="probe", **RESTLESS)
    options = {"start": start, "train": "012", "valid": "3"}
    whole = run(store, tmp_path / "whole", config, **options)
    for updates in (1, 4):
        with monkeypatch.context() as patch:
            stop_after(patch, updates)
            assert not run(store, tmp_path / "run", config, **options).finished
        load_head(tmp_path / "run")  # there is always a model
    resumed = run(store, tmp_path / "run", config, **options)
    assert (resumed.finished, resumed.steps, resumed.seconds_seen) == (True, 10, whole.seconds_seen)
    for name in ("last.pt", "best.pt"):
        ours, theirs = tensors(tmp_path / "run", name), tensors(tmp_path / "whole", name)
        assert [key for key, value in theirs.items() if not torch.equal(ours[key], value)] == []
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")
    before = model_hash(tmp_path / "whole")
    assert model_hash(tmp_path / "run") == before
    again = run(store, tmp_path / "whole", config, **options)  # nothing is left to do
    assert (again.finished, again.steps, model_hash(tmp_path / "whole")) == (True, 10, before)
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")


def test_another_run_in_the_folder_is_refused(store: WaveformStore, start: Path, tmp_path: Path) -> None:
    config, out = changed(CTC, loop__steps=1), tmp_path / "run"
    twin, other = tmp_path / "twin", tmp_path / "other"
    save_model(twin, load_encoder(start), tensors={"objective.mask_embedding": torch.ones(32)})
    save_model(other, SpeechEncoder(config.encoder))
    run(store, out, config, start=start, train="012", valid="3")
    expected = model_hash(out)
    train = examples(store, "ctc", "012")
    options = {"start": start, "train": "012", "valid": "3"}
    run(store, out, config, **(options | {"start": twin}))  # the same encoder elsewhere is the same start
    for change in (
        {"train": "02"},
        {"train": [Example(train[0].index, "ace"), *train[1:]]},
        {"valid": ""},
        {"start": None},
        {"start": other},
        {"vocabulary": Vocabulary.from_texts([*TEXTS, "z"])},
    ):
        with pytest.raises(UserError, match=r"run: holds a run with data other than [^\n]*, or with other labels or"):
            run(store, out, config, **(options | change))
    with pytest.raises(UserError, match=r"run: holds a run with other settings \(optim\.lr=[^\n]+$"):
        run(store, out, changed(config, optim__lr=0.5), **options)
    assert model_hash(out) == expected


def test_settings_that_did_not_exist_yet(store: WaveformStore, tmp_path: Path) -> None:
    """A recipe from before a setting was invented has its default, and the run goes on."""
    config = changed(CTC, loop__steps=1)
    run(store, tmp_path, config)
    recipe = tmp_path / "recipe.toml"
    lines = recipe.read_text().splitlines()
    kept = [line for line in lines if not line.startswith(("patience", "layer_decay", "head_start"))]
    assert len(kept) == len(lines) - 3
    recipe.write_text("\n".join(kept))
    assert run(store, tmp_path, config).finished


# Early stopping


def test_the_best_validation_is_kept_and_patience_ends_the_run(
    store: WaveformStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors of 5, 3, 4, 4: the model is that of step 2, and the run ends at step 4."""
    scores = iter([9.0, 5.0, 3.0, 4.0, 4.0])  # the first is the look before the first update

    validate = trainer.validate

    def validation(task: object, *args: object, **options: object):
        found = validate(task, *args, **options)
        return found | {"error": next(scores)}

    monkeypatch.setattr(trainer, "validate", validation)
    config = changed(CLASSIFIER, loop__steps=50, loop__validate_every=1, loop__patience=2, loop__checkpoint_every=1)
    result = run(store, tmp_path, config, train="012", valid="3")
    assert (result.finished, result.steps) == (True, 4)
    best, last = tensors(tmp_path, "best.pt"), tensors(tmp_path, "last.pt")
    model = load_head(tmp_path).state_dict()
    assert all(torch.equal(best[f"/model/model.{name}"], value) for name, value in model.items())
    assert any(not torch.equal(last[f"/model/model.{name}"], value) for name, value in model.items())
    assert read_model_config(tmp_path)["provenance"]["steps"] == 2
    monkeypatch.setattr(trainer, "validate", validate)
    before = model_hash(tmp_path)
    again = run(store, tmp_path, config, train="012", valid="3")  # a run that has ended early has ended
    assert (again.finished, again.steps, model_hash(tmp_path)) == (True, 4, before)


def test_without_validation_the_last_is_kept(store: WaveformStore, tmp_path: Path) -> None:
    run(store, tmp_path, changed(CLASSIFIER, loop__steps=3, loop__patience=1, loop__validate_every=1))
    last, model = tensors(tmp_path), load_head(tmp_path).state_dict()
    assert all(torch.equal(last[f"/model/model.{name}"], value) for name, value in model.items())
    assert not (tmp_path / "best.pt").exists()
    assert read_model_config(tmp_path)["provenance"]["steps"] == 3


def test_a_run_whose_validation_is_never_a_number_still_leaves_a_model(
    store: WaveformStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "validate", lambda *_, **__: {"loss": 0.0, "error": float("nan")})
    run(store, tmp_path, changed(CLASSIFIER, loop__steps=2), train="012", valid="3")
    assert read_model_config(tmp_path)["provenance"]["steps"] == 2


# Leaks, and what has no meaning


def test_leaks_are_refused_and_named(store: WaveformStore, tmp_path: Path) -> None:
    train, valid = examples(store, "ctc", "01"), examples(store, "ctc", "23")
    with pytest.raises(UserError, match=r"corpus: speaker 's2' is both trained on and held out, with 1 others$"):
        run(store, tmp_path, CTC, train=train + valid[:2], valid=valid[2:])
    with pytest.raises(UserError, match=r"speaker 's2' is both trained on and held out$"):
        run(store, tmp_path, CTC, train=[*train, valid[0]], valid=valid[1:])
    with pytest.raises(UserError, match=r"00\.wav: is both trained on and held out$"):
        run(store, tmp_path, CTC, train=train, valid=[train[0]])
    assert not list(tmp_path.iterdir())


def test_unknown_speakers_are_no_shared_speaker(store: WaveformStore, tmp_path: Path, monkeypatch) -> None:
    nameless = [item.model_copy(update={"speaker": None}) for item in store.utterances]
    monkeypatch.setattr(store, "utterances", nameless)
    monkeypatch.setattr(store, "speakers", [None] * len(nameless))  # may have been read before
    every = [Example(index, TEXTS[index // 2]) for index in range(16)]
    run(store, tmp_path, changed(CTC, loop__steps=1), train=every[:12], valid=every[12:])
    assert read_model_config(tmp_path)["training"]["speakers"] == []
    with pytest.raises(UserError, match="both trained on and held out"):
        run(store, tmp_path / "other", CTC, train=every[:12], valid=every[11:])


def test_one_line_where_a_setting_means_nothing(store: WaveformStore, start: Path, tmp_path: Path) -> None:
    cases = [
        (
            changed(CLASSIFIER, network="logmel-cnn"),
            {"start": start},
            "logmel-cnn: a classifier",
        ),
        (changed(CTC, network="logmel-cnn"), {}, "logmel-cnn: a classifier"),
        (changed(CTC, loop__compile=True), {}, "loop.compile"),
        (CTC, {"start": tmp_path / "gone"}, "gone: not a model folder"),
        (
            CTC,
            {"vocabulary": Vocabulary.from_texts(["abcd"])},
            "character 'e' of a transcript is not in",
        ),
        (CTC, {"train": []}, "nothing to train on"),
        (CLASSIFIER, {"train": [Example(0, "x"), Example(1, "x")]}, r"one class alone \('x'\) cannot be trained"),
        (CLASSIFIER, {"train": "012", "valid": [Example(3, "odd")]}, "class 'odd' is held out but not trained on"),
    ]
    for config, options, message in cases:
        with pytest.raises(UserError, match=message) as error:
            run(store, tmp_path / "out", config, **options)
        assert "\n" not in str(error.value)
    before = model_hash(start)
    with pytest.raises(UserError, match="is the model to start from; choose another folder"):
        run(store, start, CTC, start=start)
    assert model_hash(start) == before


def test_what_cannot_be_aligned_or_is_cropped_is_left_out(store: WaveformStore, tmp_path: Path) -> None:
    train = [Example(0, "ace"), Example(1, "e" * 15), Example(2, ""), Example(3, "a cab"), Example(15, "bed")]
    result = run(store, tmp_path, changed(CTC, loop__steps=1, batches__max_seconds=0.5), train=train)
    assert result.left_out == 3  # fifteen equal letters need 29 frames of 20; one is longer than half a second
    assert read_model_config(tmp_path)["training"]["utterances"] == 2


def test_a_fine_tuned_model_is_a_start_too(store: WaveformStore, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    run(store, first, changed(CTC, loop__steps=2, hide={"frames": 0.5, "frame_length": 3}))
    run(store, second, changed(CLASSIFIER, loop__steps=1, optim__lr=1e-12), start=first)
    one, two = (load_head(folder).trunk.state_dict() for folder in (first, second))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, msg=name)
    assert read_model_config(second)["provenance"]["start"] == str(first)


# One big batch, accumulated, or in two processes


@pytest.mark.parametrize("kind", BY_KIND)
def test_accumulation_is_the_same_update(store: WaveformStore, start: Path, tmp_path: Path, kind: str) -> None:
    """Unequal classes, hidden spans and augmentation: all go by the row in the global batch."""
    keep = ("hide", "augment", "batches__batch_seconds", "frozen")
    changes = {name: RESTLESS[name] for name in keep} | {"optim__lr": 1e-3, "loop__steps": 5}
    config = changed(BY_KIND[kind], **changes)
    for count in (1, 2, 3):
        config = changed(config, loop__accumulation=count)
        run(store, tmp_path / str(count), config, start=start, train=examples(store, kind, "013"))
    expected = tensors(tmp_path / "1")
    for count in (2, 3):
        got = tensors(tmp_path / str(count))
        assert max(float((got[f"{name}"] - value).abs().max()) for name, value in expected.items()) < 2e-5


def test_recomputed_blocks_give_the_same_update(
    store: WaveformStore, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    kept = transformer.checkpoint
    monkeypatch.setattr(transformer, "checkpoint", lambda *args, **named: calls.append(args) or kept(*args, **named))
    for recompute in (False, True):
        assert not calls
        config = changed(CTC, loop__steps=2, loop__recompute=recompute)
        run(store, tmp_path / str(recompute), config, start=start, train=examples(store, "ctc", "013"))
    assert calls
    ours, theirs = tensors(tmp_path / "True"), tensors(tmp_path / "False")
    assert [name for name, value in theirs.items() if not torch.equal(ours[name], value)] == []
    with pytest.raises(UserError, match="network=logmel-cnn has no Transformer blocks"):
        run(store, tmp_path / "cnn", changed(CLASSIFIER, network="logmel-cnn", loop__recompute=True))


@pytest.mark.parametrize("kind", BY_KIND)
def test_muon_trains_a_head_and_its_encoder(store: WaveformStore, start: Path, tmp_path: Path, kind: str) -> None:
    config = changed(BY_KIND[kind], optim__name="muon", loop__steps=3, frozen=0.0, optim__layer_decay=0.9)
    run(store, tmp_path, config, start=start, train=examples(store, kind, "013"))
    momentum = [each for name, each in tensors(tmp_path).items() if "/muon/" in name and name.endswith("buffer")]
    assert len(momentum) == 12
    assert all(each.abs().sum() > 0 for each in momentum)


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["whole", "shards"])
@pytest.mark.parametrize("learn", ["text", "label"])
def test_two_processes_equal_one(
    processes: Processes, store: WaveformStore, tmp_path: Path, learn: str, *, shard: bool
) -> None:
    keep = ("hide", "augment", "batches__batch_seconds", "frozen")
    changes = {name: RESTLESS[name] for name in keep} | {"optim__lr": 1e-3, "loop__steps": 4, "loop__validate_every": 2}
    changes["loop__shard"] = shard
    config = changed(CTC if learn == "text" else CLASSIFIER, **changes)
    (tmp_path / "recipe.toml").write_text(dump_config(config))
    words = ["--from", "scratch", "--learn", learn, "--config", tmp_path / "recipe.toml", "--valid-share", "0.25"]
    alone = processes.start("finetune", store.folder, "--out", tmp_path / "one", *words, said=tmp_path / "said")
    started = [
        processes.start("finetune", store.folder, "--out", tmp_path / "two", *words, said=tmp_path / "said", env=env)
        for env in gloo_environments()
    ]
    for each in (alone, *started):
        each.finish()
    ours, theirs = tensors(tmp_path / "two"), tensors(tmp_path / "one")
    names = [name for name in theirs if name.startswith("/model/model.")]
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in names) < 1e-5
    valid = [row for row in rows(tmp_path / "two") if "valid" in row]
    assert len(valid) == 2
    for got, row in zip(rows(tmp_path / "two"), rows(tmp_path / "one"), strict=True):
        for name, value in row.items():
            assert got[name] == pytest.approx(value, rel=1e-3, abs=1e-4), (row["step"], name)


@pytest.fixture
def toy_dictionary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "toy.dict").write_text("ab AE B\n")
    monkeypatch.setattr(pronunciation, "dictionary_file", lambda: tmp_path / "toy.dict")
    caches = (pronunciation._dictionary, phones._spellings)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.mark.usefixtures("toy_dictionary")
def test_phones_of_other_languages_and_of_digits_are_refused(
    store: WaveformStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = changed(CTC, ctc__units="phones")
    other = next(index for index, speaker in enumerate(store.speakers) if speaker != store.speakers[0])
    for side in ("train", "valid"):
        sides = {"train": [Example(0, "ab")], "valid": [Example(other, "ab")]}
        sides[side] = [Example(sides[side][0].index, "ab 2nd")]
        with pytest.raises(UserError, match=r"wav.*: ctc\.units=phones need words of the letters a to z, got '2nd'"):
            run(store, tmp_path / "digits", settings, train=sides["train"], valid=sides["valid"])
    assert "2 transcripts name no language; ctc.units=phones read them as English" in capsys.readouterr().err
    german = [utterance.model_copy(update={"language": "de"}) for utterance in store.utterances]
    monkeypatch.setattr(store, "utterances", german)
    with pytest.raises(UserError, match=r"wav.*: language 'de', and ctc\.units=phones are those of English"):
        run(store, tmp_path / "german", settings, train=[Example(0, "ab")])
