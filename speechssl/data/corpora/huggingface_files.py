"""Files of a data set of Hugging Face, in order, with their splits."""

import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from speechssl.config import UserError, parse_reason
from speechssl.data.corpora.rows import split_of
from speechssl.data.places import missing_path
from speechssl.data.values import folded

_HUB_NAME = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_SERIES = re.compile(r"(.+)-\d+-of-(\d+)(?:-[0-9a-f]{16})?")
_CONVERTED = "refs/convert/parquet"  # the hub's own copy in Parquet of data sets in other forms
_INFO, _STATE, _DICT = "dataset_info.json", "state.json", "dataset_dict.json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataFile:
    """A Parquet or Arrow file of a data set, the split that it belongs to, and whether it came from the hub."""

    path: Path
    split: str | None
    remote: bool = False


def find_files(root: str | Path, *, config: str = "", splits: Sequence[str] = ()) -> list[DataFile]:
    """The files of a data set.

    Args:
        root: a Parquet or Arrow file, a folder of them, a folder of `save_to_disk`, or `hf:org/name[@revision]`.
        config: configuration, where there are several.
        splits: splits to read; empty for all.

    Raises:
        UserError: no such data set, configuration or split, or a data set with missing files.
    """
    name = str(root)
    if name.startswith("hf:") and not Path(root).exists():
        return _from_hub(name, config, splits)
    path = Path(root).absolute()  # not resolved: Hugging Face's cache holds links to files without a suffix
    if path.is_file():
        if path.suffix.lower() not in (".parquet", ".arrow"):
            raise UserError(f"{root}: give a .parquet or .arrow file, or a folder of them")
        return _of_splits([DataFile(path, split_of(path.stem))], name, splits)
    if not path.is_dir():
        raise missing_path(root)
    if (path / _DICT).is_file():
        named = _read_json(path / _DICT).get("splits")
        if not isinstance(named, list) or not named:
            raise UserError(f"{path / _DICT}: names no splits")
        return _of_splits([file for each in named for file in _saved(path / str(each), str(each))], name, splits)
    if (path / _STATE).is_file():
        return _of_splits(list(_saved(path, None)), name, splits)
    below = sorted(each.relative_to(path) for each in path.rglob("*") if each.suffix.lower() in (".parquet", ".arrow"))
    chosen = _choose([PurePosixPath(each.as_posix()) for each in below], name, config)
    return _of_splits([DataFile(path / each, split) for each, split in chosen], name, splits)


def _of_splits(files: list[DataFile], name: str, splits: Sequence[str]) -> list[DataFile]:
    known = sorted({file.split for file in files if file.split is not None})
    unknown = next((split for split in splits if folded(split) not in map(folded, known)), None)
    if unknown is not None:
        raise UserError(f"{name}: no split {unknown!r}; there are: {', '.join(known) or 'none with a name'}")
    wanted = {folded(split) for split in splits}
    return [file for file in files if not splits or folded(file.split or "") in wanted]


def is_saved(folder: Path) -> bool:
    """Whether `datasets` wrote a folder by `save_to_disk`."""
    return (folder / _DICT).is_file() or ((folder / _STATE).is_file() and (folder / _INFO).is_file())


def _saved(folder: Path, split: str | None) -> Iterator[DataFile]:
    """The files that the state of a saved data set names: others may be left from an earlier one."""
    state = _read_json(folder / _STATE)
    if state.get("_indices_files") or state.get("_indices_data_files") or state.get("_indices"):
        raise UserError(
            f"{folder}: a selection of rows, saved by an old `datasets`; save it again: ds.flatten_indices()"
        )
    files = state.get("_data_files")
    names = [each.get("filename") for each in files if isinstance(each, dict)] if isinstance(files, list) else []
    if not names:
        raise UserError(f"{folder / _STATE}: names no files")
    own = state.get("_split")
    for name in names:
        path = folder / str(name)
        if Path(str(name)).name != name or not path.is_file():
            raise UserError(f"{folder / _STATE}: names {name!r}, which is not beside it")
        yield DataFile(path, split or (own if isinstance(own, str) else None))


