"""Heads and encoders that other programs do not support, determined from settings before a model is trained.

The exporters refuse a model with these reasons, and fine-tuning prints them before its first step.
"""

from typing import Literal

from speechssl.interop import huggingface, torchaudio
from speechssl.models.classifier import ClassifierConfig
from speechssl.models.ctc import CTCConfig
from speechssl.models.encoder import EncoderConfig

Program = Literal["transformers", "torchaudio"]
PROGRAMS: tuple[Program, ...] = ("transformers", "torchaudio")

HeadConfig = CTCConfig | ClassifierConfig


def head_reason(program: Program, head: HeadConfig) -> str | None:
    """Reason why a program does not support a head, with an alternative; None where it does.

    >>> head_reason("transformers", ClassifierConfig(pooling="mean")) is None
    True
    """
    if isinstance(head, CTCConfig) and head.units == "phones":
        return f"ctc.units='phones': {program} would write each phone as a letter; fine-tune with ctc.units=characters"
    if program == "torchaudio":
        if isinstance(head, CTCConfig) and head.layers == "last" and not head.conv_layers:
            return None
        what = _setting(head) if isinstance(head, CTCConfig) else "a classifier"
        way = "; fine-tune with --for torchaudio" if isinstance(head, CTCConfig) else ""
        return f"{what} cannot be expressed in torchaudio, whose only head is a linear layer on the last layer{way}"
    if isinstance(head, CTCConfig) and (head.layers != "last" or head.conv_layers):
        return (
            f"{_setting(head)}: transformers' models for CTC are a linear layer on the last layer; fine-tune with "
            "--for transformers (it sets ctc.layers=last and ctc.conv_layers=0)"
        )
    if isinstance(head, ClassifierConfig) and head.pooling != "mean":
        return (
            f"classifier.pooling={head.pooling!r}, transformers' classifiers support only the mean over frames; "
            "fine-tune with --for transformers (it sets classifier.pooling=mean)"
        )
    return None


def _setting(head: CTCConfig) -> str:
    """The setting of a CTC head that other programs lack."""
    return f"ctc.layers={head.layers!r}" if head.layers != "last" else f"ctc.conv_layers={head.conv_layers}"


def encoder_reason(program: Program, encoder: EncoderConfig) -> str | None:
    """Reason why a program does not support an encoder; None where it does."""
    try:
        if program == "transformers":
            huggingface.export_config(encoder)
        elif encoder.transformer.relative_buckets or encoder.transformer.position_stack or not encoder.feature_norm:
            return "not a wav2vec 2.0 encoder, and torchaudio.models.wav2vec2_model builds no other"
        else:
            torchaudio.export_config(encoder)
    except ValueError as error:
        return str(error)
    return None


def reasons(encoder: EncoderConfig | None, head: HeadConfig | None) -> dict[Program, str]:
    """Reasons of the programs that do not support a model.

    Args:
        encoder: None for a model without one (the log-mel CNN).
        head: None for a model without one of these kinds.

    >>> from speechssl.models.encoder import PRESETS
    >>> sorted(reasons(PRESETS["base"], CTCConfig())), reasons(PRESETS["base"], CTCConfig(layers="last"))
    (['torchaudio', 'transformers'], {})
    """
    found: dict[Program, str] = {}
    for program in PROGRAMS:
        if encoder is None or head is None:
            reason = "a network without an encoder; only models on an encoder are exported"
        else:
            reason = encoder_reason(program, encoder) or head_reason(program, head)
        if reason is not None:
            found[program] = reason
    return found
