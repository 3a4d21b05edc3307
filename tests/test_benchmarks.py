"""Benchmarks run and say what they promise to say."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import torch

from speechssl import cli
from speechssl.models.encoder import EncoderConfig
from speechssl.nn.conv import ConvConfig
from speechssl.nn.transformer import TransformerConfig
from tests.shown import at_toy_size

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


@pytest.mark.slow
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
    crops = pretrain_step.CropBatch(torch.randn(2, 16000), np.arange(2), 2)
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


@pytest.fixture
def same_numbers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return benchmark("same_numbers", monkeypatch)


@pytest.mark.parametrize(
    ("now", "tolerance", "said"),
    [
        ({"a: log: loss": [1.0, 2.0]}, 0.0, None),
        ({"a: log: loss": [1.0, 2.000002]}, 1e-5, None),
        ({"a: log: loss": [1.0, 2.000002]}, 0.0, "a: log: loss: largest difference 1e-06 of the largest value"),
        ({"a: log: loss": [1.0, np.nan]}, 1.0, "a: log: loss: other values are missing"),
        ({"a: log: loss": [1.0]}, 1.0, "a: log: loss: shape (2,), now (1,)"),
        ({}, 1.0, "only in the old tree: a: log: loss"),
        ({"a: log: loss": [1.0, 2.0], "b": [1.0]}, 1.0, "only in this tree: b"),
        ({"a: log: loss": [1.0, 2.0], "text:words": ["ho"]}, 1.0, "text:words: row 0: hi, now ho"),
    ],
)
def test_same_numbers_tells_every_difference(
    same_numbers: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    now: dict[str, list[float]],
    tolerance: float,
    said: str | None,
) -> None:
    before: dict[str, list[object]] = {"a: log: total": [1.0, 2.0]}
    before |= {"text:words": ["hi"]} if "text:words" in now else {}
    for tree, arrays in (("old", before), ("new", now)):
        (tmp_path / tree).mkdir()
        np.savez(tmp_path / tree / "predict.npz", **{key: np.array(value) for key, value in arrays.items()})  # pyright: ignore[reportArgumentType]
    equal = same_numbers.compare("predict", tmp_path, renamed={"total": "loss"}, tolerance=tolerance)
    assert equal == (said is None)
    assert f"predict: {said}\n" in capsys.readouterr().out or said is None


@pytest.mark.slow
def test_same_numbers_runs_the_package_of_the_tree(
    same_numbers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is started: `python -m` would take the package of the current folder."""
    for name in ("tree", "here"):
        package = tmp_path / name / "speechssl"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(f"import sys\nopen(sys.argv[1], 'w').write({name!r})\n")
    monkeypatch.chdir(tmp_path / "here")
    same_numbers.run_in(tmp_path / "tree", [sys.executable, "-m", "speechssl", str(tmp_path / "ran")])
    assert (tmp_path / "ran").read_text() == "tree"
    shutil.rmtree(tmp_path / "tree" / "speechssl")
    with pytest.raises(SystemExit, match="the package that would run is "):
        same_numbers.run_in(tmp_path / "tree", [sys.executable, "-m", "speechssl", str(tmp_path / "ran")])


@pytest.fixture
def same_as_head(tmp_path: Path) -> list[str]:
    """The words that compare two updates of this tree with those of its last commit."""
    if not (FOLDER.parent / ".git").exists():
        pytest.skip("no commits here")
    return ["HEAD", "--work", str(tmp_path), "--only", "pretrain", "--updates", "2"]


@pytest.mark.slow
def test_same_numbers_at_toy_size(
    same_numbers: ModuleType,
    same_as_head: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In this process, so that both sides are this tree."""
    trees: list[Path] = []

    def run_in(tree: Path, command: list[str]) -> None:
        trees.append(tree)
        assert same_numbers.main(command[2:]) == 0

    def speechssl(*words: object) -> None:
        fewer = ["--set", "hours=0.025"] if words[0] == "prepare" else []
        assert cli.main(at_toy_size([str(word) for word in words]) + fewer) == 0

    monkeypatch.setattr(same_numbers, "run_in", run_in)
    monkeypatch.setattr(same_numbers, "speechssl", speechssl)
    assert same_numbers.main(same_as_head) == 0
    assert capsys.readouterr().out.endswith("arrays, 0 differ; equal to the last bit\n")
    assert trees[1] == FOLDER.parent
    assert (trees[0] / "benchmarks" / "same_numbers.py").exists()


@pytest.mark.slow
def test_same_numbers(same_numbers: ModuleType, same_as_head: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert same_numbers.main(same_as_head) == 0
    assert capsys.readouterr().out.endswith("arrays, 0 differ; equal to the last bit\n")


def test_budget(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    budget = benchmark("budget", monkeypatch)
    monkeypatch.setattr(budget, "keep_freed_memory", lambda: None)
    rates = budget.rates
    monkeypatch.setattr(budget, "rates", lambda clock, dtype: rates(clock, dtype, size=64))
    assert budget.main(["--shape", "2x1", "--steps", "1", "--precision", "fp32", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    *parts, whole = result["parts"]
    assert whole["name"] == "whole step"
    assert sum(each["gflop"] for each in parts) == pytest.approx(whole["gflop"], rel=0.02)
    for each in result["parts"]:
        floor = each["gflop"] / result["gflop_per_second"] + each["gigabytes"] / result["gigabytes_per_second"]
        assert each["floor"] == pytest.approx(floor)
        assert each["seconds"] > 0
    assert result["audio_seconds_per_second"] == pytest.approx(2 / whole["seconds"])


def test_budget_counts_the_gradients_of_grouped_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = benchmark("budget", monkeypatch)
    conv = torch.nn.Conv1d(8, 8, 3, groups=4, bias=False)
    x = torch.randn(2, 8, 12, requires_grad=True)
    clock = budget.Clock(torch.device("cpu"), 1)
    part = budget.measured("conv", lambda: conv(x).sum().backward(), clock, 1.0, 1.0)
    assert part.gflop * 1e9 == pytest.approx(3 * 2 * (2 * 10 * 8) * (2 * 3))  # one forward, two gradients
