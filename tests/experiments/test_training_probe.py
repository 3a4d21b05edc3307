"""The probe along a run: the numbers of `evaluate`, of the encoder that is saved, and no change to the run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechssl import cli
from speechssl.config import UserError, dump_config
from speechssl.data.manifest import Utterance
from speechssl.data.waveforms import pack
from speechssl.embed.embedder import load
from speechssl.experiments import training_probe
from speechssl.experiments.evaluate import evaluate
from speechssl.experiments.training_probe import few_label_probe
from speechssl.models.encoder import SpeechEncoder
from speechssl.objectives.base import Metrics
from speechssl.train import loop
from speechssl.train.pretrain import EncoderProbe, pretrain
from speechssl.train.pretrain_config import ProbeConfig
from tests.micro import tone
from tests.toys import MICRO_RUN, NO_DROPOUT, changed, toy_corpus
from tests.train.conftest import Processes, processes, rows, tensors
from tests.train.test_distributed import gloo_environments

__all__ = ["processes"]
PROBED = changed(MICRO_RUN, probe__every=8, probe__shots=3, optim__average=0.9)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_corpus(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four speakers (levels of noise), two labels (pitches), six takes of each."""
    folder = tmp_path_factory.mktemp("labelled")
    items: list[Utterance] = []
    for number in range(48):
        speaker, label = number % 4, number // 4 % 2
        wave = tone(5000, (180.0, 210.0)[label] * (1 + 0.03 * speaker), seed=number)
        wave += 0.05 * np.random.default_rng(number).normal(size=len(wave)).astype(np.float32)
        path = folder / f"{number}.wav"
        soundfile.write(path, wave, 16000)
        items.append(Utterance(audio=str(path), duration=5000 / 16000, speaker=f"s{speaker}", label=f"tone {label}"))
    pack(items, folder / "prepared", workers=1)
    return folder / "prepared"


@pytest.fixture
def probe(labelled: Path) -> EncoderProbe:
    return few_label_probe(labelled, shots=3)


def test_the_number_is_that_of_evaluate(
    labelled: Path, probe: EncoderProbe, model_folder: Path, tmp_path: Path
) -> None:
    settings = {"shots": [3], "seeds": training_probe.DRAWS, "test_limit": training_probe.TESTS, "baselines": False}
    [expected] = [
        row.value
        for row in evaluate(model_folder, labelled, tmp_path / "r.json", **settings)
        if (row.contender, row.probe, row.metric) == ("model (mean of layers)", "logistic", "UAR")
    ]
    encoder = load(model_folder, device="cpu").encoder.requires_grad_().train()
    before, state = {name: each.clone() for name, each in encoder.state_dict().items()}, torch.random.get_rng_state()
    assert probe.measure(encoder) == {"probe_uar": expected, "probe_chance": 0.5}
    assert all(torch.equal(each, before[name]) for name, each in encoder.state_dict().items())
    assert encoder.training
    assert all(each.requires_grad for each in encoder.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.slow
def test_the_saved_encoder_is_measured_and_the_run_is_the_same(
    corpus: Path, probe: EncoderProbe, tmp_path: Path
) -> None:
    def weighed(encoder: SpeechEncoder) -> Metrics:
        total = sum(float(each.double().abs().sum()) for each in encoder.state_dict().values())
        return {"probe_uar": total, "probe_chance": 0.5}

    probe = replace(probe, measure=weighed)
    pretrain([corpus], tmp_path / "probed", config=PROBED, probe=probe)
    found = {row["step"]: row["probe_uar"] for row in rows(tmp_path / "probed") if "probe_uar" in row}
    assert list(found) == [8, 12]  # of the validations at 4, 8 and 12: every 8 updates, and at the end
    assert found[12] == weighed(load(tmp_path / "probed", device="cpu").encoder)["probe_uar"]
    pretrain([corpus], tmp_path / "plain", config=changed(PROBED, probe=ProbeConfig()))
    ours, theirs = tensors(tmp_path / "probed"), tensors(tmp_path / "plain")
    assert [name for name, value in theirs.items() if not torch.equal(ours[name], value)] == []
    assert cli.main(["report", str(tmp_path / "probed"), "--out", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text()
    assert "Few-label probe (UAR), validation (chance 0.50)" in page
    assert "Logistic regression on the frozen encoder that would be saved" in page


@pytest.mark.slow
@pytest.mark.usefixtures("two_threads")
def test_a_stopped_run_resumes_bit_for_bit(
    corpus: Path, probe: EncoderProbe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain([corpus], tmp_path / "whole", config=PROBED, probe=probe)
    with monkeypatch.context() as patch:
        counted = iter(range(1, 100))
        patch.setattr(loop, "any_rank", lambda flag, device: flag or next(counted) == 9)
        assert not pretrain([corpus], tmp_path / "stopped", config=PROBED, probe=probe).finished
    other = EncoderProbe(probe.measure, probe.curves, digest="another")
    with pytest.raises(UserError, match="holds a run with data other than"):
        pretrain([corpus], tmp_path / "stopped", config=PROBED, probe=other)
    pretrain([corpus], tmp_path / "stopped", config=PROBED, probe=probe)
    assert rows(tmp_path / "stopped") == rows(tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_log_what_one_does(corpus: Path, labelled: Path, processes: Processes, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    still = {f"encoder__{name}": value for name, value in NO_DROPOUT.items()}
    recipe.write_text(dump_config(changed(PROBED, loop__validate_every=12, crops__batch_seconds=5.0, **still)))

    def started(out: Path, env: dict[str, str]):
        words = ("pretrain", corpus, "--out", out, "--config", recipe, "--probe-on", labelled)
        return processes.start(*words, said=tmp_path / f"{out.name}.said", env=env)

    started(tmp_path / "one", {}).finish()
    for each in [started(tmp_path / "two", env) for env in gloo_environments()]:
        each.finish()
    one, two = ([row["probe_uar"] for row in rows(tmp_path / name) if "probe_uar" in row] for name in ("one", "two"))
    assert len(one) == 1
    assert two == pytest.approx(one)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--probe-on", "TOY", "--set", "probe.every=4"], "task 'label' needs at least 2 classes"),
        (["--probe-on", "NONE", "--set", "probe.every=4"], "NONE"),
        (["--set", "probe.every=4"], "probe.every without --probe-on: give the corpus and the number of updates"),
        (["--set", "probe.shots=3"], "probe.shots without probe.every"),
        (["--probe-on", "LABELLED"], "probe.every is 0 with --probe-on: "),
    ],
)
def test_what_cannot_be_probed_is_refused_before_training(
    words: list[str],
    message: str,
    corpus: Path,
    labelled: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"TOY": str(corpus), "NONE": str(tmp_path / "NONE"), "LABELLED": str(labelled)}
    given = ["pretrain", str(corpus), "--out", str(tmp_path / "run"), *(places.get(word, word) for word in words)]
    assert cli.main(given) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "log.jsonl").exists()
