"""Small models with random damage: each loads or ends in one line; nothing else is raised, and nothing hangs."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from speechssl.config import UserError
from speechssl.interop.sources import open_source
from speechssl.models.heads import load_head
from tests.interop import hostile

BYTES = (
    b"",
    b"\0",
    b"\xff",
    b"[",
    b"{",
    b"-",
    b"9",
    b"9" * 30,
    b"null",
    b"true",
    b"NaN",
    b"1e999",
    b'"',
    b"}",
    b"\x80",
)


def _checkpoint(folder: Path) -> Path:
    torch.save(hostile.checkpoint(), folder / "model.pt")
    return folder / "model.pt"


def _old_checkpoint(folder: Path) -> Path:
    torch.save(hostile.checkpoint(), folder / "model.pt", _use_new_zipfile_serialization=False)
    return folder / "model.pt"


def _state_dict(folder: Path) -> Path:
    weights = {f"encoder.transformer.{name}": value for name, value in hostile.state_dict().items()}
    torch.save(weights, folder / "model.pt")
    return folder / "model.pt"


def _pickled(folder: Path) -> Path:
    hostile.hub(folder)
    (folder / "model.safetensors").unlink()
    torch.save(hostile.state_dict(), folder / "pytorch_model.bin")
    return folder


KINDS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Any]]] = {
    "own": (hostile.own, open_source),
    "head": (hostile.head, load_head),
    "hub": (hostile.hub, open_source),
    "hub, pickled": (_pickled, open_source),
    "fairseq": (_checkpoint, open_source),
    "fairseq, old": (_old_checkpoint, open_source),
    "torchaudio": (_state_dict, open_source),
}


def damaged(content: bytes, rng: random.Random) -> bytes:
    """A few changes near the beginning or the end, where the structure of a file is, or anywhere."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        last = max(1, len(changed))
        place = rng.choice((rng.randrange(last), rng.randrange(min(last, 600)), max(0, last - rng.randrange(1, 600))))
        match rng.randrange(5):
            case 0:
                changed[place : place + 1] = bytes([rng.randrange(256)])
            case 1:
                changed[place : place + rng.randrange(1, 9)] = rng.choice(BYTES)
            case 2:
                del changed[place : place + rng.choice((1, 8, 1000))]
            case 3:
                other = rng.randrange(last)
                changed[place:place] = changed[other : other + rng.choice((1, 8, 200))]
            case _:
                changed[place : place + 8] = rng.choice((1 << 60, 1 << 31, 0)).to_bytes(8, "little")
    return bytes(changed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rounds", [12, pytest.param(400, marks=pytest.mark.slow)])
def test_damage_is_one_line(kind: str, rounds: int, tmp_path: Path) -> None:
    make, use = KINDS[kind]
    whole = make(tmp_path)
    use(whole) if kind != "torchaudio" else None  # of the shape of no published model, which is one line too
    files = {path: path.read_bytes() for path in sorted(tmp_path.iterdir())}
    rng = random.Random(rounds)
    messages: list[str] = []
    for _ in range(rounds):
        path = rng.choice(sorted(files))
        path.write_bytes(damaged(files[path], rng))
        try:
            use(whole)
        except UserError as error:
            messages.append(str(error))
        path.write_bytes(files[path])
    assert len(messages) > rounds // 10
    assert [each for each in messages if not each.startswith(str(tmp_path)) or len(each) > 2000 or "\n" in each] == []
