"""Self-supervised speech representations: learn them from raw audio, then use them.

The public names are loaded on first use (PEP 562), so that `import speechssl` and the command line start at once.

>>> import speechssl
>>> sorted(speechssl.__all__)
['Embedder', 'SpeechEncoder', '__version__', 'load']
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from speechssl.embed.embedder import load
    from speechssl.embed.estimator import Embedder
    from speechssl.models.encoder import SpeechEncoder

__version__ = "0.1.0"
__all__ = ["Embedder", "SpeechEncoder", "__version__", "load"]

_HOME = {
    "Embedder": "speechssl.embed.estimator",
    "SpeechEncoder": "speechssl.models.encoder",
    "load": "speechssl.embed.embedder",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'speechssl' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
