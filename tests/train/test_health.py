"""Each way to fail is told from the others, in runs where it was planted and in recorded numbers; health is silent."""

import dataclasses
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from speechssl.data.batch import CropBatch
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.storage import load_encoder
from speechssl.objectives import wav2vec2
from speechssl.objectives.base import StepOutput
from speechssl.objectives.wav2vec2 import Wav2Vec2
from speechssl.train import loop
from speechssl.train.checkpoint import load_checkpoint
from speechssl.train.health import ADVICE as GRADIENT_ADVICE
from speechssl.train.health import HealthConfig, HealthError, HealthMonitor
from speechssl.train.pretrain import pretrain
from speechssl.train.pretrain_config import PretrainConfig, runs
from tests.toys import MICRO_RUN, changed
from tests.train.conftest import Processes

ADVICE = GRADIENT_ADVICE | wav2vec2.ADVICE
METHOD = Wav2Vec2(SpeechEncoder(MICRO_RUN.encoder), wav2vec2.PRESETS["tiny"], seed=0)

# Alarms within a dozen updates.
QUICK = changed(
    MICRO_RUN,
    loop__steps=40,
    loop__validate_every=4,
    loop__checkpoint_every=2,
    optim__warmup=0.05,
    health__grace=6,
    health__patience=5,
    health__explosion_patience=3,
)

PLANTED: dict[str, PretrainConfig] = {
    # Logits so small that the Gumbel noise chooses.
    "random codes": changed(QUICK, objective__quantizer__logit_std=0.01),
    # Randomly initialised convolutions on the bare waveform.
    "phase hash": changed(
        QUICK,
        encoder__conv__front="conv",
        encoder__conv__init="he",
        encoder__conv__layers=((64, 10, 5), (64, 8, 4), (64, 4, 4), (64, 4, 4)),
        objective__quantizer__codes=160,
    ),
    # Huge logits of features that are mostly constant, and nothing that keeps codes apart.
    "collapsed codes": changed(
        QUICK,
        objective__quantizer__logit_std=300.0,
        objective__quantizer__normalize_input=False,
        objective__diversity_weight=0.0,
    ),
    # A penalty that leaves nothing but the features' mean.
    "constant features": changed(
        QUICK, objective__feature_penalty=1e5, optim__reference_lr=0.3, optim__max_lr=0.3, optim__reference_seconds=4.0
    ),
    "not learning": changed(QUICK, optim__reference_lr=0.0),
}


def assert_last_good_state(out: Path, *, before: int) -> None:
    """The folder is as it was before the sign came up, and of use."""
    state = load_checkpoint(out / "last.pt")
    assert state is not None
    assert 0 < state["progress"]["step"] < before
    assert not any(state["health"]["lasting"].values())
    assert all(value.isfinite().all() for value in state["model"].values())
    frames = load_encoder(out)(torch.randn(1, 8000)).frames
    assert frames.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("state", PLANTED)
def test_planted_failures(corpus: Path, tmp_path: Path, state: str) -> None:
    config, out = PLANTED[state], tmp_path / "run"
    with pytest.raises(HealthError) as caught:
        pretrain([corpus], out, config=config)
    assert caught.value.state == state, str(caught.value)
    assert caught.value.advice == ADVICE[state]
    assert config.health.grace + config.health.patience - 1 <= caught.value.step < 30
    assert_last_good_state(out, before=config.health.grace)
    alarm = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
    assert (alarm["step"], alarm["alarm"], alarm["advice"]) == (caught.value.step, state, ADVICE[state])
    assert alarm["evidence"] in str(caught.value)


def plant(monkeypatch: pytest.MonkeyPatch, *, step: int, factor: float) -> None:
    """From a step on, every loss (and so every gradient) is multiplied."""
    forward: Callable[..., StepOutput] = Wav2Vec2.forward

    def planted(self: Wav2Vec2, crops: CropBatch, **where: Any) -> StepOutput:
        loss = forward(self, crops, **where)
        return dataclasses.replace(loss, total=loss.total * factor) if where["step"] >= step else loss

    monkeypatch.setattr(Wav2Vec2, "forward", planted)


