"""Benchmarks run and say what they promise to say."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def pretrain_step(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("pretrain_step", FOLDER / "pretrain_step.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "pretrain_step", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "keep_freed_memory", lambda: None)  # for good, in this process
    return module


def test_pretrain_step(pretrain_step: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--preset", "tiny", "--shape", "1x1", "--steps", "2", "--precision", "fp32", "--json"]
    assert pretrain_step.main(options) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    seconds = result["seconds"]
    assert result["ratio"] == pytest.approx(seconds["transformers"]["step"] / seconds["ours"]["step"])
    assert all(value > 0 for medians in seconds.values() for value in medians.values())
    assert not result["same_weights"]  # the tiny preset cannot be expressed there
    assert result["precision"] == "fp32"
    assert set(result["versions"]) == {"speechssl", "torch", "transformers", "python"}


def test_losses_are_compared_before_anything_is_timed(
    pretrain_step: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = pretrain_step.ENCODERS["base"]
    small = {"dim": 32, "layers": 1, "heads": 2, "feedforward": 32, "position_kernel": 4, "position_groups": 2}
    layers = tuple((16, kernel, stride) for _, kernel, stride in encoder.conv.layers)
    transformer = encoder.transformer.model_copy(update=small)
    conv = encoder.conv.model_copy(update={"layers": layers})
    monkeypatch.setattr(
        pretrain_step, "ENCODERS", {"base": encoder.model_copy(update={"transformer": transformer, "conv": conv})}
    )
    ours, theirs, same = pretrain_step.build("base")
    assert same
    crops = pretrain_step.Crops(torch.randn(2, 16000), np.arange(2), 2)
    pretrain_step.check_equal(ours, theirs, crops)
    with torch.no_grad():
        ours.project_context.weight.normal_()
    with pytest.raises(SystemExit, match="the two losses differ"):
        pretrain_step.check_equal(ours, theirs, crops)
