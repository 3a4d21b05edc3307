"""Files of models that claim what they do not hold end in one line, before anything of that size is made."""

import tracemalloc
from collections.abc import Generator
from pathlib import Path

import pytest

from speechssl.config import UserError
from speechssl.interop import reading
from speechssl.interop.sources import open_source
from speechssl.models.encoder import EncoderConfig, SpeechEncoder
from speechssl.models.heads import load_head
from speechssl.models.shapes import check_size, encoder_shapes
from speechssl.models.storage import encoder_dim, load_encoder, model_hash
from tests.interop.hostile import HEADS, JSON, PICKLES, TENSORS, Maker
from tests.interop.theirs import MODELS, make, save
from tests.toys import MICRO_ENCODER, changed

OPENED = JSON | TENSORS | PICKLES
MEMORY = 150_000_000  # bytes of Python's objects, the files of some MB included


@pytest.fixture(autouse=True)
def _bounded(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """No encoder is built that is much larger than the toys, and Python's objects stay small."""
    build = SpeechEncoder.__init__

    def built(self: SpeechEncoder, config: EncoderConfig) -> None:
        layers = config.transformer.layers + config.transformer.position_stack + len(config.conv.layers)
        assert layers < 10_000
        assert sum(torch_numbers(shape) for shape in encoder_shapes(config).values()) < 30_000_000
        build(self, config)

    monkeypatch.setattr(SpeechEncoder, "__init__", built)
    yield
    tracemalloc.stop()


def torch_numbers(shape: tuple[int, ...]) -> int:
    total = 1
    for each in shape:
        total *= each
    return total


def refused(message: str) -> None:
    """What every refusal has in common."""
    assert len(message) < 2000
    assert "\n" not in message
    assert message.isprintable()
    assert "weights_only" not in message
    assert "Weights only" not in message


def limited(maker: Maker, folder: Path, use) -> str:
    path = maker(folder)
    tracemalloc.start()
    with pytest.raises(UserError) as caught:
        use(path)
    assert tracemalloc.get_traced_memory()[1] < MEMORY
    tracemalloc.stop()
    refused(str(caught.value))
    return str(caught.value)


# What is counted one by one takes seconds where every call's types are checked.
LONG = ("instructions", "members", "tensors", "shared settings in", "lists without")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * any(word in name for word in LONG)) for name in OPENED]
)
def test_opened(name: str, tmp_path: Path) -> None:
    message = limited(OPENED[name], tmp_path / "model", open_source)
    assert message.startswith(f"{tmp_path / 'model'}")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in JSON | TENSORS if name.startswith("own")])
def test_own_folders_by_every_reader(name: str, tmp_path: Path) -> None:
    limited(OPENED[name], tmp_path / "model", load_encoder)
    for use in (encoder_dim, model_hash, load_head):  # some of these need not see the fault, and give their answer
        try:
            use(tmp_path / "model")
        except UserError as error:
            refused(str(error))


@pytest.mark.parametrize("name", HEADS)
def test_heads(name: str, tmp_path: Path) -> None:
    limited(HEADS[name], tmp_path / "model", load_head)


def test_messages_are_those_of_the_fault(tmp_path: Path) -> None:
    def message(name: str) -> str:
        return limited(OPENED[name], tmp_path / name, open_source)

    assert "settings hold more than 20000 values" in message("shared settings")
    assert "data.pkl is compressed to" in message("a bomb")
    assert "describe an encoder of 1000000003 layers, and the file holds" in message(
        "own: encoder.transformer.layers 0"
    )
    assert "describe an encoder of 1000000003 layers, and the file holds" in message("hub: num_hidden_layers 0")
    assert "nested too deep" in message("own: nested lists")
    assert "weight_map must be a table" in message("index: numbers")
    assert "names the shard '/etc/passwd', which is not beside it" in message("index: absolute")
    assert message("unsafe bin").endswith(
        "pytorch_model.bin: names posix.system, which is not part of a checkpoint; refused, no code was run"
    )


VARIANTS = {
    "gabor": MICRO_ENCODER,
    "group": changed(MICRO_ENCODER, conv__front="conv", conv__norm="group", conv__bias=False),
    "plain": changed(MICRO_ENCODER, conv__front="conv", feature_norm=False),
    "post": changed(MICRO_ENCODER, transformer__pre_norm=False),
    "wavlm": changed(MICRO_ENCODER, transformer__relative_buckets=8, transformer__relative_distance=20),
    "data2vec": changed(MICRO_ENCODER, transformer__position_stack=3),
    "squeezed": changed(MICRO_ENCODER, squeeze_factor=2),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_shapes_are_those_of_the_encoder(name: str) -> None:
    state = SpeechEncoder(VARIANTS[name]).state_dict()
    assert encoder_shapes(VARIANTS[name]) == {key: tuple(value.shape) for key, value in state.items()}


@pytest.mark.parametrize("name", MODELS)
def test_whole_models_pass(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[EncoderConfig] = []
    monkeypatch.setattr(
        reading, "check_size", lambda config, shapes: sizes.append(config) or check_size(config, shapes)
    )
    assert open_source(save(make(name), tmp_path)).encoder.config == sizes[0]


def test_the_size_of_a_file_is_the_measure() -> None:
    shapes = encoder_shapes(MICRO_ENCODER)
    check_size(MICRO_ENCODER, shapes)
    check_size(changed(MICRO_ENCODER, transformer__layers=3), shapes)  # an error may name the tensors that are missing
    with pytest.raises(ValueError, match="describe an encoder of 10003 layers, and the file holds"):
        check_size(changed(MICRO_ENCODER, transformer__layers=10_000), shapes)
    with pytest.raises(ValueError, match=r"describe an encoder of \d+ numbers, and the file holds \d+"):
        check_size(changed(MICRO_ENCODER, transformer__dim=4096), shapes)
