"""Going on from a pretrained model: nothing starts again that must not, and nothing collapses."""

import json
from pathlib import Path

import pytest
import torch

from speechssl.cli import main
from speechssl.config import UserError
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.storage import load_encoder, read_model_config, read_tensors, save_model
from speechssl.objectives import load_objective
from speechssl.objectives.base import ENCODER
from speechssl.train.adapt import NEW, adaptation
from speechssl.train.pretrain import pretrain
from tests.toys import MICRO_ENCODER, MICRO_RUN, changed, toy_corpus
from tests.train.conftest import rows

FIRST = changed(MICRO_RUN, loop__steps=60, loop__validate_every=20, loop__checkpoint_every=20)


@pytest.fixture(scope="module")
def first(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("first") / "run"
    pretrain([corpus], out, config=FIRST)
    return out


@pytest.mark.slow
def test_the_settings_are_those_of_the_model_but_slower(first: Path) -> None:
    config = adaptation(MICRO_RUN, first)
    assert config.encoder == FIRST.encoder
    assert config.objective.gumbel_start == config.objective.gumbel_end == FIRST.objective.gumbel_end
    assert config.objective.quantizer == FIRST.objective.quantizer
    assert config.optim.max_lr == pytest.approx(0.3 * FIRST.optim.max_lr)
    assert config.optim.reference_lr == pytest.approx(0.3 * FIRST.optim.reference_lr)
    assert config.optim.warmup == 0.15


@pytest.mark.slow
def test_it_goes_on_where_the_first_run_ended(
    first: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Other audio: the loss begins below a fresh model's, codes stay in use, and the temperature never rises."""
    other = toy_corpus(tmp_path_factory.mktemp("other"), utterances=20, seconds=1.8)
    config = changed(adaptation(MICRO_RUN, first), loop__steps=20)
    pretrain([other], tmp_path / "on", config=config, start=first)
    pretrain([other], tmp_path / "fresh", config=changed(MICRO_RUN, loop__steps=20))
    on, fresh = ([row for row in rows(tmp_path / name) if "valid" not in row] for name in ("on", "fresh"))
    assert on[0]["loss"] < fresh[0]["loss"] - 0.02
    before = [row for row in rows(first) if "valid" not in row][-1]
    assert on[0]["temperature"] == pytest.approx(FIRST.objective.gumbel_end)
    assert max(row["temperature"] for row in on) == pytest.approx(FIRST.objective.gumbel_end)
    for row in on:
        assert min(row["code_perplexity"]) > 0.5 * min(before["code_perplexity"])
    config_json = json.loads((tmp_path / "on" / "config.json").read_text())
    assert config_json["provenance"]["start"] == str(first)


@pytest.mark.slow
def test_everything_learnt_is_carried_over(first: Path, corpus: Path, tmp_path: Path) -> None:
    """With a rate of zero the model that comes out is the model that went in, quantizer and projections included."""
    config = changed(adaptation(MICRO_RUN, first), loop__steps=2, optim__reference_lr=0.0, optim__max_lr=0.0)
    pretrain([corpus], tmp_path / "run", config=config, start=first)
    before, after = (read_tensors(folder / "model.safetensors", prefix="") for folder in (first, tmp_path / "run"))
    assert before.keys() == after.keys()
    assert any(name.startswith("objective.quantizer.") for name in after)
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


@pytest.mark.slow
def test_another_start_is_another_run(first: Path, corpus: Path, tmp_path: Path) -> None:
    config = changed(adaptation(MICRO_RUN, first), loop__steps=2)
    pretrain([corpus], tmp_path / "run", config=config, start=first)
    with pytest.raises(UserError, match="holds a run with data other than"):
        pretrain([corpus], tmp_path / "run", config=config)


@pytest.mark.slow
def test_crops_are_those_of_the_encoder(tmp_path: Path) -> None:
    """A model that was trained on waveforms as recorded does not get normalised ones by another preset."""
    objective = MICRO_RUN.objective
    settings = MICRO_ENCODER.model_copy(update={"normalize": False})
    model = load_objective("wav2vec2").build(SpeechEncoder(settings), objective, seed=0)
    rest = {f"objective.{name}": each for name, each in model.state_dict().items() if not name.startswith(ENCODER)}
    save_model(tmp_path, model.encoder, extra={"objective": objective.model_dump(mode="json")}, tensors=rest)
    assert MICRO_RUN.crops.normalize
    assert not adaptation(MICRO_RUN, tmp_path).crops.normalize


def test_what_cannot_be_gone_on_with(first: Path, corpus: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "tuned", SpeechEncoder(MICRO_ENCODER), extra={"head": {"kind": "ctc"}})
    with pytest.raises(UserError, match=r"tuned: a fine-tuned model; pretraining continues from a pretrained one"):
        adaptation(MICRO_RUN, tmp_path / "tuned")
    with pytest.raises(UserError, match="not a model folder"):
        adaptation(MICRO_RUN, tmp_path / "none")
    other = changed(adaptation(MICRO_RUN, first), objective__dim=48)
    with pytest.raises(UserError, match=r"not a model of these settings; tensors: \d+ "):
        pretrain([corpus], tmp_path / "run", config=other, start=first)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hubert", "data2vec", "wav2vec2"])
def test_an_encoder_alone_goes_on_with_a_new_objective(name: str, corpus: Path, tmp_path: Path) -> None:
    """At a rate of zero the encoder that comes out, teachers included, is the one that went in."""
    save_model(tmp_path / "bare", SpeechEncoder(MICRO_ENCODER))
    sets = ["crops.seconds=1.0", "crops.min_seconds=0.8", "crops.batch_seconds=4", "loop.steps=2", "device=cpu"]
    sets += ["optim.reference_lr=0", "optim.max_lr=0", "optim.weight_decay=0"]
    sets += ["objective.units.classes=8"] if name == "hubert" else []
    words = ["pretrain", str(corpus), "--from", str(tmp_path / "bare"), "--out", str(tmp_path / "run")]
    chosen = [] if name == NEW else ["--objective", name]
    assert main([*words, *chosen, *(word for each in sets for word in ("--set", each))]) == 0
    before, after = load_encoder(tmp_path / "bare").state_dict(), load_encoder(tmp_path / "run").state_dict()
    assert [key for key, value in before.items() if not torch.equal(value, after[key])] == []
    settings = read_model_config(tmp_path / "run")["objective"]
    assert settings["name"] == name
    assert name != "hubert" or settings["units"]["source"] == str(tmp_path / "bare")


@pytest.mark.slow
def test_the_command(first: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = ["crops.seconds=1.0", "crops.min_seconds=0.8", "crops.batch_seconds=4", "loop.steps=2", "device=cpu"]
    words = ["pretrain", str(corpus), "--from", str(first), "--out", str(tmp_path / "run")]
    assert main([*words, *(word for each in sets for word in ("--set", each))]) == 0
    recipe = (tmp_path / "run" / "recipe.toml").read_text()
    assert f"dim = {MICRO_ENCODER.dim}" in recipe
