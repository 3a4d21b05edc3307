"""One of several parts of a corpus, and which recordings are in it."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from speechssl.config import UserError
from speechssl.data.store_index import SHARDS, WAVEFORMS


@dataclass(frozen=True)
class Share:
    """One of several parts of a corpus; `number` is from 1 to `count`."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ValueError(f"part {self.number} of {self.count}, allowed: 1 to {self.count}")

    @classmethod
    def parse(cls, words: str) -> "Share":
        """Parses "2/4".

        Raises:
            UserError: not of this form.

        >>> Share.parse("2/4")
        Share(number=2, count=4)
        """
        number, _, count = words.partition("/")
        if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise UserError(f"--shard {words}: a part of all parts, for example 2/4; allowed: 1/4 to 4/4")
        return cls(int(number), int(count))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def folder(self, out: Path) -> Path:
        """The folder of the shard."""
        return out / SHARDS / f"{self.number}-of-{self.count}"

    @property
    def samples(self) -> str:
        """The file of its samples, relative to the folder of the corpus."""
        return f"{SHARDS}/{self.number}-of-{self.count}/{WAVEFORMS}"


def part_of(audio: str, count: int) -> int:
    """The part that a file belongs to, from 1 to `count`.

    >>> [part_of(f"/recordings/{number}.wav", 4) for number in range(6)]
    [4, 3, 2, 3, 1, 2]
    """
    name = os.path.normpath(audio).encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(name, digest_size=8).digest()
    return int.from_bytes(digest, "big") % count + 1