@pytest.mark.parametrize(
    ("state", "factor", "step"), [("exploding gradients", 1e4, 22), ("non-finite gradients", math.nan, 4)]
)
def test_planted_gradients(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, factor: float, step: int
) -> None:
    """Neither waits for the end of the grace period, and a non-finite update leaves the weights alone."""
    config, out = changed(QUICK, health__grace=500), tmp_path / "run"
    plant(monkeypatch, step=step, factor=factor)
    with pytest.raises(HealthError) as caught:
        pretrain([corpus], out, config=config)
    assert (caught.value.state, caught.value.step) == (state, step + 3)
    assert_last_good_state(out, before=step + 1)


@pytest.mark.slow
def test_goes_on_after_an_alarm_when_its_cause_is_gone(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = changed(QUICK, loop__steps=14, health__grace=500), tmp_path / "run"
    with monkeypatch.context() as patch:
        plant(patch, step=4, factor=math.nan)
        for _ in range(2):  # the same command again comes to the same end, not to an earlier one
            with pytest.raises(HealthError, match="step 7: non-finite gradients"):
                pretrain([corpus], out, config=config)
    result = pretrain([corpus], out, config=config)
    assert (result.finished, result.steps) == (True, 14)
    assert "alarm" not in (out / "log.jsonl").read_text()


@pytest.mark.slow
def test_a_young_run_at_chance_raises_nothing(corpus: Path, tmp_path: Path) -> None:
    config = changed(PLANTED["not learning"], health=HealthConfig(), loop__validate_every=40)
    assert pretrain([corpus], tmp_path / "run", config=config).finished


def test_a_run_that_ends_with_a_sign_keeps_its_model(corpus: Path, tmp_path: Path) -> None:
    config = changed(PLANTED["not learning"], loop__steps=8)  # two updates into the sign
    result = pretrain([corpus], tmp_path / "run", config=config)
    state = load_checkpoint(tmp_path / "run" / "last.pt")
    assert result.finished
    assert state is not None
    assert state["progress"]["step"] == 8
    assert state["health"]["lasting"]["not learning"] == 3


def test_a_run_that_is_stopped_with_a_sign_loses_nothing(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on counting where it was."""
    config, updates = PLANTED["not learning"], iter(range(1, 100))
    with monkeypatch.context() as patch:
        patch.setattr(loop, "any_rank", lambda flag, device: next(updates) == 7)
        assert pretrain([corpus], tmp_path / "run", config=config).steps == 7
    with pytest.raises(HealthError, match="step 10: not learning"):
        pretrain([corpus], tmp_path / "run", config=config)
    state = load_checkpoint(tmp_path / "run" / "last.pt")
    assert state is not None
    assert (state["progress"]["step"], state["health"]["lasting"]["not learning"]) == (7, 2)


def test_on_the_command_line_it_is_one_line_and_exit_code_3(processes: Processes, corpus: Path, tmp_path: Path) -> None:
    run = processes.pretrain(corpus, tmp_path / "run", PLANTED["not learning"])
    assert run.wait() == 3
    [line] = [line for line in run.said.read_text().splitlines() if line.startswith("speechssl: ")]
    assert re.match(r"speechssl: step \d+: not learning \(loss .* at chance .*\); .*larger batch", line)
    assert "Traceback" not in run.said.read_text()


# Recorded numbers: what the published sizes and the laboratory's failures look like

CHANCE = math.log(101)
# A healthy update of a run with 160 entries a group, after it has left chance.
GOOD: dict[str, Any] = {
    "loss": 3.1,
    "contrastive_loss": 3.03,
    "chance_loss": 4.6,
    "code_perplexity": [50.0, 37.0],
    "determinism": 0.72,
    "mutual_information": 3.0,
    "constant_share": 0.6,
}
AT_CHANCE = GOOD | {"contrastive_loss": 4.61}
SIGNS: dict[str, dict[str, Any]] = {
    # logits of deviation 0.04: nothing but noise
    "random codes": AT_CHANCE | {"determinism": 0.01, "mutual_information": 0.02, "code_perplexity": [159.0, 158.0]},
    # codes busy and balanced, 2 to 3 % survive a shift
    "phase hash": AT_CHANCE | {"code_perplexity": [154.0, 151.0], "determinism": 0.8, "mutual_information": 4.2},
    # nearly every distractor is left out: the loss looks very good
    "collapsed codes": GOOD | {"code_perplexity": [1.6, 2.2], "contrastive_loss": 0.9, "chance_loss": 1.1},
    # the features' mean is all there is
    "constant features": AT_CHANCE | {"constant_share": 0.97, "code_perplexity": [12.0, 15.0]},
    "not learning": AT_CHANCE,
}
BASE = {
    "random codes": SIGNS["random codes"] | {"code_perplexity": [318.0, 317.0], "determinism": 0.006},
    "phase hash": SIGNS["phase hash"] | {"code_perplexity": [300.0, 290.0]},
}


def watch(
    sequence: list[dict[str, Any]], *, stability: float = 0.6, grace: int = 0, config: HealthConfig | None = None
) -> HealthError | None:
    """The alarm that a sequence of updates raises."""
    monitor = HealthMonitor(config or HealthConfig(), METHOD.symptoms, grace=grace)
    monitor.probed = {"shift_stability": stability}
    for step, metrics in enumerate(sequence, start=1):
        try:
            monitor.observe(step, {**metrics, "grad_norm": metrics.get("norm", 1.0)})
        except HealthError as error:
            return error
    return None


@pytest.mark.parametrize("state", SIGNS)
def test_each_state_is_told_from_the_others(state: str) -> None:
    stability = 0.025 if state == "phase hash" else 0.6
    alarm = watch([SIGNS[state]] * 900, stability=stability, grace=600)
    assert alarm is not None
    assert (alarm.state, alarm.step) == (state, 600 + 200 - 1)
    assert watch([SIGNS[state]] * 798, stability=stability, grace=600) is None
    if state in BASE:
        alarm = watch([BASE[state]] * 200, stability=stability)
        assert alarm is not None
        assert alarm.state == state


def test_healthy_runs_raise_nothing() -> None:
    rng = np.random.default_rng(0)

    def noisy(metrics: dict[str, Any]) -> dict[str, Any]:
        scale = float(rng.lognormal(0, 0.02))
        return metrics | {"contrastive_loss": metrics["contrastive_loss"] * scale, "norm": float(rng.lognormal(0, 0.7))}

    at_chance = [noisy(AT_CHANCE) for _ in range(780)]  # several hundred updates without a step ahead
    leaving = [noisy(GOOD | {"contrastive_loss": 4.6 - 0.002 * update}) for update in range(700)]
    assert watch(at_chance + leaving, grace=600) is None
    few_codes = GOOD | {"code_perplexity": [8.0, 6.0], "contrastive_loss": 2.9, "chance_loss": 3.9}
    penalised = GOOD | {"constant_share": 0.97}  # high, as under the paper's penalty, but the loss is off chance
    soft = GOOD | {"determinism": 0.1, "mutual_information": 1.2}
    for metrics in (few_codes, penalised, soft):
        assert watch([metrics] * 1000) is None
    assert watch([GOOD] * 1000, stability=0.05) is None  # what learns may do as it likes


def test_a_low_loss_of_few_codes_is_no_learning() -> None:
    """Perplexities of 4: so many distractors are left out that chance itself is far below ln(1 + K)."""
    metrics = GOOD | {"code_perplexity": [4.0, 4.0], "contrastive_loss": 4.44, "chance_loss": 4.45}
    alarm = watch([metrics] * 200)
    assert alarm is not None
    assert alarm.state == "collapsed codes"
    metrics |= {"code_perplexity": [11.0, 11.0], "contrastive_loss": 4.55, "chance_loss": 4.56}
    alarm = watch([metrics] * 200)
    assert alarm is not None
    assert alarm.state == "not learning"


def test_a_sign_must_last() -> None:
    assert watch(([AT_CHANCE] * 199 + [GOOD]) * 4) is None
    alarm = watch([AT_CHANCE] * 199 + [GOOD] + [AT_CHANCE] * 200)
    assert alarm is not None
    assert alarm.step == 400


def test_a_cause_that_comes_and_goes_hides_nothing() -> None:
    sometimes = [SIGNS["constant features"], AT_CHANCE]
    alarm = watch(sometimes * 200)
    assert alarm is not None
    assert (alarm.state, alarm.step) == ("not learning", 200)
    alarm = watch([AT_CHANCE] * 60 + [SIGNS["constant features"]] * 200)  # seen later, and most of the time
    assert alarm is not None
    assert (alarm.state, alarm.step) == ("constant features", 200)


def test_gradients_are_watched_from_the_start() -> None:
    calm, wild = GOOD | {"norm": 2.0}, GOOD | {"norm": 150.0}
    assert watch([calm] * 30 + ([wild] * 19 + [calm]) * 10, grace=10_000) is None
    alarm = watch([calm] * 30 + [wild] * 20, grace=10_000)
    assert alarm is not None
    assert (alarm.state, alarm.step) == ("exploding gradients", 50)
    assert watch([wild] * 100, grace=10_000) is None  # large from the start is the scale of this model
    patient = HealthConfig(explosion_patience=100)
    alarm = watch([calm] * 30 + [wild] * 100, config=patient)  # what explodes does not become usual
    assert alarm is not None
    assert (alarm.state, alarm.step) == ("exploding gradients", 130)
    broken = GOOD | {"loss": math.nan}
    assert watch(([broken] * 2 + [calm]) * 20, grace=10_000) is None
    for bad in (broken, GOOD | {"norm": math.inf}, GOOD | {"norm": math.nan}):
        alarm = watch([calm] * 5 + [bad] * 3, grace=10_000)
        assert alarm is not None
        assert (alarm.state, alarm.step) == ("non-finite gradients", 8)


def test_a_broken_update_tells_nothing_else() -> None:
    monitor = HealthMonitor(HealthConfig(patience=2), METHOD.symptoms)
    monitor.observe(1, AT_CHANCE | {"grad_norm": 1.0})
    monitor.observe(2, AT_CHANCE | {"grad_norm": math.inf})
    assert monitor.recent_norms == [1.0]
    assert monitor.lasting["not learning"] == 1


def test_a_monitor_goes_on_from_its_state() -> None:
    """Written down and read back after every update it alarms when it would have."""
    config = HealthConfig(patience=40)
    monitor = HealthMonitor(config, METHOD.symptoms)
    monitor.probed = {"shift_stability": 0.02}
    for step in range(1, 90):
        monitor.observe(step, (AT_CHANCE if step > 50 else GOOD) | {"grad_norm": 1.0 + step % 3})
        assert monitor.suspicious == (step > 50)
        state = json.loads(json.dumps(monitor.state_dict()))
        monitor = HealthMonitor(config, METHOD.symptoms)
        monitor.load_state_dict(state)
    assert len(monitor.recent_norms) == 89
    with pytest.raises(HealthError, match=r"step 90: phase hash .* 2 % of codes"):
        monitor.observe(90, AT_CHANCE | {"grad_norm": 1.0})


def test_switched_off() -> None:
    assert watch([SIGNS["collapsed codes"]] * 1000, config=HealthConfig(enabled=False)) is None


def test_advice_names_settings_that_exist() -> None:
    keys = {key for advice in ADVICE.values() for key in re.findall(r"\b[a-z]+(?:\.[a-z_]+)+", advice)}
    assert len(keys) >= 8
    for key in keys:
        value: Any = runs("wav2vec2")["tiny"]
        for part in key.split("."):
            assert part in type(value).model_fields, key
            value = getattr(value, part)
    assert "loop.precision" in keys
