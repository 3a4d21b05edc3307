"""Reasons with the command that helps: converting what cannot be read, writing a wrong header again."""

import itertools
import math
import os
import shlex
from pathlib import Path

from speechssl.audio.errors import printable
from speechssl.audio.riff import Excess
from speechssl.audio.units import SAMPLE_RATE

_LONGEST_WAV = 0xFFFFFFFF  # bytes; a longer one has a header of another kind


def foreign_reason(path: str | Path, name: str) -> str:
    """Of a container that libsndfile cannot read."""
    return f"{name} cannot be read; convert it: {ffmpeg(path, f'-ac 1 -ar {SAMPLE_RATE}', '.wav')}"


def excess_reason(path: str | Path, excess: Excess) -> str:
    """Of an uncompressed file that holds more than its header counts."""
    if excess.joined:
        return joined_reason(path, excess.counted, excess.held)
    figures = f"the header counts {_time(excess.counted)} of samples, the file holds {_time(excess.held)}"
    options = "-c copy -rf64 auto" if Path(path).stat().st_size >= _LONGEST_WAV else "-c copy"
    wav = ffmpeg(path, options, ".wav", before="-ignore_length 1 ", word="fixed")
    helps = wav if _is_riff(path) else "with the program that recorded it, or from its source"
    return f"{figures}; write the header again: {helps}"


def joined_reason(path: str | Path, counted: float, held: float, *, convert: bool = False) -> str:
    """Of several recordings in one file, of which the first alone would be read.

    Args:
        path: the file.
        counted: length of the first, s.
        held: length of all, s.
        convert: whether ffmpeg reads them all.
    """
    helps = "keep them as files of their own, or join them with sox"
    if convert:
        helps = f"convert it: {ffmpeg(path, f'-ac 1 -ar {SAMPLE_RATE}', '.wav')}"
    return f"several recordings in one file: the first holds {_time(counted)}, all of them {_time(held)}; {helps}"


def ffmpeg(path: str | Path, options: str, suffix: str, *, before: str = "", word: str = "converted") -> str:
    """The command that converts a file, to be run in its folder; its output is a file that is not there yet.

    >>> ffmpeg("there/memo.wav", "-ac 1", ".wav")
    'ffmpeg -i memo.wav -ac 1 memo.converted.wav'
    """
    source = Path(path)
    return f"ffmpeg {before}-i {_quoted(source.name)} {options} {_quoted(_free_name(source, suffix, word))}"


def _free_name(source: Path, suffix: str, word: str) -> str:
    numbered = (f"{source.stem}.{word}-{number}{suffix}" for number in itertools.count(2))
    for name in itertools.chain((source.stem + suffix, f"{source.stem}.{word}{suffix}"), numbered):
        if name.casefold() != source.name.casefold() and not os.path.lexists(source.with_name(name)):
            return name
    raise AssertionError


def _quoted(name: str) -> str:
    name = printable(name)
    return shlex.quote(f"./{name}" if name.startswith("-") else name)


def _is_riff(path: str | Path) -> bool:
    with Path(path).open("rb") as file:
        return file.read(4) in (b"RIFF", b"RIFX", b"RF64", b"BW64")


def _time(seconds: float) -> str:
    return "an unknown time" if math.isnan(seconds) else f"{seconds:.3f} s"
