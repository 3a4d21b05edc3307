"""Cells: the answers of one contender at one number of shots in one draw, each computed once and stored in a file.

A run that is killed resumes after its last cell. A cell has a key, a hash of everything that its answers depend on
(samples, training and test utterances, model, settings); a cell with another key is computed again.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from speechssl.config import UserError
from speechssl.files import write_atomic


@dataclass(frozen=True)
class Cell:
    """The answers of a cell, with its position.

    Attributes:
        contender: name of the contender.
        shots: labelled utterances per class; 0 for all.
        draw: number of the draw.
        key: hash of everything that the answers depend on.
        test: ids of the test utterances.
        predicted: the answers, in that order.
        seconds: time of the computation.
    """

    contender: str
    shots: int
    draw: int
    key: str
    test: Sequence[str]
    predicted: Sequence[str]
    seconds: float


def cell_path(folder: Path, contender: str, *, shots: int, draw: int) -> Path:
    """Path of a cell.

    >>> cell_path(Path("cells"), "MFCC + SVM", shots=0, draw=3).name
    'mfcc-svm-all-3.json'
    """
    words = "".join(letter if letter.isalnum() else " " for letter in contender.lower()).split()
    return folder / f"{'-'.join(words)}-{shots or 'all'}-{draw}.json"


def write_cell(folder: Path, cell: Cell) -> None:
    """Write a cell, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = cell_path(folder, cell.contender, shots=cell.shots, draw=cell.draw)
    write_atomic(path, (json.dumps(asdict(cell), ensure_ascii=False) + "\n").encode())


def read_cell(folder: Path, contender: str, *, shots: int, draw: int) -> Cell | None:
    """Read a stored cell, with any key; None when there is none.

    Raises:
        UserError: the file is not a cell.
    """
    path = cell_path(folder, contender, shots=shots, draw=draw)
    try:
        return Cell(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: not a cell of an experiment ({error}); remove it to compute it again") from None
