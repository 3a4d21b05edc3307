"""The bundled model: the one that commands and the Python API use where no model is named.

It is the model folder `speechssl/assets/bundled`, with weights in float16, a card (`README.md`) and `bundle.json`:

    {"name": "tiny", "version": "1", "sha256": {"config.json": "…", "model.safetensors": "…", …}}

Every use compares the files with these digests. `experiments.bundle` makes such a folder of a pretrained model, and the
variable SPEECHSSL_BUNDLED names another one to use instead. This file imports no torch.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from speechssl.config import Config, UserError

BUNDLED = "bundled"
"""What every argument for a model takes for the bundled model; a path of that name wins."""
MANIFEST = "bundle.json"
VARIABLE = "SPEECHSSL_BUNDLED"
REQUIRED = ("config.json", "model.safetensors", "README.md")
SHIPPED = Path(__file__).parent.parent / "assets" / BUNDLED
"""Its folder in the package."""
_SHA256 = r"^[0-9a-f]{64}$"


class Manifest(Config):
    """Content of `bundle.json`.

    Attributes:
        name: of the model, without its version.
        version: of the weights; other weights get another one.
        sha256: digest of each file of the folder, by name.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    version: str = Field(pattern=r"^[0-9][0-9.]*$")
    sha256: dict[str, str]


@dataclass(frozen=True)
class Bundled:
    """The bundled model: its name with the version, such as `tiny-1`, and its model folder."""

    name: str
    folder: Path


def bundled_folder() -> Path:
    """Folder of the bundled model, whether or not one is there."""
    given = os.environ.get(VARIABLE, "")
    return Path(given).expanduser() if given else SHIPPED


def bundled_name() -> str | None:
    """Name of the bundled model with its version; None where there is none, or one that cannot be read."""
    try:
        return _read().name
    except UserError:
        return None


def bundled_model(*, otherwise: str = "") -> Bundled:
    """The bundled model, its files compared with their digests.

    Args:
        otherwise: end of the error where there is none: what else may be given.

    Raises:
        UserError: no model is bundled, or one of its files is missing or damaged; names the file.
    """
    found = _read(otherwise=otherwise)
    for name, expected in _manifest(found.folder).sha256.items():
        path = found.folder / name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise _damaged(path, f"cannot be read ({error.strerror or error})") from None
        if hashlib.sha256(content).hexdigest() != expected:
            raise _damaged(path, f"its sha256 is not the one in {MANIFEST}")
    return found


def model_path(model: Path) -> Path:
    """The model folder that an argument names: the path itself, or the bundled model's folder for its name.

    Raises:
        UserError: as :func:`bundled_model`.

    >>> model_path(Path("runs/mine"))
    PosixPath('runs/mine')
    """
    if model.exists() or str(model) not in (BUNDLED, bundled_name()):
        return model
    return bundled_model().folder


def origin_of(model: Path) -> str:
    """Name of a model folder for provenance: of the bundled model its name with the version, else the path."""
    if model.resolve() == bundled_folder().resolve():
        return bundled_name() or str(model)
    return str(model)


def _read(*, otherwise: str = "") -> Bundled:
    folder = bundled_folder()
    if not (folder / MANIFEST).is_file():
        where = f" ({VARIABLE} names {folder}, which has no {MANIFEST})" if os.environ.get(VARIABLE) else ""
        allowed = otherwise or "name a model: a run or model folder, hf:org/name, torchaudio:BUNDLE"
        raise UserError(f"no model is bundled with this installation of speechssl{where}; {allowed}")
    found = _manifest(folder)
    return Bundled(f"{found.name}-{found.version}", folder)


def _manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        found = Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise _damaged(path, f"cannot be read ({error.strerror or error})") from None
    except ValidationError:
        raise _damaged(path, "not the manifest of a bundled model") from None
    missing = [name for name in REQUIRED if name not in found.sha256]
    if missing:
        raise _damaged(path, f"has no sha256 of {missing[0]}")
    return found


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"{path}: the bundled model is damaged: {reason}; install speechssl again, or name a model")
