"""What a pretraining run leaves, and what it refuses."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from speechssl.config import UserError, dump_config, load_config
from speechssl.data.marks import Values
from speechssl.data.parts import pack_shards
from speechssl.data.training_audio import read_training_audio
from speechssl.data.waveforms import WaveformStore
from speechssl.models.encoder import PRESETS
from speechssl.models.storage import load_encoder, read_model_config
from speechssl.train.pretrain import pretrain, split
from speechssl.train.pretrain_config import config_of, runs
from tests.toys import MICRO_RUN, changed, normalized_tones, toy_corpus

SHORT = changed(MICRO_RUN, loop__steps=2, loop__validate_every=2, loop__checkpoint_every=2, loop__validate_batches=1)


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pretrain") / "run"
    pretrain([corpus], out, config=SHORT, command="speechssl pretrain …")
    return out


def test_the_run_folder_is_a_model_folder(run: Path) -> None:
    names = {path.name for path in run.iterdir() if path.is_file()}
    model = {"config.json", "model.safetensors", "training_audio.json"}
    assert names == model | {"recipe.toml", "data.json", "log.jsonl", "metrics.json", "last.pt", "best.pt"}
    state = torch.load(run / "last.pt", weights_only=True)["model"]
    encoder = load_encoder(run)
    assert not encoder.training
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, state[f"encoder.{name}"]), name
    waveforms = torch.from_numpy(normalized_tones(2, 0.5))
    assert encoder(waveforms).frames.shape == (2, 24, 32)


def test_the_model_tells_where_it_comes_from(run: Path, corpus: Path) -> None:
    config = read_model_config(run)
    provenance = config["provenance"]
    assert provenance["corpora"] == [str(corpus)]
    assert (provenance["steps"], provenance["seconds_seen"], provenance["synthetic"]) == (2, 8.0, False)
    assert provenance["command"] == "speechssl pretrain …"
    assert 0 < provenance["hours"] < 24 * 1.6 / 3600 + 1e-3
    assert config["objective"]["name"] == "wav2vec2"
    assert config["objective"]["quantizer"]["codes"] == 24
    with safe_open(run / "model.safetensors", framework="pt") as file:
        names = list(file.keys())
        codebooks = file.get_tensor("objective.quantizer.codebooks")
    assert {name.split(".")[0] for name in names} == {"encoder", "objective"}
    assert len(names) == len(torch.load(run / "last.pt", weights_only=True)["model"])  # each once
    assert codebooks.shape == (2, 24, 8)


def test_the_recipe_is_the_run(run: Path) -> None:
    assert load_config(config_of("wav2vec2"), run / "recipe.toml") == SHORT


@pytest.mark.parametrize("name", runs("wav2vec2"))
def test_every_preset_can_be_written_and_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(dump_config(runs("wav2vec2")[name]))
    assert load_config(config_of("wav2vec2"), path) == runs("wav2vec2")[name]
    assert runs("wav2vec2")[name].encoder == PRESETS[name]
    assert runs("wav2vec2")[name].crops.normalize == PRESETS[name].normalize  # crops come as the encoder wants them


def test_a_folder_with_a_run_is_not_begun_anew(run: Path, corpus: Path) -> None:
    with pytest.raises(UserError, match="holds a run already"):
        pretrain([corpus], run, config=SHORT, resume=False)
    with pytest.raises(UserError, match=r"other settings \(seed"):
        pretrain([corpus], run, config=changed(SHORT, seed=4))
    before = (run / "last.pt").read_bytes()
    assert pretrain([corpus], run, config=SHORT).finished
    assert (run / "last.pt").read_bytes() == before


def test_a_model_of_another_origin_is_not_replaced(run: Path, corpus: Path, tmp_path: Path) -> None:
    """A folder as it is released: a model without a run; but a run that was killed before its checkpoint goes on."""
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match="holds a model of another origin, and no run to resume"):
        pretrain([corpus], tmp_path, config=SHORT)
    (tmp_path / "recipe.toml").write_text(dump_config(changed(SHORT, seed=4)))
    with pytest.raises(UserError, match="holds a model of another origin"):
        pretrain([corpus], tmp_path, config=SHORT)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    (tmp_path / "recipe.toml").write_text(dump_config(SHORT))
    assert pretrain([corpus], tmp_path, config=SHORT).finished


def test_a_checkpoint_of_another_model(run: Path, corpus: Path, tmp_path: Path) -> None:
    config = changed(SHORT, encoder__transformer__dim=48)
    (tmp_path / "recipe.toml").write_text(dump_config(config))
    for name in ("last.pt", "data.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    with pytest.raises(UserError, match="checkpoint of another model") as caught:
        pretrain([corpus], tmp_path, config=config)
    assert "\n" not in str(caught.value)
    torch.save({"model": {}}, tmp_path / "last.pt")
    with pytest.raises(UserError, match="checkpoint of another model"):
        pretrain([corpus], tmp_path, config=config)


def test_other_weights_for_another_seed(run: Path, corpus: Path, tmp_path: Path) -> None:
    pretrain([corpus], tmp_path / "run", config=changed(SHORT, seed=4))
    name = "encoder.projection.weight"
    states = [torch.load(folder / "last.pt", weights_only=True)["model"][name] for folder in (run, tmp_path / "run")]
    assert not torch.allclose(states[0], states[1])


def test_shards_behind_an_address_train_the_same_model(run: Path, corpus: Path, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    pack_shards(WaveformStore(corpus).utterances, tmp_path / "shards", 3)
    fsspec.filesystem("memory").put(f"{tmp_path}/shards", "/pretrained-on", recursive=True)
    pretrain([Path("memory://pretrained-on")], tmp_path / "run", config=SHORT)
    states = [torch.load(folder / "last.pt", weights_only=True)["model"] for folder in (run, tmp_path / "run")]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    assert read_training_audio(run) == read_training_audio(tmp_path / "run")


# What is held out


class Renamed(WaveformStore):
    """The same corpus as if its recordings were others."""

    def __init__(self, folder: Path, number: int) -> None:
        super().__init__(folder)
        self.number = number
        self.utterances = [
            each.model_copy(update={"audio": f"/{number}/{place}.wav"}) for place, each in enumerate(self.utterances)
        ]

    def content_ids(self) -> list[str]:
        return [each.audio for each in self.utterances]

    def marks(self, indices: Sequence[int]) -> list[Values]:
        return [np.sort(own ^ np.uint64(self.number)) for own in super().marks(indices)]


def test_training_and_validation_share_nothing(corpus: Path) -> None:
    stores = [Renamed(corpus, number) for number in range(2)]
    train, valid = split(stores, MICRO_RUN)
    members = [{(unit.store, index) for unit in part.units for index in unit.utterances} for part in (train, valid)]
    assert members[0] & members[1] == set()
    assert len(members[0] | members[1]) == 48
    again = split(stores, MICRO_RUN)[1]
    assert [unit.utterances for unit in again.units] == [unit.utterances for unit in valid.units]
    other = split(stores, changed(MICRO_RUN, seed=9))[1]
    assert [unit.utterances for unit in other.units] != [unit.utterances for unit in valid.units]
    for part in (train, valid):
        assert part.seconds >= 2 * MICRO_RUN.crops.batch_seconds


def test_copies_of_what_is_held_out_are_not_trained_on(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second corpus has the recordings of the first under other names; each side keeps those of its own."""
    stores = [WaveformStore(corpus), Renamed(corpus, 1)]
    ids = stores[0].content_ids()
    stores[1].content_ids = lambda: ids  # type: ignore[method-assign]
    train, valid = split(stores, MICRO_RUN)
    trained, held = ({ids[i] for unit in part.units for i in unit.utterances} for part in (train, valid))
    assert trained
    assert trained.isdisjoint(held)
    assert "their audio is held out for validation, by another name" in capsys.readouterr().err


