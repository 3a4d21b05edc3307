"""Fine-tuning with few labels: from a prepared corpus and labelled utterances to a model folder with a head.

The loop is that of pretraining. Specific to fine-tuning (wav2vec 2.0, arXiv 2006.11477, section 4.2 and appendix B;
fairseq's ``base_10m`` to ``base_100h``): convolutions are frozen, the whole encoder is frozen for the first part of the
run, the rate has three stages, and frames and channels are masked at random. Specific to a few labels per class: the
head is initialised as the logistic probe on the frozen encoder (arXiv 2202.10054).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from speechssl.config import UserError, digest
from speechssl.data.labelled import Example, LabelledBatches
from speechssl.data.waveforms import WaveformStore
from speechssl.decoding.phones import PhoneVocabulary
from speechssl.distributed import hold_run, process_group
from speechssl.models.classifier import Classifier, LogMelClassifier
from speechssl.models.ctc import CTCModel
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.heads import Head
from speechssl.models.storage import HEAD, load_encoder, model_hash, read_model_config, read_tensors
from speechssl.nn.memory import keep_freed_memory
from speechssl.objectives.base import Metrics
from speechssl.text import Vocabulary
from speechssl.train.claim import ANY_DEVICES, claim
from speechssl.train.criteria import criterion_of
from speechssl.train.ctc_terms import CTCTermsConfig
from speechssl.train.fine_tuned import model_saver
from speechssl.train.finetune_config import FinetuneConfig
from speechssl.train.health import HealthConfig, HealthMonitor
from speechssl.train.labelled_checks import refuse_shared, refuse_unwritable, usable_examples
from speechssl.train.loop import fit
from speechssl.train.metrics_file import write_curves
from speechssl.train.probe_start import start_as_probe
from speechssl.train.supervised import Supervised
from speechssl.train.trainer import Batches, Training

_NOTHING = "nothing to train on: no labelled utterance that can be used"


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
        _reset_blocks(encoder, config.reset_blocks)
        encoder.transformer.recompute = config.loop.recompute
        if config.kind == "ctc":
            vocabulary = vocabulary if continued else _vocabulary(config, vocabulary, train)
            assert vocabulary is not None
            refuse_unwritable(store, [*train, *valid], vocabulary)
        train, valid, left_out = usable_examples(
            store, train, valid, config=config, encoder=encoder, vocabulary=vocabulary
        )
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
        save = model_saver(
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
        loss = criterion_of(
            model,
            train,
            valid,
            class_weights=config.class_weights,
            steps=config.loop.steps,
            terms=config.ctc_terms,
        )
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


def _refuse_settings(config: FinetuneConfig, *, out: Path, start: Path | None) -> None:
    if config.network == "logmel-cnn" and (config.kind == "ctc" or start is not None):
        raise UserError("network=logmel-cnn: a classifier that is trained from scratch, not from a model")
    if config.network == "logmel-cnn" and config.loop.recompute:
        raise UserError(
            "loop.recompute=true: network=logmel-cnn has no Transformer blocks to compute again; leave it off"
        )
    if config.kind != "ctc" and config.ctc_terms != CTCTermsConfig():
        raise UserError("ctc_terms: additions to the CTC loss, which a classifier does not have; leave them out")
    if config.reset_blocks and start is None:
        raise UserError(f"reset_blocks={config.reset_blocks}: without a start all weights are random; leave it out")
    if config.loop.compile:
        raise UserError("loop.compile: fine-tuning's batches have many lengths, each compiled separately; leave it off")
    if start is not None and out.resolve() == start.resolve():
        raise UserError(f"{out}: is the model to start from; choose another folder for the fine-tuned one")


def _reset_blocks(encoder: SpeechEncoder, count: int) -> None:
    """Random weights in the top blocks of the Transformer, which pretraining made for its own targets.

    Pasad et al. 2021, "Layer-wise Analysis of a Self-supervised Speech Representation Model" (arXiv 2107.04734),
    section 5.
    """
    if count > len(encoder.transformer.layers):
        raise UserError(f"reset_blocks={count}: the encoder has {len(encoder.transformer.layers)} blocks")
    if count:
        fresh = SpeechEncoder(encoder.config).transformer.layers
        for block, new in zip(encoder.transformer.layers[-count:], fresh[-count:], strict=True):
            block.load_state_dict(new.state_dict())


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


def _origin(train: Sequence[Example], valid: Sequence[Example], *, start: Path | None, model: Head) -> list[str]:
    """Digests that must be equal for a run to resume, besides settings and corpus."""
    symbols = " ".join(model.vocabulary.symbols) if isinstance(model, CTCModel) else ""
    return [_digest(train), _digest(valid), "scratch" if start is None else model_hash(start), symbols]


def _drops_layers(model: Head) -> bool:
    return not isinstance(model, LogMelClassifier) and model.trunk.encoder.config.transformer.layer_drop > 0


def _digest(examples: Sequence[Example]) -> str:
    """Sixteen hexadecimal digits of the utterances and their targets."""
    return digest([[example.index, example.target] for example in examples])
