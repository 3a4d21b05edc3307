"""What every objective has to hold, whichever method it is; a toy objective shows that one file is enough."""

import dataclasses
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import speechssl
from speechssl import cli, objectives
from speechssl.config import UserError, dump_config, load_config, merged
from speechssl.data.batch import CropBatch, FrameGrid
from speechssl.data.crops import CropBatches, CropConfig
from speechssl.data.units import write_units
from speechssl.data.waveforms import WaveformStore
from speechssl.distributed import Process
from speechssl.models.encoder import PRESETS, EncoderConfig, SpeechEncoder
from speechssl.objectives import OBJECTIVES, load_objective
from speechssl.objectives.base import ENCODER, Objective
from speechssl.train import loop
from speechssl.train.adapt import adaptation
from speechssl.train.pretrain import pretrain
from speechssl.train.pretrain_config import PretrainConfig, config_of, objective_name, runs
from speechssl.train.units import labels_of
from tests.objectives import toy_objective, toy_teacher
from tests.toys import MICRO_ENCODER, MICRO_RUN, changed, micro_run, toy_corpus
from tests.train.conftest import rows, tensors

TOYS = {"toy": toy_objective, "teacher": toy_teacher}
VARIANTS = {  # settings that change which frames an objective encodes
    "hubert, pairs": {"encoder__squeeze_factor": 2},
    "hubert, unmasked": {"objective__mask__drop": True, "objective__decoder__layers": 2},
    "hubert, unmasked pairs": {"objective__mask__drop": True, "encoder__squeeze_factor": 2},
    "wav2vec2, pairs": {"encoder__squeeze_factor": 2},
    "wav2vec2, warm units": {"objective__warm_units__share": 0.5, "objective__units__classes": 12},
    "wav2vec2, unmasked": {"objective__mask__drop": True, "objective__decoder__layers": 2},
}
ROWS = 6
ALONE = Process(rank=0, world_size=1, device=torch.device("cpu"))
NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0}

# Every objective is built and differentiated by default; of those that also run, two are enough to break a run.
RUN_BY_DEFAULT = ("wav2vec2", "toy")
_NAMES = [pytest.param(each, marks=() if each in RUN_BY_DEFAULT else pytest.mark.slow) for each in [*OBJECTIVES, *TOYS]]
_VARIED = [pytest.param(each, marks=pytest.mark.slow) for each in VARIANTS]
WHOLE_RUNS = pytest.mark.parametrize("variant", [*_NAMES, *_VARIED], indirect=True)
WHOLE_RUNS_WITHOUT_VARIANTS = pytest.mark.parametrize("variant", _NAMES, indirect=True)
WITHOUT_VARIANTS = pytest.mark.parametrize("variant", [*OBJECTIVES, *TOYS], indirect=True)


@pytest.fixture(params=[*OBJECTIVES, *TOYS, *VARIANTS])
def variant(request: pytest.FixtureRequest) -> str:
    """Every objective, the toys, and objectives with other settings."""
    return request.param


