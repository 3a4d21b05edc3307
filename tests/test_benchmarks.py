"""Benchmarks run and say what they promise to say."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import torch

from speechssl.models.encoder import EncoderConfig
from speechssl.nn.conv import ConvConfig
from speechssl.nn.transformer import TransformerConfig

FOLDER = Path(__file__).parent.parent / "benchmarks"


def benchmark(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A script of the folder as a module."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pretrain_step(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = benchmark("pretrain_step", monkeypatch)
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


@pytest.fixture
def extract(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = benchmark("extract", monkeypatch)
    conv = ConvConfig(layers=((16, 10, 5), *((16, 3, 2),) * 4, *((16, 2, 2),) * 2), norm="group", bias=False)
    blocks = TransformerConfig(dim=24, layers=2, heads=2, feedforward=32, position_kernel=8, position_groups=4)
    micro = EncoderConfig(conv=conv, transformer=blocks, normalize=False)
    monkeypatch.setattr(module, "PRESETS", {"base": micro})
    return module


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    (tmp_path / "clips").mkdir()
    for number in range(3):
        time = np.arange(16000 + 4000 * number) / 16000
        soundfile.write(tmp_path / "clips" / f"{number}.wav", 0.1 * np.sin(700 * (1 + number) * time), 16000)
    soundfile.write(tmp_path / "clips" / "short.wav", np.zeros(8000), 16000)
    return tmp_path / "clips"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_extract_by_model(extract: ModuleType, clips: Path, precision: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert extract.main([str(clips), "--what", "model", "--precision", precision, "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])["model"]
    assert result["clips"] == 3
    sides = result["sides"]
    more = {extract.FP32, extract.INT8} if precision == "bf16" else set()
    assert set(sides) == {extract.OURS, extract.ONE, extract.EIGHT, extract.TORCHAUDIO} | more
    for name in (extract.ONE, extract.OURS, extract.TORCHAUDIO):
        assert sides[name]["cosine"] > 0.999
    assert sides[extract.OURS]["ours_is_faster"] == 1.0
    assert all(side["times_real_time"] > 0 for side in sides.values())


def test_extract_refuses_to_compare_what_is_not_equal(
    extract: ModuleType, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract, "cosines", lambda a, _: np.zeros(len(a)))
    with pytest.raises(SystemExit, match="the comparison says nothing"):
        extract.main([str(clips), "--what", "model", "--precision", "fp32"])


@pytest.mark.slow
def test_extract_as_a_whole(extract: ModuleType, clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    extract.contenders = lambda _: [extract.OURS, extract.ONE]
    assert extract.main([str(clips), "--what", "whole", "--precision", "fp32", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])["whole"]
    assert result["start_up_seconds"] > 0
    for side in result["sides"].values():
        assert side["gib"] > 0.1
        assert side["times_real_time"] > 0
