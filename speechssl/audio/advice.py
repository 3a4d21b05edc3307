"""Reasons with a command that repairs the file: a conversion, or writing a wrong header again."""

import itertools
import os
import shlex
from pathlib import Path

from speechssl.audio.behind import Behind, Recording, recording_at
from speechssl.audio.counted import FROM_SOURCE, Excess, Finding, Inside, Several, Surplus, Unsized
from speechssl.audio.errors import printable
from speechssl.audio.flac import FlacFrames, Gap
from speechssl.audio.likeness import SAMPLES, UNKNOWN
from speechssl.audio.riff import is_wav

_LONGEST_WAV = 0xFFFFFFFF  # bytes; a longer one has a header of another kind


def foreign_reason(path: str | Path, name: str) -> str:
    """Reason for a container that libsndfile cannot read."""
    return f"{name} cannot be read; convert it: {to_wav(path)}"


def length_reason(path: str | Path, found: Finding) -> str | None:
    """Reason for an uncompressed file whose header and content were compared; None when it can be used."""
    if isinstance(found, Excess):
        return _excess_reason(path, found)
    if isinstance(found, Unsized):
        if found.repeated:
            return "its header is there twice, without a length, as sox writes to a pipe; write it to a file instead"
        return f"the header leaves out the length (written to a pipe); convert it: {to_wav(path)}"
    if isinstance(found, Several):
        figures = f"{found.count} blocks of sound, the first holds {found.seconds:.3f} s"
        if found.alike:
            return f"{figures}; convert it: {to_wav(path)}"
        return f"{figures}, some are silence or have another rate; convert it {FROM_SOURCE}"
    if isinstance(found, Surplus):
        tags = f"tags or chunks behind the samples (byte {found.end}) would be read as samples"
        return f"{tags}; cut them off: {head(path, found.end)}" if found.num_samples is None else None
    return _inside_reason(path, found) if isinstance(found, Inside) else found


def _inside_reason(path: str | Path, found: Inside) -> str:
    """Reason for a file with another recording where its samples should be."""
    second, samples = found.recording, found.samples
    source, rest = Path(path), f"tail -c +{second.at + 1}"
    if second.at == samples.start:
        size = "" if found.end == source.stat().st_size else f" | head -c {found.end - second.at}"
        out = f"{rest} {_quoted(source.name)}{size} > {_quoted(_free_name(source, second.suffix, 'inside'))}"
        what = f"another file ({second.name}) starts at byte {second.at}"
        return f"the header announces raw samples, but {what}; extract it: {out}"
    counted, held = (f"{samples.seconds(end - samples.start):.3f} s" for end in (second.at, found.end))
    if not _is_wav(path):
        return joined_reason(path, counted, second, whole=held, helps=f"split it, {FROM_SOURCE}")
    first = f"ffmpeg -ignore_length 1 -f wav -i - -c copy {_quoted(_free_name(source, '.wav', 'first'))}"
    out = f"{rest} {_quoted(source.name)} > {_quoted(_free_name(source, second.suffix, 'second'))}"
    helps = f"split it: head -c {second.at} {_quoted(source.name)} | {first} && {out}"
    return joined_reason(path, counted, second, whole=held, helps=helps)


def _excess_reason(path: str | Path, found: Excess) -> str:
    """Reason for a file that holds more than its header counts."""
    counted, held = (_amount(found, length) for length in (found.counted, found.held))
    if found.behind.recording is not None:
        at_rate = " at its rate" if found.samples.rate else ""
        same = found.behind.recording.suffix == _suffix(path)
        end = found.behind.start if found.streamed else None
        return joined_reason(path, counted, found.behind.recording, end=end, whole=held + at_rate if same else "")
    cut = f"cut it off: {head(path, found.behind.start)}"
    if found.likeness not in (SAMPLES, UNKNOWN):
        count = found.behind.end - found.behind.start
        by = "" if found.streamed else " that the header counts"
        return f"{count} bytes of {found.likeness} behind the {counted} of samples{by}; {cut}"
    figures = f"the header counts {counted} of samples, the file holds {held}"
    again = f"write the header again: {_again(path, found)}"
    if found.likeness == SAMPLES or found.chunk:
        return f"{figures}; {again}"
    return f"{figures}; if the rest is no sound, {cut}; if it is, {again}"


def _again(path: str | Path, found: Excess) -> str:
    """Command that writes a header which counts all samples."""
    if not found.behind.padded or found.chunk or not _is_wav(path):  # ffmpeg would play tags and headers of chunks
        return FROM_SOURCE
    size, end = Path(path).stat().st_size, found.behind.end
    options = "-c copy -rf64 auto" if size >= _LONGEST_WAV else "-c copy"
    if end == size:
        return ffmpeg(path, options, ".wav", before="-ignore_length 1 ", word="fixed")
    name, fixed = _quoted(Path(path).name), _quoted(_free_name(Path(path), ".wav", "fixed"))
    return f"head -c {end} {name} | ffmpeg -ignore_length 1 -f wav -i - {options} {fixed}"


def _amount(found: Excess, length: int) -> str:
    """A number of bytes of samples, in seconds where the rate is known."""
    return f"{found.samples.seconds(length):.3f} s" if found.samples.rate else f"{length} bytes"