def _choose(names: Sequence[PurePosixPath], source: str, config: str) -> list[tuple[PurePosixPath, str | None]]:
    """Of the files of a folder or a repository those of one configuration, each with its split.

    The configuration is the folder that is no split and not `data`; the split is in the file's name or in a folder's.
    """
    names = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    names = [name for name in names if name.suffix.lower() == ".parquet"] or names
    if not names:
        raise UserError(f"{source}: no .parquet or .arrow in it, and no folder of save_to_disk")
    configs = {name: _config_of(name) for name in names}
    known = sorted(set(configs.values()))
    if config and config not in known:
        raise UserError(f"{source}: no configuration {config!r}; there are: {', '.join(filter(None, known)) or 'none'}")
    if not config and len(known) > 1:
        words = ", ".join(each or "(none)" for each in known[:8])
        command = f"speechssl prepare huggingface --set config={known[-1]}"
        raise UserError(f"{source}: {len(known)} configurations ({words}); name one: {command}")
    names = [name for name in names if not config or configs[name] == config]
    _check_series(names, source)
    return [(name, _split_of(name)) for name in names]


def _check_series(names: Sequence[PurePosixPath], source: str) -> None:
    """Refuses incomplete series: names such as `train-00000-of-00012` state the number of files."""
    there: Counter[tuple[str, int]] = Counter()
    for name in names:
        if match := _SERIES.fullmatch(name.stem):
            there[str(name.parent / match[1]), int(match[2])] += 1
    for (series, promised), count in there.items():
        if count != promised:
            raise UserError(f"{source}: {count} of {promised} files of {series} are there; fetch the rest of them")


def _config_of(name: PurePosixPath) -> str:
    return "/".join(part for part in name.parts[:-1] if part.lower() != "data" and split_of(part) is None)


def _split_of(name: PurePosixPath) -> str | None:
    if series := _SERIES.fullmatch(name.stem):
        return series[1]
    return next(filter(None, map(split_of, (name.stem, *reversed(name.parts[:-1])))), None)


def _from_hub(name: str, config: str, splits: Sequence[str]) -> list[DataFile]:
    """Fetches the requested files of a data set of the hub into Hugging Face's cache."""
    match = _HUB_NAME.fullmatch(name)
    if match is None:
        raise UserError(f"{name}: write a data set of the hub as hf:organisation/name or hf:organisation/name@revision")
    repository, revision = match.groups()
    listed = _list(name, repository, revision)
    if revision is None and listed is not None and not any(each.suffix == ".parquet" for each in listed):
        revision = _CONVERTED
        listed = _list(name, repository, revision)
    if listed is None:  # not reached: files in the cache
        folder = _snapshot(name, repository, revision, ["*.parquet"])
        listed = [PurePosixPath(each.relative_to(folder).as_posix()) for each in sorted(folder.rglob("*.parquet"))]
    files = [DataFile(Path(each), split) for each, split in _choose(listed, name, config)]
    files = _of_splits(files, name, splits)
    folder = _snapshot(name, repository, revision, [file.path.as_posix() for file in files])
    return [DataFile(folder / file.path, file.split, remote=True) for file in files]


def _list(name: str, repository: str, revision: str | None) -> list[PurePosixPath] | None:
    """The files of a repository by name; None where the hub cannot be reached."""
    hub, errors = _hub(name)
    try:
        return [
            PurePosixPath(each)
            for each in sorted(hub.list_repo_files(repository, repo_type="dataset", revision=revision))
        ]
    except errors.RevisionNotFoundError:
        what = "no Parquet, and no copy in it" if revision == _CONVERTED else f"no revision {revision!r}"
        raise UserError(f"{name}: the data set has {what}") from None
    except errors.GatedRepoError:
        raise UserError(f"{name}: its owner asks for a login first: hf auth login") from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"{name}: huggingface.co has no such data set, or it is private (hf auth login)") from None
    except Exception as error:  # noqa: BLE001 -- the HTTP client below has errors of its own, which change by version
        _log.info("%s: not listed: %s", name, error)
        return None


def _snapshot(name: str, repository: str, revision: str | None, patterns: list[str]) -> Path:
    hub, errors = _hub(name)
    try:
        return Path(hub.snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns=patterns))
    except errors.LocalEntryNotFoundError:
        raise UserError(f"{name}: huggingface.co cannot be reached and the data set is not in the cache") from None
    except Exception as error:  # noqa: BLE001 -- as above
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{name}: not downloaded: {reason[0]}") from None


def _hub(name: str) -> tuple[Any, Any]:
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError:
        raise UserError(f"{name}: needs huggingface_hub; pip install 'speechssl[remote]'") from None
    return huggingface_hub, errors


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON: {parse_reason(error)}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: given {type(found).__name__}, allowed: a JSON object")
    return found
