"""What the positional arguments of `extract` mean: `SOURCE` alone, or `MODEL SOURCE`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from speechssl.audio import AUDIO_SUFFIXES
from speechssl.config import UserError
from speechssl.interop.sources import is_model


@dataclass(frozen=True)
class Arguments:
    """The model, None for the bundled one, and the source."""

    model: str | None
    source: str


def read_arguments(names: Sequence[str], *, model: str | None = None) -> Arguments:
    """Tell the model from the source; nothing is guessed by order alone where a name can only be the other.

    Args:
        names: the positional arguments.
        model: the value of `--model`, which leaves only the source for them.

    Raises:
        UserError: a model without a source, a sound file where the model stands, or more names than these two.

    >>> read_arguments(["recordings"])
    Arguments(model=None, source='recordings')
    >>> read_arguments(["runs/mine", "recordings"])
    Arguments(model='runs/mine', source='recordings')
    >>> read_arguments(["a.wav", "b.wav"])
    Traceback (most recent call last):
    speechssl.config.UserError: a.wav: a sound file where the model is expected; extract takes one source, ...
    """
    several = "extract takes one source, and before it a model if any: several recordings are a folder, a manifest, a "
    several += "quoted glob ('*.wav'), or a list on standard input (-)"
    if model is not None:
        if len(names) > 1:
            raise UserError(f"--model {model}, and {len(names)} names: {' '.join(names[:3])}; {several}")
        return Arguments(model, names[0])
    if len(names) > 1 and Path(names[0]).suffix.lower() in AUDIO_SUFFIXES and not Path(names[0]).is_dir():
        raise UserError(f"{names[0]}: a sound file where the model is expected; {several}")
    if len(names) > 2:
        raise UserError(f"{len(names)} names, {' '.join(names[:3])} …; {several}")
    if len(names) == 2:
        return Arguments(names[0], names[1])
    if is_model(names[0]):
        raise UserError(
            f"{names[0]}: a model, and no source is named; what to embed comes after it: "
            f"speechssl extract {names[0]} SOURCE (recordings in this folder: --model bundled {names[0]})"
        )
    return Arguments(None, names[0])
