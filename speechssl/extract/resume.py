"""One output under way, whatever its rows are: which clips are left, where the rows of the others are, what failed.

A run keeps what it has finished in parts (see `parts`) and writes the output when all is done. If it is killed, the
same run resumes from its parts. A finished output is left alone when it is asked for again; where clips were added,
changed or removed since, only those are done.
"""

import hashlib
import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from speechssl.config import UserError
from speechssl.extract.finished import tables_of
from speechssl.extract.parts import FailedClip, Part, Parts, check_same, keys_of, pin, pinned
from speechssl.extract.plan import Item, Plan
from speechssl.extract.progress import Tally
from speechssl.extract.remote import is_address
from speechssl.files import naming

if TYPE_CHECKING:
    import pyarrow as pa

_NEW, _FAILED = 2**64 - 1, 2**64 - 2  # places of clips: not done before; cannot be used


@dataclass(frozen=True)
class Results:
    """What a run has found, in the order of its plan.

    Attributes:
        parts: where the rows are.
        order: of each clip: the place of its row, part << 32 | row; or that it failed.
        failed: the clips that failed.
    """

    parts: Parts
    order: Sequence[int]
    failed: Sequence[FailedClip]

    @cached_property
    def places(self) -> Sequence[int]:
        """Of the rows."""
        return array("Q", (place for place in self.order if place != _FAILED))

    @property
    def seconds(self) -> float:
        """Of audio in the rows."""
        tables = (table for _, table in tables_of(self.parts, self.places))
        return math.fsum(value for table in tables for value in table["duration"].to_pylist())

    def rows(self) -> Iterator[dict[str, Any] | FailedClip]:
        """Each clip: its row by column, or why there is none."""
        tables = (table for _, table in tables_of(self.parts, self.places))
        rows = (row for table in tables for row in table.to_pylist())
        failed = iter(self.failed)
        for place in self.order:
            yield next(failed) if place == _FAILED else next(rows)


@runtime_checkable
class Output(Protocol):
    """What a run makes.

    Attributes:
        path: its name.
        rows: a Parquet file with the rows of a finished output; None where an output cannot be added to.
        errors: a file for the reasons of what failed; None where the output itself has them.
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
        """Write the output, whole or not at all; `scratch` is a folder on the same disk."""
        ...


def _may_succeed(item: Item) -> bool:
    """Whether it is worth another try: what is behind an address may have failed because of the network."""
    return is_address(item.location)


class Run:
    """One output under way; the lock on its folder of parts is held by the caller.

    Args:
        output: what is made.
        folder: of its parts.
        plan: the clips.
        schema: of the rows.
        settings: JSON values; `parts.PINNED` says which of them an output has in common.
        tally: counts what is done.
    """

    def __init__(
        self,
        output: Output,
        folder: Path,
        *,
        plan: Plan,
        schema: "pa.Schema",
        settings: dict[str, Any],
        tally: Tally,
    ):
        self.output, self.folder, self.plan, self.settings, self.tally = output, folder, plan, settings, tally
        old = pinned(folder)
        if old is not None:
            check_same(folder, old, settings)
            settings.update({name: old[name] for name in ("dtype", "cosine") if name in old})
        self.parts = Parts(folder, schema)
        self.resumed = 0
        self._digest = hashlib.blake2b(digest_size=8)
        self._order = array("Q")  # of the plan: places, _NEW or _FAILED
        self._fresh = array("Q")  # of what was new: places or _FAILED
        self._known_failed: list[FailedClip] = []
        self._fresh_failed: list[FailedClip] = []

    def finished_before(self) -> dict[str, Any] | None:
        """The settings of a finished output that is all that was asked for; its rows are taken over where it is not.

        Raises:
            UserError: it was made with other settings, or cannot be added to.
        """
        old = self.output.settings()
        if old is None:
            return None
        check_same(self.output.path, old, self.settings)
        rows = self.output.rows
        done = keys_of(rows) if rows is not None and old["failed"] else None
        digest, again = hashlib.blake2b(digest_size=8), False
        for item in self.plan.items():
            digest.update(item.key)
            again = again or (done is not None and _may_succeed(item) and item.key.hex() not in done)
        if digest.hexdigest() == old.get("plan") and not again:
            return old
        if rows is None:
            raise UserError(
                f"{self.output.path}: finished, and the files of {self.plan.source} have changed since; "
                "give another name (vectors in .parquet can be added to)"
            )
        if not self.parts.count:
            self.settings.update({name: old[name] for name in ("dtype", "cosine") if name in old})
            pin(self.folder, self.settings)
            self.parts.adopt(rows)
        return None

    def begin(self) -> None:
        """The error file of what an earlier run has done."""
        self.output.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.output.path.exists():  # those of a finished output are told until it is replaced
            self._write_errors(list(self.parts.failed.values()))

    def settle(self, dtype: str, cosine: float | None) -> None:
        """Keep the settings with the arithmetic that was chosen; from here on they are those of the output."""
        self.settings.update(dtype=dtype, cosine=cosine)
        pin(self.folder, self.settings)

    def remaining(self) -> Iterator[Item]:
        """The clips that are not done, in order."""
        for item in self.plan.items():
            key = item.key
            self._digest.update(key)
            place = self.parts.place(key)
            failed = self.parts.failed.get(key.hex()) if place is None and not _may_succeed(item) else None
            if place is not None:
                self._order.append(place)
            elif failed is not None:
                self._order.append(_FAILED)
                self._known_failed.append(failed)
            else:
                self._order.append(_NEW)
                yield item
                continue
            self.tally.known(failed=failed is not None)

    def commit(self, part: Part) -> list[FailedClip]:
        """Write a part, and its errors; returns what failed in it."""
        number = self.parts.count
        failed = self.parts.commit(part, self.settings)
        row = 0
        for done in part.done:
            self._fresh.append(number << 32 | row if done else _FAILED)
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
        """Write the output of all parts, and the errors in order; returns what is kept beside it."""
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
        results = Results(self.parts, order, failed)
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

    def _write_errors(self, failed: Sequence[FailedClip]) -> None:
        errors = self.output.errors
        if errors is None:
            return
        if not failed:
            errors.unlink(missing_ok=True)
            return
        partial = self.folder / ".errors.partial"
        with naming(errors):
            partial.write_text("".join(each.line() for each in failed), encoding="utf-8", errors="backslashreplace")
            partial.replace(errors)