@pytest.fixture
def name(variant: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The objective; the toys are known to the package while a test runs."""
    monkeypatch.setattr(objectives, "OBJECTIVES", (*OBJECTIVES, *TOYS))
    for toy, module in TOYS.items():
        monkeypatch.setitem(sys.modules, f"speechssl.objectives.{toy}", module)
    return variant.partition(",")[0]


@pytest.fixture
def module(name: str) -> ModuleType:
    return load_objective(name)


@pytest.fixture
def config(name: str, variant: str) -> PretrainConfig:
    return changed(micro_run(name), **VARIANTS.get(variant, {}))


@pytest.fixture
def objective(module: ModuleType, config: PretrainConfig) -> Objective:
    torch.manual_seed(3)
    transformer = config.encoder.transformer.model_copy(update=NO_DROPOUT)
    still = config.encoder.model_copy(update={"transformer": transformer})
    return module.build(SpeechEncoder(still), config.objective, seed=0)


@pytest.fixture
def batch(objective: Objective, corpus: Path) -> CropBatch:
    """Six crops of a second, with all that the objective wants beside them."""
    store = WaveformStore(corpus)
    settings = CropConfig(seconds=1.0, min_seconds=1.0, batch_seconds=float(ROWS))
    spec = objective.batch_spec
    labels = [] if spec.labels is None else labels_of([store], spec.labels, seed=0, process=ALONE)
    return CropBatches([store], settings, seed=0, spec=spec, labels=labels).batch(0)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tones, with labels of their frames."""
    folder = toy_corpus(tmp_path_factory.mktemp("toy"))
    store, conv = WaveformStore(folder), MICRO_ENCODER.conv
    grid = FrameGrid(conv.hop, conv.receptive_field, conv.padding)
    rng = np.random.default_rng(0)
    labels = [rng.integers(toy_teacher.CLASSES, size=grid.count(int(each))) for each in store.lengths]
    write_units(store, "toy", labels, grid)
    return folder


def gradients(objective: Objective, total: Tensor) -> dict[str, Tensor]:
    objective.zero_grad()
    total.backward()
    return {key: value.grad.clone() for key, value in objective.named_parameters() if value.grad is not None}


@WITHOUT_VARIANTS
def test_the_module_has_what_the_package_asks_for(name: str, module: ModuleType) -> None:
    assert module.Config().name == name
    assert set(module.PRESETS) == set(module.RUNS) <= set(PRESETS)
    assert module.CURVES
    for size, run in runs(name).items():
        changes = module.RUNS[size].get("encoder", {})
        assert run.encoder == EncoderConfig.model_validate(merged(PRESETS[size].model_dump(), changes))
        assert run.objective == module.PRESETS[size]


@WITHOUT_VARIANTS
def test_a_recipe_comes_back(name: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    for run in runs(name).values():
        path.write_text(dump_config(run))
        assert objective_name(None, path, []) == name
        assert load_config(config_of(name), path) == run


def test_gradients_reach_the_first_convolution(objective: Objective, batch: CropBatch) -> None:
    found = gradients(objective, objective(batch, step=0, progress=0.1).total)
    first = next(key for key, _ in objective.named_parameters() if key.startswith(f"{ENCODER}features."))
    assert found[first].abs().max() > 0


def test_what_is_hidden_is_hidden(objective: Objective, batch: CropBatch) -> None:
    """The context does not change with samples that only masked frames see; a causal one not with what comes later."""
    objective.eval()
    with torch.no_grad():
        expected = objective.context(batch, step=4)
        if expected is None:
            pytest.skip("hides nothing")
        assert expected.hidden is not None or expected.causal
        conv, rng = objective.encoder.config.conv, np.random.default_rng(0)
        frames = expected.frames.shape[1]
        starts = np.arange(frames) * conv.hop - conv.padding - 1  # first sample that a frame sees, by pre-emphasis
        changed, kept = batch.waveforms.clone(), torch.ones(expected.frames.shape[:2], dtype=torch.bool)
        for row in range(len(changed)):
            unseen = np.zeros(changed.shape[1], dtype=bool)
            if expected.causal:
                frame = int(rng.integers(1, frames - 1))
                unseen[starts[frame] + 1 + conv.receptive_field :] = True
                kept[row, frame + 1 :] = False
            else:
                assert expected.hidden is not None
                unseen[:] = True
                for frame in np.flatnonzero(~expected.hidden[row].numpy()):
                    unseen[max(0, starts[frame]) : starts[frame] + 1 + conv.receptive_field] = False
            assert unseen.sum() > conv.hop
            changed[row, torch.from_numpy(unseen)] = torch.randn(int(unseen.sum()))
        got = objective.context(dataclasses.replace(batch, waveforms=changed), step=4)
        assert got is not None
        torch.testing.assert_close(got.frames[kept], expected.frames[kept], rtol=1e-4, atol=1e-5)
        everything = objective.context(dataclasses.replace(batch, waveforms=-batch.waveforms.flip(0)), step=4)
        assert everything is not None
        assert (everything.frames - expected.frames).abs().max() > 0.01


@pytest.mark.parametrize("parts", [2, 3])
def test_micro_batches_give_the_gradient_of_one_batch(objective: Objective, batch: CropBatch, parts: int) -> None:
    if not objective.exact_in_parts:
        pytest.skip("declares that parts are not exact")
    whole = objective(batch, step=3, progress=0.2)
    expected = gradients(objective, whole.total)
    pieces = batch.micro_batches(parts)
    shared = objective.gather(pieces, step=3) or None
    outputs = [objective(piece, step=3, progress=0.2, shared=shared) for piece in pieces]
    got = gradients(objective, torch.stack([each.total for each in outputs]).sum())
    for key, value in whole.stats.items():
        torch.testing.assert_close(sum(each.stats[key] for each in outputs), value, rtol=1e-4, atol=1e-4)
    count = float(whole.stats["count"])
    for key, value in expected.items():
        assert (got[key] - value).abs().max() / count <= 1e-5 * max(1.0, float(value.abs().max()) / count), key


def test_draws_follow_from_seed_and_step(objective: Objective, batch: CropBatch) -> None:
    first = objective(batch, step=1, progress=0.5).total
    torch.manual_seed(99)  # neither the global state nor what was drawn before counts
    objective(batch, step=2, progress=0.5)
    assert torch.equal(objective(batch, step=1, progress=0.5).total, first)


@WHOLE_RUNS
def test_what_is_logged(
    name: str, module: ModuleType, config: PretrainConfig, corpus: Path, tmp_path: Path, batch: CropBatch
) -> None:
    out = tmp_path / "run"
    settings = changed(config, loop__steps=4, loop__validate_every=2, loop__log_every=1)
    result = pretrain([corpus], out, config=settings)
    logged = rows(out)
    drawn = (*module.CURVES, *settings.objective.more_curves())
    for curve in drawn:
        kinds = [("valid" in row) for row in logged if curve.metric in row]
        assert kinds, curve
        assert any(kinds) or not curve.validation
        assert not all(kinds) or not curve.training
        assert curve.chance is None or all(curve.chance in row for row in logged if curve.metric in row)
    curves = json.loads((out / "metrics.json").read_text())["curves"]
    assert [each["metric"] for each in curves] == [curve.metric for curve in drawn]
    assert result.finished
    model = speechssl.load(out)  # what is released loads and embeds
    assert np.isfinite(model.embed(batch.waveforms[0].numpy())).all()
    saved = json.loads((out / "config.json").read_text())["objective"]
    assert saved["name"] == name
    go_on = adaptation(runs(name)["tiny"], out)
    assert go_on.objective == settings.objective.continued()
    more = changed(go_on, loop=settings.loop, crops=config.crops)
    assert pretrain([corpus], tmp_path / "more", config=more, start=out).finished


@WHOLE_RUNS
@pytest.mark.usefixtures("two_threads")
def test_a_stopped_run_resumes_bit_for_bit(
    config: PretrainConfig, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = changed(config, loop__steps=6, loop__validate_every=3, loop__checkpoint_every=2)
    pretrain([corpus], tmp_path / "whole", config=settings)
    with monkeypatch.context() as patch:
        counted = iter(range(1, 100))
        patch.setattr(loop, "any_rank", lambda flag, device: flag or next(counted) == 3)
        assert not pretrain([corpus], tmp_path / "stopped", config=settings).finished
    pretrain([corpus], tmp_path / "stopped", config=settings)
    ours, theirs = tensors(tmp_path / "stopped"), tensors(tmp_path / "whole")
    assert [key for key, value in theirs.items() if not torch.equal(ours[key], value)] == []
    assert rows(tmp_path / "stopped") == rows(tmp_path / "whole")


@WHOLE_RUNS
def test_one_batch_is_learnt(objective: Objective, batch: CropBatch) -> None:
    optimizer = torch.optim.AdamW(objective.parameters(), lr=2e-3)
    losses: list[float] = []
    for _ in range(30):
        output = objective(batch, step=0, progress=0.9)
        optimizer.zero_grad()
        (output.total / output.stats["count"]).backward()
        optimizer.step()
        losses.append(objective.metrics(output.terms, output.stats)["loss"])
    assert np.mean(losses[-5:]) < 0.95 * losses[0]


@WHOLE_RUNS_WITHOUT_VARIANTS
def test_the_command(name: str, corpus: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "micro.toml"
    config = MICRO_RUN if name == MICRO_RUN.objective.name else None
    words: list[Any] = ["pretrain", corpus, "--out", tmp_path / "run", "--objective", name]
    if config is not None:
        recipe.write_text(dump_config(config))
        words += ["--config", recipe]
    words += ["--set", "loop.steps=1", "--set", "crops.batch_seconds=2", "--set", "crops.seconds=1"]
    assert cli.main([str(word) for word in [*words, "--set", "crops.min_seconds=0.5"]]) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["objective"]["name"] == name


def test_objectives_that_contradict_each_other(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[objective]\nname = "wav2vec2"\n')
    assert objective_name(None, None, []) == objective_name("wav2vec2", recipe, []) == "wav2vec2"
    with pytest.raises(UserError, match=r"^--objective is toy; objective\.name is wav2vec2: choose one objective$"):
        objective_name("toy", recipe, [])
    with pytest.raises(UserError, match="unknown objective 'cpc2'; allowed: wav2vec2, hubert"):
        objective_name(None, None, ["objective.name=cpc2"])
