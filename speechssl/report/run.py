"""What a run folder tells: configuration, log, results and map, each of them optional."""

import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from speechssl.config import UserError
from speechssl.scoring.results import ResultRow, read_results

LogRow = Mapping[str, Any]


@dataclass(frozen=True)
class EmbeddingMap:
    """Points in two dimensions with what is known about each; empty strings where nothing is."""

    points: Float[np.ndarray, "clips 2"]
    label: Sequence[str]
    speaker: Sequence[str]
    method: str


@dataclass(frozen=True)
class Run:
    """A run folder, read.

    Attributes:
        name: of the folder.
        config: `config.json`; empty when missing.
        recipe: `recipe.toml`; empty when missing.
        training: log rows of updates.
        validation: log rows of validations.
        results: rows of `results.json`.
        map: of `map.npz`; None when missing.
        confusion: `confusion.json`; empty when missing.
        worst: `worst.json` of speech recognition; empty when missing.
    """

    name: str
    config: Mapping[str, Any]
    recipe: Mapping[str, Any]
    training: Sequence[LogRow]
    validation: Sequence[LogRow]
    results: Sequence[ResultRow]
    map: EmbeddingMap | None
    confusion: Mapping[str, Any]
    worst: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def probes(self) -> Sequence[ResultRow]:
        """Rows of probes on frozen features."""
        return [row for row in self.results if row.is_probe]

    @property
    def experiments(self) -> Sequence[ResultRow]:
        """Rows of whole experiments with few labels."""
        return [row for row in self.results if not row.is_probe]

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Versions, command, corpora, hours, seconds seen: as pretraining wrote them."""
        return self.config.get("provenance", {})

    @property
    def synthetic(self) -> bool:
        """Whether a machine made (some of) the speech that was trained or tested on."""
        return bool(self.provenance.get("synthetic")) or any(row.synthetic for row in self.results)

    @property
    def chance_loss(self) -> float | None:
        """Contrastive loss of a model that cannot tell the target from K negatives: ln(1 + K), in nats."""
        negatives = self.config.get("objective", {}).get("negatives")
        return math.log(1 + negatives) if negatives else None

    @property
    def wall_seconds(self) -> float:
        """Seconds of training, from the log's speeds: each row covers the audio since the row before it.

        A row's speed is the mean since its process started, so a resumed run is told slightly wrong, never its audio.
        """
        total, before = 0.0, 0.0
        for row in self.training:
            speed, seen = row.get("seconds_per_second", 0.0), row.get("seconds_seen", 0.0)
            if speed > 0:
                total += max(0.0, seen - before) / speed
            before = seen
        return total


def read_run(folder: Path) -> Run:
    """Read what is there.

    Raises:
        UserError: no such folder, nothing of a run in it, or a file that cannot be read; names the file.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    known = ("log.jsonl", "results.json", "config.json")
    if not any((folder / name).exists() for name in known):
        raise UserError(f"{folder}: nothing to report; a run has at least one of {', '.join(known)}")
    rows = _read_log(folder / "log.jsonl")
    results = folder / "results.json"
    return Run(
        name=folder.resolve().name,
        config=_read_json(folder / "config.json"),
        recipe=_read_toml(folder / "recipe.toml"),
        training=[row for row in rows if not row.get("valid")],
        validation=[row for row in rows if row.get("valid")],
        results=read_results(results) if results.exists() else [],
        map=_read_map(folder / "map.npz"),
        confusion=_read_json(folder / "confusion.json"),
        worst=_read_json(folder / "worst.json"),
    )


def series(rows: Sequence[LogRow], key: str) -> tuple[list[int], list[float]]:
    """Steps and values of one number over the rows that have it (values may be NaN; JSON's null is passed over)."""
    found = [(int(row["step"]), float(row[key])) for row in rows if row.get(key) is not None]
    return [step for step, _ in found], [value for _, value in found]


def _read_log(path: Path) -> list[LogRow]:
    if not path.exists():
        return []
    rows: list[LogRow] = []
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:
            if number == len(lines):  # a run that was killed, or is still writing
                break
            raise UserError(f"{path} line {number}: not JSON") from None
        if not isinstance(row, dict) or "step" not in row:
            raise UserError(f"{path} line {number}: not a log row (no key 'step')")
        rows.append(row)
    return rows


def _read_json(path: Path) -> Mapping[str, Any]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object")
    return content


def _read_toml(path: Path) -> Mapping[str, Any]:
    if not path.exists():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not TOML ({error})") from None


def _read_map(path: Path) -> EmbeddingMap | None:
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            return EmbeddingMap(
                points=np.asarray(file["points"], dtype=np.float64),
                label=[str(name) for name in file["label"]],
                speaker=[str(name) for name in file["speaker"]],
                method=str(file["method"]),
            )
    except (ValueError, KeyError, OSError) as error:
        raise UserError(f"{path}: not a map of embeddings ({error})") from None
