"""Fine-tuning with few labels: from a prepared corpus and labelled utterances to a model folder with a head.

The loop is that of pretraining. Specific to fine-tuning (wav2vec 2.0, arXiv 2006.11477, section 4.2 and appendix B;
fairseq's ``base_10m`` to ``base_100h``): convolutions are frozen, the whole encoder is frozen for the first part of the
run, the rate has three stages, and frames and channels are masked at random. Specific to a few labels per class: the
head is initialised as the logistic probe on the frozen encoder (arXiv 2202.10054).
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechssl import __version__
from speechssl.audio import seconds_to_samples
from speechssl.config import UserError, digest
from speechssl.data.labelled import Example, LabelledBatch, LabelledBatches
from speechssl.data.training_audio import AudioRecord, TrainingAudio, read_training_audio, write_training_audio
from speechssl.data.waveforms import WaveformStore
from speechssl.decoding.general import is_english
from speechssl.decoding.phones import PhoneVocabulary
from speechssl.distributed import hold_run, process_group
from speechssl.models.bundled import origin_of
from speechssl.models.classifier import Classifier, LogMelClassifier
from speechssl.models.ctc import CTCModel, frames_needed
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.heads import Head, save_head
from speechssl.models.storage import HEAD, load_encoder, model_hash, read_model_config, read_tensors
from speechssl.nn.memory import keep_freed_memory
from speechssl.objectives.base import Metrics, StepOutput, Trainable
from speechssl.terminal import say_once
from speechssl.text import TEXT_RULES, Vocabulary
from speechssl.train.claim import ANY_DEVICES, claim
from speechssl.train.criteria import Criterion, criterion_of
from speechssl.train.finetune_config import FinetuneConfig
from speechssl.train.health import HealthConfig, HealthMonitor
from speechssl.train.loop import fit
from speechssl.train.metrics_file import write_curves
from speechssl.train.probe_start import start_as_probe
from speechssl.train.trainer import Batches, Training

_NOTHING = "nothing to train on: no labelled utterance that can be used"
_HIDE = 41  # part of the seed, so that this random stream differs from others


@dataclass(frozen=True)
class FinetuneResult:
    """``finished`` is False when the run was stopped by a signal after writing a checkpoint."""

    finished: bool
    steps: int
    seconds_seen: float
    validation: Metrics
    left_out: int


def finetune(
    store: WaveformStore,
    out: Path,
    *,
    config: FinetuneConfig,
    start: Path | None,
    train: Sequence[Example],
    valid: Sequence[Example] = (),
    vocabulary: Vocabulary | None = None,
    continued: CTCModel | None = None,
    command: str = "",
    show: bool = True,
) -> FinetuneResult:
    """Fine-tune an encoder, or train one from scratch, on labelled utterances.

    Args:
        store: the prepared corpus.
        out: the run folder; a model folder when done, of the best validation where there is one.
        config: all other settings.
        start: a model folder whose encoder is fine-tuned; None trains ``config.encoder`` from scratch.
        train: labelled utterances.
        valid: held-out ones, for early stopping and the best model; their speakers must not be in ``train``.
        vocabulary: symbols of a CTC model; None uses the characters of ``train``.
        continued: the recogniser of ``start``, whose head is trained further; None begins with a new head.
        command: the command line, kept in the model's provenance.
        show: progress on stderr.

    Raises:
        UserError: no training utterance, a speaker on both sides, a setting without effect here, or ``out`` holds
            another run, or one that has not ended.
        HealthError: gradients stayed non-finite or exploded; the last good checkpoint is kept.
    """
    refuse_shared(store, train, valid)
    _refuse_settings(config, out=out, start=start)
    with process_group(config.device) as process, hold_run(out, process):
        if process.device.type == "cpu":
            keep_freed_memory()
        torch.manual_seed(config.seed)
        if continued is not None:
            encoder, vocabulary = continued.trunk.encoder, continued.vocabulary
        else:
            encoder = SpeechEncoder(config.encoder) if start is None else load_encoder(start)
        encoder.transformer.recompute = config.loop.recompute
        if config.kind == "ctc":
            vocabulary = vocabulary if continued else _vocabulary(config, vocabulary, train)
            assert vocabulary is not None
            _refuse_unwritable(store, [*train, *valid], vocabulary)
        train, valid, left_out = _usable(store, train, valid, config=config, encoder=encoder, vocabulary=vocabulary)
        if continued is not None and not train:
            raise UserError(_NOTHING)
        model = continued or _model(encoder, train, config, start=start, vocabulary=vocabulary)
        if process.is_main:
            origin = _origin(train, valid, start=start, model=model) + ["its head"] * (continued is not None)
            claim(out, config, [store], parts=origin, may_change=ANY_DEVICES)
        if isinstance(model, Classifier) and config.head_start == "probe":
            start_as_probe(model, store, train, seed=config.seed)
        if not config.train_conv and start is not None:
            encoder.features.requires_grad_(requires_grad=False)
        save = _saver(
            model,
            store,
            train,
            valid,
            out=out,
            start=start,
            before={} if start is None or continued is None else read_model_config(start),
            command=command,
            keep_start=config.keep_start,
        )
        loss = criterion_of(model, train, valid, class_weights=config.class_weights, steps=config.loop.steps)
        if process.is_main:
            write_curves(out, loss.curves)
        batches = _batches(model, store, train, config=config, training=True)
        held = _batches(model, store, valid, config=config, training=False) if valid else None
        shares = {"rank": process.rank, "world_size": process.world_size}
        result = fit(
            Supervised(model, loss, config),
            Training(
                name="finetune",
                peak_rate=config.optim.lr,
                rate=_rates(model, config),
                save=save,
                keep_best=True,
                find_unused=config.frozen > 0 or _drops_layers(model),
            ),
            Batches(partial(batches.batch, **shares), None if held is None else partial(held.batch, **shares)),
            config=config.loop.model_copy(update={"validate_batches": held.batches_per_epoch}) if held else config.loop,
            optim=config.optim,
            monitor=HealthMonitor(HealthConfig()),
            process=process,
            out=out,
            seed=config.seed,
            show=show,
        )
    return FinetuneResult(
        finished=result.finished,
        steps=result.counters.step,
        seconds_seen=result.counters.seconds_seen,
        validation=result.validation,
        left_out=left_out,
    )


def refuse_shared(store: WaveformStore, train: Sequence[Example], valid: Sequence[Example]) -> None:
    """Raise `UserError` where an utterance, its audio, or a known speaker, is both trained on and held out."""
    both = {example.index for example in train} & {example.index for example in valid}
    if both:
        raise UserError(f"{store.utterances[min(both)].audio}: is both trained on and held out")
    copied = AudioRecord.of(store, (each.index for each in valid)).find(store, (each.index for each in train))
    if copied:
        raise UserError(
            f"{store.utterances[copied[0]].audio}: its audio is both trained on and held out, under another name or in "
            "another stretch" + (f", with {len(copied) - 1} others" if len(copied) > 1 else "")
        )
    trained, held = ({store.speakers[example.index] for example in part} for part in (train, valid))
    shared = sorted(speaker for speaker in trained & held if speaker is not None)
    if shared:
        raise UserError(
            f"{store.folder}: speaker {shared[0]!r} is both trained on and held out"
            + (f", with {len(shared) - 1} others" if len(shared) > 1 else "")
        )


def _refuse_settings(config: FinetuneConfig, *, out: Path, start: Path | None) -> None:
    if config.network == "logmel-cnn" and (config.kind == "ctc" or start is not None):
        raise UserError("network=logmel-cnn: a classifier that is trained from scratch, not from a model")
    if config.network == "logmel-cnn" and config.loop.recompute:
        raise UserError(
            "loop.recompute=true: network=logmel-cnn has no Transformer blocks to compute again; leave it off"
        )
    if config.loop.compile:
        raise UserError("loop.compile: fine-tuning's batches have many lengths, each compiled separately; leave it off")
    if start is not None and out.resolve() == start.resolve():
        raise UserError(f"{out}: is the model to start from; choose another folder for the fine-tuned one")


def _usable(
    store: WaveformStore,
    train: Sequence[Example],
    valid: Sequence[Example],
    *,
    config: FinetuneConfig,
    encoder: SpeechEncoder,
    vocabulary: Vocabulary | None,
) -> tuple[list[Example], list[Example], int]:
    """Examples without those whose transcripts cannot be aligned or would be cropped, and the number of those."""
    if config.kind != "ctc" or vocabulary is None:
        return list(train), list(valid), 0
    longest = seconds_to_samples(config.batches.max_seconds)

    def fits(example: Example) -> bool:
        samples = int(store.lengths[example.index])
        frames = int(encoder.num_frames(torch.tensor(samples)))
        symbols = [ord(symbol) for symbol in vocabulary.written(example.target)]
        return samples <= longest and 0 < frames_needed(symbols) <= frames

    kept = [[example for example in part if fits(example)] for part in (train, valid)]
    return kept[0], kept[1], len(train) + len(valid) - len(kept[0]) - len(kept[1])


def _model(
    encoder: SpeechEncoder,
    train: Sequence[Example],
    config: FinetuneConfig,
    *,
    start: Path | None,
    vocabulary: Vocabulary | None,
) -> Head:
    if not train:
        raise UserError(_NOTHING)
    if config.kind == "ctc":
        assert vocabulary is not None
        model = CTCModel(encoder, vocabulary, config.ctc)
    else:
        classes = tuple(sorted({example.target for example in train}))
        if len(classes) < 2:
            raise UserError(f"one class alone ({train[0].target!r}) cannot be trained; two or more are needed")
        if config.network == "logmel-cnn":
            return LogMelClassifier(classes, config.logmel_cnn)
        model = Classifier(encoder, classes, config.classifier)
    weights = {} if start is None else read_tensors(start / "model.safetensors", prefix="")
    for name in ("objective.mask_embedding", f"{HEAD}trunk.mask_embedding"):  # pretrained, or fine-tuned before
        if name in weights:
            with torch.no_grad():
                model.trunk.mask_embedding.copy_(weights[name])
    return model


def _vocabulary(config: FinetuneConfig, given: Vocabulary | None, train: Sequence[Example]) -> Vocabulary:
    """The symbols of a recogniser: those given, the characters of the training side, or phones."""
    if config.ctc.units == "phones":
        return PhoneVocabulary()
    return given or Vocabulary.from_texts(each.target for each in train)


def _refuse_unwritable(store: WaveformStore, examples: Sequence[Example], vocabulary: Vocabulary) -> None:
    """Raise `UserError` where phones are learnt, and a transcript is not English or has a word without phones."""
    if not isinstance(vocabulary, PhoneVocabulary):
        return
    nameless = sum(store.utterances[example.index].language is None for example in examples)
    if nameless:
        say_once(f"{store.folder}: {nameless} transcripts name no language; ctc.units=phones read them as English")
    for example in examples:
        item = store.utterances[example.index]
        if item.language is not None and not is_english(item.language):
            raise UserError(
                f"{item.audio}: language {item.language!r}, and ctc.units=phones are those of English; use "
                "ctc.units=characters"
            )
        wrong = next((word for word in example.target.split() if not vocabulary.can_write(word)), None)
        if wrong is not None:
            raise UserError(
                f"{item.audio}: ctc.units=phones need words of the letters a to z, got {wrong!r}; write numbers as "
                "words, or use ctc.units=characters"
            )


class Supervised(Trainable):
    """A model with a head and the loss of its labels.

    Args:
        model: the trained model.
        criterion: its loss.
        config: what is masked and how long the encoder is frozen.
    """

    criterion = "error"

    def __init__(self, model: Head, loss: Criterion, config: FinetuneConfig):
        super().__init__()
        self.model, self.loss, self.config = model, loss, config

    def forward(
        self,
        batch: LabelledBatch,
        *,
        step: int,  # noqa: ARG002 -- the loop passes it; draws follow the batch
        progress: float,
        shared: Mapping[str, Tensor] | None = None,  # noqa: ARG002 -- the loop passes it
    ) -> StepOutput:
        """See `Trainable.forward`."""
        output = self.model(batch.waveforms, batch.num_samples, **self._hidden(batch, progress))
        return self.loss.loss(output, batch.examples.tolist(), progress=progress)

    def _hidden(self, batch: LabelledBatch, progress: float) -> dict[str, Any]:
        if isinstance(self.model, LogMelClassifier):
            return {}
        frozen = {"frozen": progress < self.config.frozen}
        if not self.training:
            return frozen
        rngs = [np.random.default_rng((self.config.seed, _HIDE, batch.number, row)) for row in batch.rows.tolist()]
        return frozen | {"hidden": self.model.trunk.draw(batch.num_samples, self.config.hide, rngs=rngs)}

    def metrics(self, terms: dict[str, Tensor], stats: dict[str, Tensor]) -> Metrics:
        """Metrics of the criterion."""
        return self.loss.metrics(terms, stats)

    def summary(self, metrics: Mapping[str, Any]) -> str:
        """Summary of the criterion."""
        return self.loss.summary(metrics)


def _batches(
    model: Head, store: WaveformStore, part: Sequence[Example], *, config: FinetuneConfig, training: bool
) -> LabelledBatches:
    return LabelledBatches(
        store,
        [example.index for example in part],
        config.batches,
        normalized=model.normalized,
        augmentation=config.augment if training else None,
        seed=config.seed,
        shuffle=training,
    )


def _rates(model: Head, config: FinetuneConfig) -> Callable[[str], float]:
    """Factor on the learning rate by parameter: 1 for the head, smaller for the encoder, smallest near its input."""
    if isinstance(model, LogMelClassifier):
        return lambda _: 1.0
    transformer = model.trunk.encoder.config.transformer
    layers, top = transformer.layers, "trunk.encoder.transformer.norm."

    def rate(name: str) -> float:
        name = name.removeprefix("model.")
        if not name.startswith("trunk."):
            return 1.0
        if transformer.pre_norm and name.startswith(top):  # after the last block
            return config.optim.encoder_scale
        block = name.removeprefix("trunk.encoder.transformer.layers.")
        depth = layers - 1 - int(block.split(".")[0]) if block != name else layers
        return config.optim.encoder_scale * config.optim.layer_decay**depth

    return rate


def _saver(
    model: Head,
    store: WaveformStore,
    train: Sequence[Example],
    valid: Sequence[Example],
    *,
    out: Path,
    start: Path | None,
    before: Mapping[str, Any],
    command: str,
    keep_start: float,
) -> Callable[[Any, int, float], None]:
    """Function that writes the model folder; with ``keep_start``, of weights averaged with the initial ones.

    WiSE-FT: Wortsman et al. 2022, "Robust fine-tuning of zero-shot models" (arXiv 2109.01903): the mean of the weights
    before and after fine-tuning is better than either outside the fine-tuning data, such as on other speakers and
    rooms. Of a recogniser that is trained further, ``before`` is the `config.json`.
    """
    earlier: Mapping[str, Any] = before.get("training", {})
    items = [store.utterances[example.index] for example in train]
    used = TrainingAudio(
        fine_tuning=AudioRecord.of(store, (example.index for example in train)),
        selection=AudioRecord.of(store, (example.index for example in valid)),
    )
    audio_record = read_training_audio(start) | used
    begin = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()} if keep_start else {}

    def save(trained: Supervised, step: int, seconds_seen: float) -> None:
        training = {
            "corpus": str(store.folder),
            "content_hash": store.content_hash(),
            "utterances": len(items),
            "minutes": round(sum(item.duration for item in items) / 60, 2),
            "speakers": sorted(
                {item.speaker for item in items if item.speaker is not None} | {*earlier.get("speakers", ())}
            ),
        }
        if isinstance(model, CTCModel):
            training["text_rules"] = TEXT_RULES
            languages = {item.language for item in items if item.language is not None}
            training["languages"] = sorted(languages | {*earlier.get("languages", ())})
        provenance = {
            "speechssl": __version__,
            "torch": torch.__version__,
            "command": command,
            "start": None if start is None else origin_of(start),
            "synthetic": any(bool(item.extras.get("synthetic")) for item in items)
            or bool(before.get("provenance", {}).get("synthetic")),
            "steps": step,
            "seconds_seen": round(seconds_seen, 1),
        }
        saved = trained.model
        if keep_start:
            saved = copy.deepcopy(trained.model).cpu()
            now = saved.state_dict()
            saved.load_state_dict({name: torch.lerp(value, begin[name], keep_start) for name, value in now.items()})
        write_training_audio(out, audio_record)  # before the model: never a model without its record
        save_head(out, saved, extra={"training": training, "provenance": provenance})

    return save


def _origin(train: Sequence[Example], valid: Sequence[Example], *, start: Path | None, model: Head) -> list[str]:
    """Digests that must be equal for a run to resume, besides settings and corpus."""
    symbols = " ".join(model.vocabulary.symbols) if isinstance(model, CTCModel) else ""
    return [_digest(train), _digest(valid), "scratch" if start is None else model_hash(start), symbols]


def _drops_layers(model: Head) -> bool:
    return not isinstance(model, LogMelClassifier) and model.trunk.encoder.config.transformer.layer_drop > 0


def _digest(examples: Sequence[Example]) -> str:
    """Sixteen hexadecimal digits of the utterances and their targets."""
    return digest([[example.index, example.target] for example in examples])