def joined_reason(
    path: str | Path, counted: str, second: Recording, *, end: int | None = None, whole: str = "", helps: str = ""
) -> str:
    """Reason for several recordings in one file, of which only the first would be read.

    Args:
        path: the file.
        counted: length of the first, with its unit.
        second: where the second starts.
        end: where the first ends, bytes; None for where the second starts, with the tags between.
        whole: length of all, where it is known.
        helps: the remedy; empty: split the file where the second starts.
    """
    figures = f"the first holds {counted}" + (f", all of them {whole}" if whole else "")
    kind, helps = f" ({second.name})" if second.name else "", helps or f"split it: {split(path, second, end=end)}"
    return f"several recordings in one file: {figures}, the second{kind} starts at byte {second.at}; {helps}"


def unknown_reason(path: str | Path, counted: str, found: Behind) -> str:
    """Reason for a file with many bytes of no known kind behind its end."""
    count = found.end - found.start
    return (
        f"{count} bytes of no known kind behind the end at {counted} (byte {found.start}); "
        f"if they are no recording, cut them off: {head(path, found.start)}"
    )


def flac_reason(path: str | Path, num_samples: int, rate: int, frames: FlacFrames) -> str | None:
    """Reason for a FLAC file whose frames were compared with the length in its header; None when it can be used."""
    counted = f"{num_samples / rate:.3f} s"
    if frames.joined is not None:
        return joined_reason(path, counted, frames.joined)
    if frames.gap is not None:
        return _gap_reason(rate, frames.gap)
    if frames.beyond is not None:
        reach = f"the frames reach to {frames.beyond / rate:.3f} s"
        return f"the header counts {counted}, {reach}; write the header again: {flac_again(path)}"
    if frames.behind is not None:
        count = frames.behind.end - frames.behind.start
        return (
            f"about {count} bytes of no known kind behind the last frame, which ends at {counted}; "
            f"if they are no recording, write the file again: {flac_again(path)}"
        )
    return None


def no_length_reason(path: str | Path, rate: int, frames: FlacFrames) -> str:
    """Reason for a FLAC file that was written to a pipe."""
    if frames.joined is not None:
        return joined_reason(path, "an unknown time", frames.joined)
    if frames.gap is not None:
        return _gap_reason(rate, frames.gap)
    reach = "" if frames.beyond is None else f", the frames reach to {frames.beyond / rate:.3f} s"
    if frames.cut:
        words = "truncated: the file ends in the middle of a frame, and the header leaves out the length"
        return f"{words} (written to a pipe){reach}; get the file again, or write what is whole: {flac_again(path)}"
    return f"the header leaves out the length (written to a pipe){reach}; write it again: {flac_again(path)}"


def _gap_reason(rate: int, gap: Gap) -> str:
    expected, found = gap.expected / rate, gap.found / rate
    return (
        f"damaged: FLAC frames are missing, repeated or out of order: behind those up to {expected:.3f} s comes "
        f"(byte {gap.at}) the one that starts at {found:.3f} s; get the file again from its source"
    )


def flac_again(path: str | Path) -> str:
    """Command that decodes a FLAC file and encodes it again."""
    return ffmpeg(path, "-c:a flac", ".flac", word="fixed")


def split(path: str | Path, second: Recording, *, end: int | None = None) -> str:
    """Commands that split a file in two."""
    source, at = Path(path), second.at
    rest = f"tail -c +{at + 1} {_quoted(source.name)} > {_quoted(_free_name(source, second.suffix, 'second'))}"
    return f"{head(path, at if end is None else end, word='first')} && {rest}"


def head(path: str | Path, end: int, *, word: str = "fixed") -> str:
    """Command that copies the first bytes of a file."""
    source = Path(path)
    return f"head -c {end} {_quoted(source.name)} > {_quoted(_free_name(source, source.suffix, word))}"


def to_wav(path: str | Path) -> str:
    """Command that converts a file with all its channels: a mean over inverted ones would leave no speech."""
    return ffmpeg(path, "", ".wav")


def ffmpeg(path: str | Path, options: str, suffix: str, *, before: str = "", word: str = "converted") -> str:
    """Command that converts a file, to be run in its folder; its output does not exist yet.

    >>> ffmpeg("there/memo.wav", "-ac 1", ".wav")
    'ffmpeg -i memo.wav -ac 1 memo.converted.wav'
    """
    source = Path(path)
    options = f"{options} " if options else ""
    return f"ffmpeg {before}-i {_quoted(source.name)} {options}{_quoted(_free_name(source, suffix, word))}"


def _free_name(source: Path, suffix: str, word: str) -> str:
    numbered = (f"{source.stem}.{word}-{number}{suffix}" for number in itertools.count(2))
    for name in itertools.chain((source.stem + suffix, f"{source.stem}.{word}{suffix}"), numbered):
        if name.casefold() != source.name.casefold() and not os.path.lexists(source.with_name(name)):
            return name
    raise AssertionError


def _quoted(name: str) -> str:
    name = printable(name)
    return shlex.quote(f"./{name}" if name.startswith("-") or ":" in name else name)  # "http:x" is an address there


def _is_wav(path: str | Path) -> bool:
    with Path(path).open("rb") as file:
        return is_wav(file.read(12))


def _suffix(path: str | Path) -> str:
    """The suffix of the container by its content."""
    with Path(path).open("rb") as file:
        own = recording_at(file, 0)
    return own.suffix if own else Path(path).suffix.lower()
