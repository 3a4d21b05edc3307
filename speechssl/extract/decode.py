"""Decoding threads ahead of the encoder: clips in the order of the plan, and no more of them than memory allows.

Threads take the clips in order (see `machine.ordered`); decoded audio that is not yet encoded stays below a budget. The
clip that the encoder waits for is always decoded, so that the budget may be exceeded by one part (see `encode`) and
there is no deadlock. A clip longer than a window is read once, for its levels, and is not kept: the encoder decodes it
again, block by block.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from speechssl.audio import SAMPLE_RATE, AudioError, Levels, open_stretch, samples_to_seconds, with_channel
from speechssl.data.members import local_file
from speechssl.data.places import is_address
from speechssl.data.remote import fetched
from speechssl.extract.machine.ordered import InOrder
from speechssl.extract.machine.resources import PART_SECONDS
from speechssl.extract.plan import Item
from speechssl.inference.windows import LongClip, Waveform, scan

PART_CLIPS = 1024
AHEAD = 1024  # clips that are decoded and not yet taken, at most
_SAMPLE = 4  # bytes


@dataclass(frozen=True)
class Decoded:
    """A clip in memory; `file_seconds` is the duration of its file, `notes` are doubts about its audio."""

    item: Item
    waveform: Float32[np.ndarray, " samples"]
    file_seconds: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Its length."""
        return samples_to_seconds(len(self.waveform))


@dataclass(frozen=True)
class Streamed:
    """A clip that is read again while it is encoded; `close` removes its local copy, the rest is as in `Decoded`."""

    item: Item
    clip: LongClip
    close: Callable[[], None]
    file_seconds: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Its length."""
        return samples_to_seconds(self.clip.num_samples)


@dataclass(frozen=True)
class Failed:
    """A clip that cannot be used, and the reason in one line."""

    item: Item
    reason: str


DecodeResult = Decoded | Streamed | Failed


class Decoding(InOrder[Item, DecodeResult]):
    """Clips of a plan, decoded by threads (see `running`), in order.

    Args:
        items: the plan; read by the threads, one item at a time.
        budget: bytes of decoded audio that may wait.
        long_samples: a clip with more samples (at 16 kHz) is streamed.
        spool: a folder for local copies of files behind addresses.

    >>> import tempfile, soundfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     soundfile.write(folder + "/a.wav", np.sin(np.arange(16000)), 16000)
    ...     items = [Item("a", folder + "/a.wav", 0.0, 0.0), Item("b", folder + "/b.wav", 0.0, 0.0)]
    ...     clips = Decoding(iter(items), budget=1 << 20, long_samples=960000, spool=Path(folder))
    ...     with clips.running([clips.decode] * 2, name="decode"):
    ...         [clip.seconds if isinstance(clip, Decoded) else clip.reason for clip in clips]
    [1.0, 'no such file']
    """

    def __init__(self, items: Iterator[Item], *, budget: int, long_samples: int, spool: Path):
        super().__init__(items, ahead=AHEAD, budget=budget)  # bytes of samples
        self._long_samples, self._spool = long_samples, spool

    def free(self, clip: DecodeResult) -> None:
        """Gives back the memory of a clip."""
        if isinstance(clip, Decoded):
            self.release(len(clip.waveform) * _SAMPLE)
        elif isinstance(clip, Streamed):
            clip.close()

    def decode(self, index: int, item: Item) -> DecodeResult:
        """Decodes a clip, in a thread."""
        if item.fault:
            return Failed(item, item.fault)
        stack = ExitStack()
        try:
            opened = fetched if is_address(item.location) else local_file
            path = str(stack.enter_context(opened(item.location, self._spool)))
            clip = with_channel(lambda channel: self._read(index, item, path, channel, close=stack.close))
        except AudioError as error:
            clip = Failed(item, error.reason)
        except Exception as error:  # noqa: BLE001 -- one clip must not end the run, for any error of a decoder
            words = " ".join(str(error).split())
            clip = Failed(item, f"decoding fails ({type(error).__name__}: {words})")
        if not isinstance(clip, Streamed):
            stack.close()
        return clip

    def _read(
        self, index: int, item: Item, path: str, channel: int | None, *, close: Callable[[], None]
    ) -> Decoded | Streamed:
        with open_stretch(path, item.offset, duration=item.duration or None, channel=channel) as stretch:
            whole, notes = stretch.info.duration, tuple(stretch.notes)
            if stretch.num_samples <= self._long_samples:
                # The samples at their own rate and the result are in memory together for a moment.
                size = stretch.num_samples * _SAMPLE
                native = round(size * stretch.info.rate / SAMPLE_RATE)
                self.reserve(size + native, index=index)
                got = 0
                try:
                    waveform = np.ascontiguousarray(stretch.read(), dtype=np.float32)
                    found = Levels([waveform]).check(path)
                    got = len(waveform) * _SAMPLE
                finally:
                    self.release(size + native - got)
                return Decoded(item, waveform, whole, (*notes, *found))

        clip = scan(lambda: _blocks(item, path, channel), path)
        again = _unchanged(lambda: _blocks(item, path, channel), clip.num_samples, path)
        return Streamed(item, replace(clip, blocks=lambda: ahead(again)), close, whole, (*notes, *clip.notes))


def _blocks(item: Item, path: str, channel: int | None) -> Iterator[Waveform]:
    with open_stretch(path, item.offset, duration=item.duration or None, channel=channel) as stretch:
        yield from stretch.blocks()


def _unchanged(
    blocks: Callable[[], Iterator[Waveform]], num_samples: int, path: str
) -> Callable[[], Iterator[Waveform]]:
    """The same blocks; an error where the file has changed or can no longer be read."""

    def read() -> Iterator[Waveform]:
        count = 0
        try:
            for block in blocks():
                count += len(block)
                yield block
        except AudioError:
            raise
        except Exception as error:  # whatever a decoder raises becomes the reason of this clip
            words = " ".join(str(error).split())
            raise AudioError(path, f"decoding fails ({type(error).__name__}: {words})") from error
        if count != num_samples:
            raise AudioError(path, f"changed while it was read ({num_samples} samples, then {count})")

    return read


def ahead(blocks: Callable[[], Iterator[Waveform]]) -> Iterator[Waveform]:
    """The same blocks, read by a thread that is up to two of them ahead."""
    order: InOrder[Waveform, Waveform] = InOrder(blocks(), ahead=2)
    with order.running([lambda _, block: block], name="read-ahead"):
        yield from order


def parts_of(
    clips: Iterable[DecodeResult], *, most_seconds: float | None = None, most_clips: int | None = None
) -> Iterator[list[DecodeResult]]:
    """Parts of the plan: runs of clips that are encoded and written together.

    Args:
        clips: in the order of the plan.
        most_seconds: audio that ends a part; None: PART_SECONDS.
        most_clips: or so many clips; None: PART_CLIPS.
    """
    most_seconds = PART_SECONDS if most_seconds is None else most_seconds
    most_clips = PART_CLIPS if most_clips is None else most_clips
    part: list[DecodeResult] = []
    seconds = 0.0
    for clip in clips:
        part.append(clip)
        seconds += 0.0 if isinstance(clip, Failed) else clip.seconds
        if seconds >= most_seconds or len(part) >= most_clips:
            yield part
            part, seconds = [], 0.0
    if part:
        yield part
