"""One output under way, of any kind of row: which clips are left, where the rows of the others are, what failed.

A run keeps finished clips in shards (see `shards`) and writes the output at the end. If it is killed, the same run
resumes from its shards. A finished output is left as it is when the same command is run again; where clips were
added, changed or removed since, only those are encoded.
"""

import hashlib
import json
import math
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from speechssl.config import UserError
from speechssl.data.places import is_address
from speechssl.extract.machine.progress import ExtractionProgress, ProgressCounter
from speechssl.extract.plan import Item, Plan
from speechssl.extract.shards import FailedClip, Part, Shards
from speechssl.files import naming, write_atomic

if TYPE_CHECKING:
    import pyarrow as pa

_NEW, _FAILED = 2**64 - 1, 2**64 - 2  # places of clips: not done before; cannot be used
# Settings that all rows of an output have in common.
PINNED = ("format", "model_hash", "source", "pooling", "layer", "dtype", "window_seconds", "compile", "decoder")


@dataclass(frozen=True)
class Results:
    """What a run has found, in the order of its plan.

    Attributes:
        shards: the rows.
        order: for each clip the place of its row (see `Shards`), or a mark that it failed.
        failed: the clips that failed.
    """

    shards: Shards
    order: Sequence[int]
    failed: Sequence[FailedClip]

    @cached_property
    def places(self) -> Sequence[int]:
        """Places of the rows."""
        return array("Q", (place for place in self.order if place != _FAILED))

    @property
    def seconds(self) -> float:
        """Seconds of audio in the rows."""
        tables = (table for _, table in self.shards.tables(self.places))
        return math.fsum(value for table in tables for value in table["duration"].to_pylist())

    def rows(self) -> Iterator[dict[str, Any] | FailedClip]:
        """For each clip its row by column, or the reason why there is none."""
        tables = (table for _, table in self.shards.tables(self.places))
        rows = (row for table in tables for row in table.to_pylist())
        failed = iter(self.failed)
        for place in self.order:
            yield next(failed) if place == _FAILED else next(rows)


@runtime_checkable
class Output(Protocol):
    """The file or folder that a run makes.

    Attributes:
        path: its name.
        rows: a Parquet file with the rows of a finished output; None where an output cannot be added to.
        errors: a file for the reasons of failed clips; None where the output itself has them.
    """

    @property
    def path(self) -> Path: ...  # noqa: D102 -- above
    @property
    def rows(self) -> Path | None: ...  # noqa: D102 -- above
    @property
    def errors(self) -> Path | None: ...  # noqa: D102 -- above

    def settings(self) -> dict[str, Any] | None:
        """The settings of a finished output; None where there is none.

        Raises:
            UserError: something else has this name.
        """
        ...

    def write(self, results: Results, settings: dict[str, Any], scratch: Path) -> None:
        """Writes the output, completely or not at all; `scratch` is a folder on the same disk."""
        ...


