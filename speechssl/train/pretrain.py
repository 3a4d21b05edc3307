"""Pretraining: from packed corpora to a run folder that is also a model folder.

The folder holds ``config.json`` and ``model.safetensors`` (what :func:`speechssl.load` takes), ``recipe.toml`` (every
setting), ``log.jsonl``, ``metrics.json`` (the metrics to draw), ``last.pt`` and ``best.pt``. Called again on an
unfinished folder, it resumes from the last checkpoint.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from speechssl import __version__
from speechssl.audio import samples_to_seconds, seconds_to_samples
from speechssl.config import UserError, load_config
from speechssl.data.batch import CROPS_ALONE, BatchSpec
from speechssl.data.batch_augment import NO_AUGMENT
from speechssl.data.crops import WINDOW, CropBatches, check_effects
from speechssl.data.training_audio import AudioRecord, TrainingAudio, read_training_audio, write_training_audio
from speechssl.data.units import Units
from speechssl.data.waveforms import WaveformStore
from speechssl.distributed import Process, hold_run, process_group
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.storage import model_hash, save_model
from speechssl.nn.memory import keep_freed_memory
from speechssl.objectives import load_objective
from speechssl.objectives.base import ENCODER, Curve, Metrics, Objective
from speechssl.terminal import say_once
from speechssl.train.adapt import carry_over, carry_over_encoder, objective_of
from speechssl.train.claim import ANY_DEVICES, LENGTH, claim, claim_labels
from speechssl.train.find_batch import find_accumulation
from speechssl.train.health import HealthMonitor
from speechssl.train.loop import FitResult, fit
from speechssl.train.metrics_file import write_curves
from speechssl.train.optim import peak_learning_rate
from speechssl.train.pretrain_config import PretrainConfig
from speechssl.train.trainer import Batches, Training, resume_point, use_bf16
from speechssl.train.units import labels_of

_SPLIT = 31  # part of the seed, so that this random stream differs from others


@dataclass(frozen=True)
class EncoderProbe:
    """A measurement of the frozen encoder at validations, every ``probe.every`` updates.

    Attributes:
        measure: metrics of an encoder in evaluation mode, which it does not change.
        curves: how the report draws them.
        digest: of its data and settings.
    """

    measure: Callable[[SpeechEncoder], Metrics]
    curves: tuple[Curve, ...]
    digest: str


@dataclass(frozen=True)
class PretrainResult:
    """``finished`` is False when the run was stopped by a signal after writing a checkpoint."""

    finished: bool
    steps: int
    seconds_seen: float
    validation: Metrics


def pretrain(
    corpora: Sequence[Path],
    out: Path,
    *,
    config: PretrainConfig,
    start: Path | None = None,
    resume: bool = True,
    command: str = "",
    find_batch: bool = False,
    probe: EncoderProbe | None = None,
) -> PretrainResult:
    """Pretrain on packed corpora.

    Args:
        corpora: folders written by ``speechssl prepare``.
        out: the run folder.
        config: all other settings; from :func:`speechssl.train.adapt.adaptation` where ``start`` is given.
        start: a pretrained model folder to continue from, with other data and settings; None trains from scratch.
        resume: resume from ``out/last.pt`` when it exists; False refuses a folder with a run in it.
        command: the command line, kept in the model's provenance.
        find_batch: measure into how many micro-batches to divide a batch, where ``out`` holds no run yet.
        probe: measures the encoder that would be saved; goes with ``config.probe.every``.

    Raises:
        UserError: nothing to train on, a probe without ``config.probe.every`` or the other way round, or ``out`` holds
            a run with other settings or one that has not ended.
        HealthError: the run failed in a known way; the last good checkpoint is kept.
    """
    with process_group(config.device) as process, hold_run(out, process):
        if process.device.type == "cpu":
            keep_freed_memory()
        _check_normalization(config)
        if (probe is None) != (config.probe.every == 0):
            given = "without" if probe is None else "is 0 with"
            raise UserError(f"probe.every {given} --probe-on: give the corpus and the number of updates, or neither")
        stores = [WaveformStore(corpus) for corpus in corpora]
        if len({store.content_hash() for store in stores}) < len(stores):
            raise UserError("the same corpus twice: utterances held out of one copy would be trained on in the other")
        if find_batch and config.loop.shard:
            raise UserError("--find-batch with loop.shard: it measures a whole model; set loop.accumulation instead")
        measure = find_batch and not (out / "last.pt").exists()
        if find_batch and not measure:
            config = _with_accumulation(config, load_config(type(config), out / "recipe.toml").loop.accumulation)
        parts = [] if start is None else [model_hash(start)]
        parts += [] if probe is None else [probe.digest]
        if process.is_main:
            _announce_prolonging(out, config)
            may_change = ANY_DEVICES | (LENGTH if config.optim.schedule == "wsd" else frozenset[str]())
            claim(out, config, stores, resume=resume, parts=parts, may_change=may_change)
        torch.manual_seed(config.seed)
        encoder = SpeechEncoder(config.encoder)
        if start is not None:  # before a teacher is made of it
            carry_over_encoder(start, encoder)
        method = load_objective(config.objective.name)
        objective: Objective = method.build(encoder, config.objective, seed=config.seed)
        spec = objective.batch_spec
        check_effects(config.augment, spec, shortest=seconds_to_samples(config.crops.min_seconds))
        labels = [] if spec.labels is None else labels_of(stores, spec.labels, seed=config.seed, process=process)
        if process.is_main and labels:
            claim_labels(out, labels)
        train, valid = split(stores, config, spec=spec, labels=labels)
        _check_lengths(objective, config)
        if start is not None and objective_of(start) == config.objective.name:
            carry_over(start, objective)
        encoder.transformer.recompute = config.loop.recompute
        if config.loop.compile:
            encoder.features.compile()
            encoder.transformer.compile()
        if measure:
            config = _with_accumulation(config, _measured(objective, train, config, process))
            if process.is_main:
                claim(out, config, stores, parts=parts)
        provenance = {
            "speechssl": __version__,
            "torch": torch.__version__,
            "command": command,
            "corpora": [str(corpus) for corpus in corpora],
            "start": None if start is None else str(start),
            "hours": round(train.seconds / 3600, 3),
            "synthetic": any(_is_synthetic(store) for store in stores),
        }
        audio_record = TrainingAudio()
        for store in stores:
            audio_record |= TrainingAudio(pretraining=AudioRecord.of(store))
        audio_record |= read_training_audio(start)
        if process.is_main:
            probed = () if probe is None else probe.curves
            write_curves(out, (*method.CURVES, *config.objective.more_curves(), *probed), config.objective)
        shares = {"rank": process.rank, "world_size": process.world_size}
        result: FitResult = fit(
            objective,
            _training(config, out=out, provenance=provenance, audio_record=audio_record, probe=probe),
            Batches(partial(train.stored, **shares), partial(valid.stored, **shares), probed=lambda: valid.batch(0)),
            config=config.loop,
            optim=config.optim,
            monitor=_monitor(objective, config),
            process=process,
            out=out,
            seed=config.seed,
        )
    return PretrainResult(
        finished=result.finished,
        steps=result.counters.step,
        seconds_seen=result.counters.seconds_seen,
        validation=result.validation,
    )


def split(
    stores: Sequence[WaveformStore],
    config: PretrainConfig,
    *,
    spec: BatchSpec = CROPS_ALONE,
    labels: Sequence[Units] = (),
) -> tuple[CropBatches, CropBatches]:
    """Training and validation batches over disjoint utterances, with what the objective needs beside the crops.

    The held-out utterances measure whether the task is learnt, not generalisation to other speakers: they are drawn at
    random. Copies of a held-out recording, and other stretches of it, are not trained on. They are not augmented.
    """
    if max(len(store) for store in stores) == 1:
        raise UserError(
            f"{', '.join(str(store.folder) for store in stores)}: one utterance cannot be both trained on and held out "
            "for validation; cut the recording into several"
        )
    training: list[list[int]] = []
    held_out: list[list[int]] = []
    total = samples_to_seconds(int(sum(store.lengths.sum() for store in stores)))
    share = min(0.5, max(config.valid_share, 2.5 * config.crops.batch_seconds / max(total, 1e-9)))
    for place, store in enumerate(stores):
        order = np.random.default_rng((config.seed, _SPLIT, place)).permutation(len(store))
        samples = np.cumsum(store.lengths[order])  # utterances are held out until their total length reaches the share
        count = min(int(np.searchsorted(samples, share * samples[-1])) + 1, len(order) - 1) if len(order) else 0
        held_out.append(sorted(order[:count].tolist()))
        training.append(sorted(order[count:].tolist()))
    held = AudioRecord()
    for store, indices in zip(stores, held_out, strict=True):
        held |= AudioRecord.of(store, indices)
    again = [set(held.find(store, indices)) for store, indices in zip(stores, training, strict=True)]
    kept = [[i for i in indices if i not in found] for indices, found in zip(training, again, strict=True)]
    if any(again):
        if not any(kept):
            raise UserError(f"{stores[0].folder}: all utterances are copies of those held out for validation")
        say_once(f"{sum(map(len, again))} utterances left out: their audio is held out for validation, by another name")
        training = kept
    training_batches, valid_batches = (
        CropBatches(stores, config.crops, seed=config.seed, keep=keep, spec=spec, labels=labels, augment=augment)
        for keep, augment in ((training, config.augment), (held_out, NO_AUGMENT))
    )
    return training_batches, valid_batches


def _announce_prolonging(out: Path, config: PretrainConfig) -> None:
    """Say from where a run is prolonged; a refusal comes before the settings in its folder change."""
    recipe = out / "recipe.toml"
    if not recipe.exists() or load_config(type(config), recipe).loop == config.loop:
        return
    point = resume_point(out, config.loop.timeline(config.optim)) if config.optim.schedule == "wsd" else None
    if point is not None and point.prolonged:
        step = int(point.state["progress"]["step"])
        again = f"; {point.again} updates of the cooldown are made again" if point.again else ""
        say_once(f"{out}: continues from step {step}{again}")


def _with_accumulation(config: PretrainConfig, accumulation: int) -> PretrainConfig:
    return config.model_copy(update={"loop": config.loop.model_copy(update={"accumulation": accumulation})})


def _measured(objective: Objective, train: CropBatches, config: PretrainConfig, process: Process) -> int:
    """The number of micro-batches that is fastest, measured on a batch of the longest crops."""
    objective.to(process.device).train()
    batches = (train.batch(number, rank=process.rank, world_size=process.world_size) for number in range(WINDOW))
    longest = max(batches, key=lambda batch: batch.waveforms.shape[1])
    enabled = use_bf16(config.loop.precision, process.device)
    autocast = torch.autocast(process.device.type, torch.bfloat16, enabled=enabled)
    return find_accumulation(objective, longest, process=process, autocast=autocast)


def _check_normalization(config: PretrainConfig) -> None:
    """Raise `UserError` where the encoder would be trained on other waveforms than it is used on later."""
    crops, encoder = config.crops.normalize, config.encoder.normalize
    if crops != encoder:
        raise UserError(
            f"crops.normalize={str(crops).lower()} and encoder.normalize={str(encoder).lower()}: the encoder would get "
            "other waveforms in training than later; set both to the same"
        )


def _check_lengths(objective: Objective, config: PretrainConfig) -> None:
    """Raise `UserError` where the shortest crop has too few frames for the objective."""
    shortest = config.crops.min_seconds
    frames = int(objective.encoder.num_frames(torch.tensor(seconds_to_samples(shortest))))
    if frames < objective.min_frames:
        raise UserError(
            f"crops.min_seconds={shortest:g} gives {frames} frames; {config.objective.name} needs at least "
            f"{objective.min_frames}"
        )


def _training(
    config: PretrainConfig,
    *,
    out: Path,
    provenance: Mapping[str, object],
    audio_record: TrainingAudio,
    probe: EncoderProbe | None,
) -> Training:
    def save(trained: Objective, step: int, seconds_seen: float) -> None:
        encoders = (ENCODER, trained.released_prefix)  # the saved model has one of them, under its own name
        apart = (*encoders, *trained.unsaved)
        rest = {f"objective.{name}": each for name, each in trained.state_dict().items() if not name.startswith(apart)}
        extra = {
            "objective": config.objective.model_dump(mode="json"),
            "provenance": {**provenance, "steps": step, "seconds_seen": round(seconds_seen, 1)},
        }
        write_training_audio(out, audio_record)  # before the model: never a model without its record
        save_model(out, trained.released, extra=extra, tensors=rest)

    def rate(name: str) -> float:
        return config.optim.conv_lr_scale if name.startswith(f"{ENCODER}features.") else 1.0

    return Training(
        name="pretrain",
        peak_rate=peak_learning_rate(config.optim, config.crops.batch_seconds),
        rate=rate,
        save=save,
        find_unused=config.encoder.transformer.layer_drop > 0,
        probe=None if probe is None else lambda trained: probe.measure(trained.released),
        probe_every=config.probe.every,
    )


def _monitor(objective: Objective, config: PretrainConfig) -> HealthMonitor:
    return HealthMonitor(config.health, objective.symptoms, grace=config.health.grace, settled=2 * config.optim.warmup)


def _is_synthetic(store: WaveformStore) -> bool:
    return any(utterance.extras.get("synthetic") for utterance in store.utterances[:1])
