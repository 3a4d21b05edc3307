"""What starts at once: the command line and the package bring in no heavy library."""

import json
import subprocess
import sys

import pytest

import speechssl

HEAVY = ["torch", "numpy", "scipy", "librosa", "sklearn", "pyarrow", "matplotlib", "torchaudio", "soundfile"]


def loaded_by(statement: str) -> set[str]:
    """The top-level packages in a fresh interpreter after one statement."""
    code = f"import json, sys\n{statement}\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    # -I: no PYTHONPATH, no user site; what is found is what is installed.
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("module", ["speechssl", "speechssl.config", "speechssl.cli", "speechssl.__main__"])
def test_import_brings_in_nothing_heavy(module: str) -> None:
    loaded = loaded_by(f"import {module}")
    assert "speechssl" in loaded
    assert loaded & set(HEAVY) == set()


def test_help_brings_in_nothing_heavy() -> None:
    help_page = (
        "import contextlib, io\nfrom speechssl.cli import main\nwith contextlib.redirect_stdout(io.StringIO()):\n"
    )
    loaded = loaded_by(f"{help_page}    assert main(['pretrain', '--help']) == 0")
    assert loaded & set(HEAVY) == set()


@pytest.mark.parametrize("name", speechssl.__all__)
def test_public_names_load(name: str) -> None:
    assert getattr(speechssl, name) is not None
    assert name in dir(speechssl)


def test_unknown_name_says_what_there_is() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'lode'; it has Embedder, SpeechEncoder, __version__, load"):
        speechssl.lode  # pyright: ignore[reportAttributeAccessIssue]  # noqa: B018
