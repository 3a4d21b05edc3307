"""Pretraining objectives: one paper per module, all with the same names.

    class Config(ObjectiveConfig)                         its settings, `name` among them
    def build(encoder, config, *, seed) -> Objective      the method
    PRESETS: dict[str, Config]                            settings by size of the encoder
    RUNS: Mapping[str, Mapping[str, Mapping]]             what a run of a size changes in encoder, crops, optim …
    CURVES: tuple[Curve, ...]                             what the report draws

The interface between an objective and the loop is in :mod:`speechssl.objectives.base`.

To add an objective: write a module here and add its name to `OBJECTIVES`. `tests/objectives/test_contract.py` then
tests the contract of every objective.
"""

import importlib
from types import ModuleType

from speechssl.config import UserError

OBJECTIVES: tuple[str, ...] = (
    "wav2vec2",
    "hubert",
    "best_rq",
    "data2vec",
    "tera",
    "apc",
    "cpc",
    "wav2vec",
    "simclr",
    "byol",
    "dino",
    "trill",
    "audio2vec",
)
"""The names that `load_objective` accepts; the first one is the default."""


def load_objective(name: str) -> ModuleType:
    """Import the module of an objective.

    Args:
        name: one of `OBJECTIVES`.

    Returns:
        The module, with `Config`, `build`, `PRESETS`, `RUNS` and `CURVES`.

    Raises:
        UserError: no objective of that name.

    >>> load_objective("wav2vec2").Config().name
    'wav2vec2'
    >>> load_objective("word2vec")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    speechssl.config.UserError: unknown objective 'word2vec'; allowed: wav2vec2, hubert, ...
    """
    if name not in OBJECTIVES:
        raise UserError(f"unknown objective {name!r}; allowed: {', '.join(OBJECTIVES)}")
    return importlib.import_module(f"{__name__}.{name}")
