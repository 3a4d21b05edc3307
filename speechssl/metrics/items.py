"""Answers of every contender per test item: the file beside `results.json` that paired comparisons read.

`results.json` has `results.items.json.gz` beside it: compressed JSON, a list of `Answers`, with one entry per item in
every column. An item is a test utterance; one that is tested in several repetitions has an entry for each. Two kinds:

- classes: `truth` and `predicted` are names, and every classification metric can be computed;
- errors: `errors` and `words` (or characters) are counts, and the rate of one metric can be computed.

`groups` is what a bootstrap resamples: the speaker, or the utterance itself.
"""

import gzip
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from speechssl.config import UserError, parse_reason
from speechssl.files import write_atomic
from speechssl.metrics.classification import GroupCounts, count_repetitions
from speechssl.metrics.results import ResultRow


@dataclass(frozen=True)
class Answers:
    """Answers of one contender at one amount of labels; the names are those of its rows.

    Attributes:
        task: as in the row.
        contender: as in the row.
        probe: as in the row.
        labels: as in the row.
        unit: as in the row.
        split_hash: as in the row.
        ids: one name per item, the same for every contender.
        groups: what a bootstrap resamples, one entry per item.
        repetitions: from 0; all zero where there is one.
        truth: classes only.
        predicted: classes only.
        metric: errors only: the rate computed from them, for example `WER`.
        errors: errors only: wrong words per item.
        words: errors only: reference words per item.
    """

    task: str
    contender: str
    probe: str
    labels: int
    unit: str
    split_hash: str
    ids: Sequence[str]
    groups: Sequence[str]
    repetitions: Sequence[int]
    truth: Sequence[str] = ()
    predicted: Sequence[str] = ()
    metric: str = ""
    errors: Sequence[int] = ()
    words: Sequence[int] = ()

    def __post_init__(self) -> None:
        columns = [self.errors, self.words] if self.metric else [self.truth, self.predicted]
        columns += [self.groups, self.repetitions]
        if not self.ids or any(len(column) != len(self.ids) for column in columns):
            raise ValueError(f"{self.contender}: need as many entries in each column as items, at least one")

    def belongs_to(self, row: ResultRow) -> bool:
        """Whether the row was computed from these answers."""
        same = ("task", "contender", "probe", "labels", "unit", "split_hash")
        if any(getattr(self, name) != getattr(row, name) for name in same):
            return False
        return row.metric == self.metric if self.metric else row.metric in ("UAR", "WA", "macro F1")

    def counts(self, classes: Sequence[str] = ()) -> GroupCounts:
        """The answers counted for `classification.bootstrap_interval`, over these classes or all that occur."""
        repeated = sorted(set(self.repetitions))
        where = [[i for i, number in enumerate(self.repetitions) if number == each] for each in repeated]
        return count_repetitions(
            [[self.truth[i] for i in part] for part in where],
            [[self.predicted[i] for i in part] for part in where],
            groups=[[self.groups[i] for i in part] for part in where],
            classes=classes or sorted({*self.truth, *self.predicted}),
            group_names=sorted(set(self.groups)),
        )


def items_path(results: Path) -> Path:
    """Path of the items of a result file.

    >>> items_path(Path("runs/a/results.json")).as_posix()
    'runs/a/results.items.json.gz'
    """
    return results.with_name(f"{results.stem}.items.json.gz")


def write_items(path: Path, items: Iterable[Answers]) -> None:
    """Write the answers, whole or not at all; the same answers give the same bytes.

    Args:
        path: from `items_path`.
        items: the answers of each contender at each amount of labels.
    """
    content = json.dumps([asdict(each) for each in items], ensure_ascii=False, separators=(",", ":"))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, gzip.compress(content.encode(), mtime=0))


def read_items(path: Path) -> list[Answers]:
    """Read the answers; unknown keys are ignored.

    Raises:
        UserError: cannot be read, or not such a file.
    """
    known = {each.name for each in fields(Answers)}
    try:
        content = json.loads(gzip.decompress(path.read_bytes()))
        return [Answers(**{key: value for key, value in each.items() if key in known}) for each in content]
    except FileNotFoundError:
        raise UserError(f"{path}: missing; it holds the answers per item that a paired comparison needs") from None
    except (OSError, EOFError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a file of answers ({parse_reason(error)})") from None
