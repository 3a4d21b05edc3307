"""Where the packs of real speech lie."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def packs() -> Path:
    """The folder of packs; the test is skipped where there is none."""
    folder = os.environ.get("SPEECHSSL_PACKS")
    if not folder:
        pytest.skip("SPEECHSSL_PACKS is not set")
    return Path(folder)