def test_what_was_heard_is_recorded(run: Path, corpus: Path, tmp_path: Path) -> None:
    store = WaveformStore(corpus)
    audio = read_training_audio(run)
    assert audio.pretraining.known
    assert audio.pretraining.ids == set(store.content_ids())
    assert not audio.fine_tuning.ids
    assert not read_training_audio(tmp_path).pretraining.known  # a model without a record


def test_no_store_is_held_out_whole(corpus: Path) -> None:
    """Also of a corpus with two long recordings one is trained on; of one there is nothing to hold out."""
    store = WaveformStore(corpus)
    for lengths in ([16_000, 160_000], [160_000, 16_000]):
        store.utterances, store.lengths = store.utterances[:2], np.array(lengths)
        train, valid = split([store], MICRO_RUN)
        assert (len(train.units), len(valid.units)) == (1, 1)


@pytest.mark.slow
def test_a_large_corpus_holds_out_its_share(corpus: Path) -> None:
    train, valid = split([Renamed(corpus, number) for number in range(60)], changed(MICRO_RUN, valid_share=0.1))
    assert valid.seconds / (train.seconds + valid.seconds) == pytest.approx(0.1, abs=0.03)


def test_a_run_on_other_data_is_refused(run: Path, tmp_path: Path) -> None:
    other = toy_corpus(tmp_path, utterances=20)
    with pytest.raises(UserError, match="data other than") as caught:
        pretrain([other], run, config=SHORT)
    assert "\n" not in str(caught.value)


def test_a_corpus_that_is_too_small(tmp_path: Path) -> None:
    corpus = toy_corpus(tmp_path, utterances=2, seconds=0.3)
    with pytest.raises(UserError, match="nothing to train on"):
        pretrain([corpus], tmp_path / "run", config=MICRO_RUN)


def test_a_single_recording(tmp_path: Path) -> None:
    corpus = toy_corpus(tmp_path, utterances=1, seconds=5.0)
    with pytest.raises(UserError, match="corpus: one utterance cannot be both trained on and held out"):
        pretrain([corpus], tmp_path / "run", config=MICRO_RUN)


def test_crops_too_short_for_masks(corpus: Path, tmp_path: Path) -> None:
    config = changed(SHORT, crops__min_seconds=0.2)
    with pytest.raises(UserError, match=r"crops\.min_seconds=0\.2 gives 9 frames; wav2vec2 needs at least 12"):
        pretrain([corpus], tmp_path / "run", config=config)


@pytest.mark.parametrize("part", ["crops", "encoder"])
def test_crops_that_the_encoder_does_not_get_later_are_refused(part: str, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"crops\.normalize=(true|false) and encoder\.normalize=(true|false): "):
        pretrain([corpus], tmp_path / "run", config=changed(SHORT, **{f"{part}__normalize": False}))
    assert not (tmp_path / "run" / "recipe.toml").exists()


def test_no_corpus_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a prepared corpus"):
        pretrain([tmp_path / "none"], tmp_path / "run", config=MICRO_RUN)


def test_the_same_corpus_twice_is_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the same corpus twice"):
        pretrain([corpus, corpus], tmp_path / "run", config=SHORT)
