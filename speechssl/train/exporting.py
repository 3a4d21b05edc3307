"""Export targets of a fine-tuned model, checked before training: obstacles, and settings that avoid them."""

from pathlib import Path

from speechssl.audio import RECEPTIVE_FIELD
from speechssl.config import UserError
from speechssl.interop.exportable import Program, reasons
from speechssl.models.encoder import EncoderConfig
from speechssl.models.storage import read_encoder_config
from speechssl.nn.conv import ConvConfig
from speechssl.train.finetune_config import FinetuneConfig


def settings_for(program: Program | None, settings: FinetuneConfig) -> FinetuneConfig:
    """Settings with a head that a program supports and, for a model from scratch, such an encoder.

    Args:
        program: target of the export; None changes nothing.
        settings: settings of the run, with the encoder that is trained from scratch.

    Raises:
        UserError: a program without such models.

    >>> settings_for("transformers", FinetuneConfig()).classifier.pooling
    'mean'
    """
    if program is None:
        return settings
    if program == "torchaudio" and settings.kind != "ctc":
        raise UserError("--for torchaudio: it has no classifiers; train with --learn text, or --for transformers")
    return settings.model_copy(
        update={
            "ctc": settings.ctc.model_copy(update={"layers": "last", "conv_layers": 0}),
            "classifier": settings.classifier.model_copy(update={"pooling": "mean"}),
            "encoder": settings.encoder.model_copy(update={"conv": _without_gabor(settings.encoder.conv)}),
        }
    )


def export_notes(program: Program | None, settings: FinetuneConfig, *, start: Path | None) -> list[str]:
    """One sentence per program that the model of a run cannot be exported to.

    Args:
        program: target of the export, if any.
        settings: settings of the run.
        start: the model folder whose encoder is fine-tuned; None: ``settings.encoder``.

    Raises:
        UserError: the model could not be exported to ``program``.
    """
    found = _reasons(settings, start=start)
    if program is not None and program in found:
        where = "" if start is None else f"{start}: "
        raise UserError(f"--for {program}: {where}{found[program]}; without --for the model can be exported to ONNX")
    return [f"this model cannot be exported to {name}: {why}" for name, why in found.items()]


def _reasons(settings: FinetuneConfig, *, start: Path | None) -> dict[Program, str]:
    if settings.network != "encoder":
        return reasons(None, None)
    encoder: EncoderConfig = settings.encoder if start is None else read_encoder_config(start)
    return reasons(encoder, settings.ctc if settings.kind == "ctc" else settings.classifier)


def _without_gabor(conv: ConvConfig) -> ConvConfig:
    """Plain convolutions of the same channels that need no padding: the first kernel is shorter."""
    if conv.front == "conv" and not conv.padding:
        return conv
    (channels, kernel, stride), *rest = conv.layers
    shorter = kernel - max(0, conv.receptive_field - RECEPTIVE_FIELD)
    layers = ((channels, max(shorter, stride), stride), *rest)
    return ConvConfig.model_validate(conv.model_dump() | {"front": "conv", "layers": layers})
