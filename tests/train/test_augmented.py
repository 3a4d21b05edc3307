"""Runs with augmentation: resumed bit for bit, validated on clean audio, refused before anything is computed."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from speechssl.config import UserError
from speechssl.data.batch_augment import NO_AUGMENT, BatchAugmentConfig
from speechssl.data.waveforms import WaveformStore
from speechssl.train import loop
from speechssl.train import pretrain as pretraining
from speechssl.train.pretrain import pretrain, split
from speechssl.train.pretrain_config import config_of
from tests.toys import MICRO_RUN, changed, micro_run
from tests.train.conftest import rows, tensors

EFFECTS = ("speed", "pitch", "mix", "reverb", "noise", "telephone", "low_pass", "high_pass")
AUGMENT = BatchAugmentConfig.model_validate(dict.fromkeys(EFFECTS, 0.5))
RUN = changed(MICRO_RUN, augment=AUGMENT, loop__steps=4, loop__validate_every=4, loop__checkpoint_every=2)


@pytest.mark.slow
@pytest.mark.usefixtures("two_threads")
def test_a_stopped_run_resumes_bit_for_bit(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretrain([corpus], tmp_path / "whole", config=RUN)
    with monkeypatch.context() as patch:
        counted = iter(range(1, 100))
        patch.setattr(loop, "any_rank", lambda flag, device: flag or next(counted) == 3)
        assert not pretrain([corpus], tmp_path / "stopped", config=RUN).finished
    pretrain([corpus], tmp_path / "stopped", config=RUN)
    ours, theirs = tensors(tmp_path / "stopped"), tensors(tmp_path / "whole")
    assert [key for key, value in theirs.items() if not torch.equal(ours[key], value)] == []
    assert rows(tmp_path / "stopped") == rows(tmp_path / "whole")


def test_micro_batches_give_the_same_run(corpus: Path, tmp_path: Path) -> None:
    still = changed(RUN, encoder__transformer__dropout=0.0, encoder__transformer__attention_dropout=0.0, loop__steps=2)
    for parts in (1, 2):
        pretrain([corpus], tmp_path / str(parts), config=changed(still, loop__accumulation=parts))
    for one, two in zip(rows(tmp_path / "1"), rows(tmp_path / "2"), strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)


def test_validation_is_on_clean_audio(corpus: Path) -> None:
    train, valid = split([WaveformStore(corpus)], RUN)
    assert train.augment == AUGMENT
    assert valid.augment == NO_AUGMENT
    _, clean = split([WaveformStore(corpus)], changed(RUN, augment=NO_AUGMENT))
    assert torch.equal(valid.batch(1).waveforms, clean.batch(1).waveforms)


def test_the_settings_of_the_guide() -> None:
    guide = Path(__file__).parents[2] / "docs" / "guides" / "pretrain.md"
    [shown] = re.findall(r"^```toml\n(.*?)^```$", guide.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    config = config_of("hubert").model_validate(tomllib.loads(shown))
    assert config.augment != NO_AUGMENT
    for name in BatchAugmentConfig.model_fields:
        assert f"`{name}`" in guide.read_text(encoding="utf-8"), name


def test_speed_with_units_is_refused_before_units_are_made(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(pretraining, "labels_of", never)
    config = changed(micro_run("hubert"), augment__speed=0.3)
    with pytest.raises(UserError, match=r"augment\.speed=0\.3"):
        pretrain([corpus], tmp_path / "run", config=config)