class Run:
    """One output under way; the caller holds the lock on its folder of shards.

    Args:
        output: what is made.
        folder: for its shards.
        plan: the clips.
        schema: of the rows.
        settings: JSON values; `PINNED` names those that all rows of an output have in common.
        progress: called with the counts after each step.

    Attributes:
        counts: clips and seconds so far.
        resumed: after `finish`: rows of an earlier run.

    Raises:
        UserError: the shards in the folder have other settings, or are damaged.
    """

    def __init__(
        self,
        output: Output,
        folder: Path,
        *,
        plan: Plan,
        schema: "pa.Schema",
        settings: dict[str, Any],
        progress: Callable[[ExtractionProgress], None] | None,
    ):
        self.output, self.folder, self.plan, self.settings = output, folder, plan, settings
        self.counts = ProgressCounter(plan, progress)
        old = pinned(folder)
        if old is not None:
            check_same(folder, old, settings)
            settings.update({name: old[name] for name in ("dtype", "cosine") if name in old})
        self.shards = Shards(folder, schema)
        self.resumed = 0
        self._digest = hashlib.blake2b(digest_size=8)
        self._order = array("Q")  # of the plan: places, _NEW or _FAILED
        self._fresh = array("Q")  # of the new clips: places or _FAILED
        self._known_failed: list[FailedClip] = []
        self._fresh_failed: list[FailedClip] = []

    def begin(self) -> dict[str, Any] | None:
        """Prepares the run; the settings of the finished output where nothing is left to do, else None.

        Where clips were added, changed or removed since the output was finished, its rows become the first shard.

        Raises:
            UserError: the output was made with other settings, or cannot be added to.
        """
        old = self.output.settings()
        if old is not None:
            check_same(self.output.path, old, self.settings)
            rows = self.output.rows
            done = _keys_of(rows) if rows is not None and old["failed"] else None
            digest, again = hashlib.blake2b(digest_size=8), False
            for item in self.plan.items():
                digest.update(item.key)
                again = again or (done is not None and is_address(item.location) and item.key.hex() not in done)
            if digest.hexdigest() == old.get("plan") and not again:
                return old
            if rows is None:
                raise UserError(
                    f"{self.output.path}: finished, and the files of {self.plan.source} have changed since; "
                    "give another name (vectors in .parquet can be added to)"
                )
            if not self.shards.count:
                self.settings.update({name: old[name] for name in ("dtype", "cosine") if name in old})
                self._pin()
                self.shards.adopt(rows)
        self.output.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.output.path.exists():  # the errors of a finished output are kept until it is replaced
            self._write_errors(list(self.shards.failed.values()))
        return None

    def settle(self, dtype: str, cosine: float | None) -> None:
        """Sets the dtype that was chosen, and writes the settings for a run that resumes."""
        self.settings.update(dtype=dtype, cosine=cosine)
        self._pin()

    def remaining(self) -> Iterator[Item]:
        """The clips that are not done, in order."""
        for item in self.plan.items():
            key = item.key
            self._digest.update(key)
            place = self.shards.place(key)
            # What is behind an address may have failed because of the network: it is tried again.
            failed = None if place is not None or is_address(item.location) else self.shards.failed.get(key.hex())
            if place is not None:
                self._order.append(place)
            elif failed is not None:
                self._order.append(_FAILED)
                self._known_failed.append(failed)
            else:
                self._order.append(_NEW)
                yield item
                continue
            self.counts.add(1, failed=int(failed is not None), show=False)

    def commit(self, part: Part) -> list[FailedClip]:
        """Writes a part, and its errors; returns the clips that failed in it."""
        shard = self.shards.count
        failed = self.shards.commit(part, self.settings)
        row = 0
        for done in part.done:
            self._fresh.append(shard << 32 | row if done else _FAILED)
            row += done
        self._fresh_failed += failed
        if failed and self.output.errors is not None:
            with (
                naming(self.output.errors),
                self.output.errors.open("a", encoding="utf-8", errors="backslashreplace") as file,
            ):
                file.writelines(each.line() for each in failed)
        return failed

    def finish(self) -> dict[str, Any]:
        """Writes the output from all shards, and the errors in order; returns the settings that the output keeps."""
        fresh, known, new = iter(self._fresh), iter(self._known_failed), iter(self._fresh_failed)
        order = array("Q")
        failed: list[FailedClip] = []
        for place in self._order:
            found = next(fresh) if place == _NEW else place
            order.append(found)
            if found == _FAILED:
                failed.append(next(new if place == _NEW else known))
            else:
                self.resumed += place != _NEW
        results = Results(self.shards, order, failed)
        self.settings.update(
            written=len(order) - len(failed),
            failed=len(failed),
            seconds=results.seconds,
            plan=self._digest.hexdigest(),
        )
        self._write_errors(failed)
        with naming(self.output.path):
            self.output.write(results, self.settings, self.folder)
        return self.settings

    def _pin(self) -> None:
        path = self.folder / "_run.json"
        with naming(path):
            write_atomic(path, (json.dumps(self.settings, indent=2) + "\n").encode())

    def _write_errors(self, failed: Sequence[FailedClip]) -> None:
        errors = self.output.errors
        if errors is None:
            return
        if not failed:
            errors.unlink(missing_ok=True)
            return
        write_atomic(errors, "".join(each.line() for each in failed).encode("utf-8", "backslashreplace"))


def pinned(folder: Path) -> dict[str, Any] | None:
    """The settings of the run that has shards in a folder; None where there is none."""
    path = folder / "_run.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{path}: not the settings of a run ({error}); remove {folder} to begin anew") from error


def check_same(where: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuses rows of other settings in one output; names the first setting that differs.

    Raises:
        UserError: one does.

    >>> check_same(Path("v.parquet"), {"pooling": "mean", "dtype": "float32"}, {"pooling": "mean+std", "dtype": "auto"})
    Traceback (most recent call last):
    speechssl.config.UserError: v.parquet: made with pooling mean, now mean+std; use the same settings, ...
    """
    for name in PINNED:
        if name == "dtype" and new.get(name) == "auto":
            continue  # the first run has chosen it
        if old.get(name) != new.get(name):
            model = name == "model_hash"
            words = "model" if model else name.replace("_", " ")
            remedy = "use the same settings, or give another name"
            if model:
                remedy = "the model has changed; give another name, or remove it to begin anew"
            raise UserError(f"{where}: made with {words} {old.get(name)}, now {new.get(name)}; {remedy}")


def _keys_of(rows: Path) -> set[str]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(rows) as file:
        return set(file.read(columns=["key"])["key"].to_pylist())
