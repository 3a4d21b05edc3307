"""eSpeak NG through ctypes: a sentence to int16 samples, deterministic.

The library comes with the `espeakng-loader` wheel (eSpeak NG 1.52, GPL-3.0-or-later). It keeps state in C globals that
survive `espeak_Initialize` (phase of the flutter, echo buffer, noise seed), so an utterance would depend on the ones
before it. Closing the shared object and opening it again gives fresh globals and takes about 5 ms; `synthesize`
does so at each call. The library is not thread-safe: use one process per worker.
"""

import _ctypes
import ctypes
import dataclasses
import functools
import sys
from pathlib import Path

import numpy as np
from jaxtyping import Int16

from speechssl.config import UserError

# speak_lib.h
_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: samples arrive in the callback before espeak_Synth returns
_DONT_EXIT = 0x8000  # espeakINITIALIZE_DONT_EXIT: an error is a return value, not exit(1)
_CHARS_UTF8 = 1
_RATE, _PITCH, _RANGE = 1, 3, 4  # espeakRATE, espeakPITCH, espeakRANGE
_SEED = 1  # the breath and flutter noise of every utterance starts here
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


@dataclasses.dataclass(frozen=True)
class Synthesis:
    """Output of the synthesiser.

    Attributes:
        samples: the speech, leading and trailing digital silence removed.
        rate: samples per second (22050 with eSpeak NG).
    """

    samples: Int16[np.ndarray, " samples"]
    rate: int


def synthesize(
    text: str, voice: str, *, words_per_minute: int = 175, pitch: int = 50, pitch_range: int = 50
) -> Synthesis:
    """Synthesises one sentence. A pure function of its arguments.

    Args:
        text: the sentence, with the punctuation that shapes its melody.
        voice: file name of a language and of a variant, such as "en-US+f3".
        words_per_minute: 80 to 450.
        pitch: 0 to 99; 50 is the voice's own, about 70 steps are an octave (measured over five voices).
        pitch_range: 0 to 99; 0 is a monotone, 50 the voice's own.

    Returns:
        The speech at the synthesiser's own rate.

    Raises:
        UserError: the library cannot be loaded here, or it does not have the voice.
        ValueError: a number out of range.

    >>> speech = synthesize("Hello there.", "en-US+f3")
    >>> speech.rate, 0.3 < speech.samples.size / speech.rate < 1.5
    (22050, True)
    """
    for name, value, low, high in (
        ("words_per_minute", words_per_minute, 80, 450),
        ("pitch", pitch, 0, 99),
        ("pitch_range", pitch_range, 0, 99),
    ):
        if not low <= value <= high:
            raise ValueError(f"{name}: given {value}, allowed: {low} to {high}")
    library = _open()
    try:
        return _speak(library, text, voice, {_RATE: words_per_minute, _PITCH: pitch, _RANGE: pitch_range})
    finally:
        library.espeak_Terminate()
        _close(library)


def _speak(library: ctypes.CDLL, text: str, voice: str, parameters: dict[int, int]) -> Synthesis:
    rate: int = library.espeak_Initialize(_SYNCHRONOUS, 0, str(_paths()[1].parent).encode(), _DONT_EXIT)
    if rate <= 0:
        raise UserError(f"espeak-ng could not read its data in {_paths()[1]}; reinstall espeakng-loader")
    chunks: list[bytes] = []

    def receive(samples: int | None, count: int, events: int | None) -> int:
        del events
        if samples and count > 0:
            chunks.append(ctypes.string_at(samples, 2 * count))
        return 0

    callback = _CALLBACK(receive)  # kept in a name: the library holds no reference
    library.espeak_SetSynthCallback(callback)
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        raise UserError(f"espeak-ng has no voice {voice!r}; voices are named like 'en-US+f3'")
    library.espeak_ng_SetRandSeed(_SEED)
    for parameter, value in parameters.items():
        library.espeak_SetParameter(parameter, value, 0)
    encoded = text.encode()
    status: int = library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, _CHARS_UTF8, None, None)
    if status != 0:
        raise RuntimeError(f"espeak_Synth failed with status {status} on {text!r}")
    samples = np.frombuffer(b"".join(chunks), dtype=np.int16)
    loud = np.flatnonzero(samples)
    return Synthesis(samples=samples[loud[0] : loud[-1] + 1] if loud.size else samples[:0], rate=rate)


@functools.cache
def _paths() -> tuple[Path, Path]:
    """The shared object and its data folder, from the wheel."""
    try:
        import espeakng_loader
    except ImportError:
        raise UserError("the embedded corpus needs the package espeakng-loader; pip install espeakng-loader") from None
    return Path(espeakng_loader.get_library_path()), Path(espeakng_loader.get_data_path())


def _open() -> ctypes.CDLL:
    path = _paths()[0]
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise UserError(f"espeak-ng cannot be loaded here: {error}") from None
    library.espeak_Initialize.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
    library.espeak_SetVoiceByName.argtypes = [ctypes.c_char_p]
    library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
    library.espeak_Synth.argtypes = [
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_uint,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.c_uint,
        ctypes.c_void_p,
        ctypes.c_void_p,
    ]
    return library


def _close(library: ctypes.CDLL) -> None:
    if sys.platform == "win32":
        _ctypes.FreeLibrary(library._handle)
    else:
        _ctypes.dlclose(library._handle)
