"""Headers of MPEG audio frames (ISO 11172-3 and 13818-3)."""

import functools
from dataclasses import dataclass

# kbit/s by the four bits of the header, 0 and 15 give no length: MPEG-1 layers I, II, III, and MPEG-2 layers I, II/III.
_RATES = {
    (1, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448, 0),
    (1, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 0),
    (1, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    (2, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256, 0),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
}


@dataclass(frozen=True)
class MpegFrame:
    """Fields of the four bytes of a frame's header.

    Attributes:
        length: of the whole frame, bytes.
        samples: per channel.
        rate: samples per second of each channel, Hz.
        mono: whether it has one channel.
        layer: 1 to 3.
    """

    length: int
    samples: int
    rate: int
    mono: bool
    layer: int

    def like(self, other: "MpegFrame") -> bool:
        """Whether both may be from one recording: the same rate, number of channels and layer."""
        return (self.rate, self.mono, self.layer) == (other.rate, other.mono, other.layer)


@functools.lru_cache(maxsize=4096)
def parse_mpeg(header: bytes) -> MpegFrame | None:
    """The frame with this header of four bytes; None when it is none."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:  # 11 sync bits
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)  # version 3: MPEG-1, 2: MPEG-2, 0: MPEG-2.5
    place = header[2] >> 2 & 3
    if version == 1 or layer == 4 or place == 3:
        return None
    first = version == 3
    kilobits = _RATES[(1, layer) if first else (2, min(layer, 2))][header[2] >> 4]
    if not kilobits:
        return None
    rate = (44100, 48000, 32000)[place] // {3: 1, 2: 2, 0: 4}[version]
    padding = header[2] >> 1 & 1
    mono = header[3] >> 6 == 3
    if layer == 1:
        return MpegFrame((12 * kilobits * 1000 // rate + padding) * 4, 384, rate, mono, layer)
    samples = 576 if layer == 3 and not first else 1152
    return MpegFrame(samples // 8 * kilobits * 1000 // rate + padding, samples, rate, mono, layer)
