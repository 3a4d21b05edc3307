"""Identity of a run folder: a run resumes only with the settings and the data that it began with."""

import json
import tomllib
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

from speechssl.config import Config, UserError, dump_config, load_config
from speechssl.data.units import Units
from speechssl.data.waveforms import WaveformStore
from speechssl.files import write_atomic

LENGTH = frozenset({"loop.steps", "loop.budget"})
"""Settings of the length of a run."""

ANY_DEVICES = frozenset({"loop.shard"})
"""Settings that a run may resume with other values of: its numbers do not depend on them."""


def claim(
    out: Path,
    config: Config,
    stores: Sequence[WaveformStore],
    *,
    resume: bool = True,
    parts: Sequence[str] = (),
    may_change: Set[str] = frozenset(),
) -> None:
    """Create the run folder, or check that its run has the same settings and the same data in the same order.

    Args:
        out: the run folder; ``recipe.toml`` and ``data.json`` are written into it.
        config: the settings of the run.
        stores: the prepared corpora.
        resume: False refuses a folder with a run in it.
        may_change: settings that may differ from those of the run, as ``a.b``.
        parts: further digests of the training data: the utterances with their targets, and the initial model.

    Raises:
        UserError: the folder holds another run, or a model without one.
    """
    out.mkdir(parents=True, exist_ok=True)
    recipe, data = out / "recipe.toml", out / "data.json"
    settings, hashes = dump_config(config), [*(store.content_hash() for store in stores), *parts]
    if (out / "last.pt").exists():
        if not resume:
            raise UserError(f"{out}: holds a run already; choose another folder")
        # Read as a config, so that a setting that is newer than the run has its default.
        before = _recipe_before(recipe, type(config))
        differing = sorted(_settings(settings) ^ _settings(before))
        changed = [each for each in differing if each.partition("=")[0] not in may_change]
        if changed:
            fixed = {each.partition("=")[0] for each in changed} <= LENGTH | {"optim.schedule"}
            also = "; only runs with optim.schedule=wsd can be prolonged" if fixed else ""
            raise UserError(
                f"{out}: holds a run with other settings ({changed[0]}); "
                f"resume with those, or choose another folder{also}"
            )
        if _hashes(data) != hashes:
            also = ", or with other labels or another start" if parts else ""
            raise UserError(f"{out}: holds a run with data other than {', '.join(str(s.folder) for s in stores)}{also}")
    elif (out / "config.json").exists() and not (recipe.exists() and recipe.read_text(encoding="utf-8") == settings):
        raise UserError(f"{out}: holds a model of another origin, and no run to resume; choose another folder")
    write_atomic(recipe, settings.encode())
    write_atomic(data, json.dumps({"corpora": [str(store.folder) for store in stores], "hashes": hashes}).encode())


def _recipe_before(recipe: Path, kind: type[Config]) -> str:
    """The recipe of the run in a folder in full, or as it is where it is of another kind; empty without one."""
    if not recipe.exists():
        return ""
    try:
        return dump_config(load_config(kind, recipe))
    except UserError:  # of another objective
        return recipe.read_text(encoding="utf-8")


def claim_labels(out: Path, labels: Sequence[Units]) -> None:
    """Write a digest of the labels of frames, or check that they are those that the run began with.

    Raises:
        UserError: other labels: clusters that were made anew get other numbers.
    """
    path, found = out / "labels.json", [each.digest for each in labels]
    if (out / "last.pt").exists() and path.exists() and json.loads(path.read_text(encoding="utf-8")) != found:
        raise UserError(
            f"{path}: the labels of frames (units) are others than when the run began; choose another folder"
        )
    write_atomic(path, json.dumps(found).encode())


def _hashes(path: Path) -> object:
    """Digests of the data of an earlier run; None without one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["hashes"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not a file of a run ({type(error).__name__}); remove the folder to start again"
        ) from None


def _settings(toml: str) -> set[str]:
    """Every setting as ``a.b=value``."""

    def walk(table: Mapping[str, object], prefix: str) -> set[str]:
        found: set[str] = set()
        for key, value in table.items():
            found |= walk(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}={value}"}
        return found

    return walk(tomllib.loads(toml), "")
