"""Which utterances are learnt: the same whatever the manifest's order, and never a speaker on both sides."""

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from speechssl.config import UserError
from speechssl.data.labelled import Example
from speechssl.data.lists import utterance_id
from speechssl.data.marks import Values
from speechssl.data.utterance import Utterance
from speechssl.data.waveforms import WaveformStore
from speechssl.train.examples import Labelled, Learn, choose, examples_of
from speechssl.train.labelled_checks import refuse_shared

ITEMS = [
    Utterance(
        audio=f"/corpus/{number:02}.wav",
        duration=6.0,
        speaker=f"s{number % 6}",
        label="abc"[number // 2 % 3],
        text=f"Text, {number}!",
        split="test" if number % 6 == 5 else "train",
    )
    for number in range(48)
]


class NoSamples(WaveformStore):
    """A prepared corpus of which nothing but the utterances is looked at; their audio has the id in `extras`."""

    def __init__(self, items: list[Utterance]) -> None:
        self.utterances, self.folder = list(items), Path("corpus")
        self.lengths = np.array([round(16000 * item.duration) for item in items])

    def content_ids(self) -> list[str]:
        return [str(item.extras.get("id", item.audio)) for item in self.utterances]

    def marks(self, indices: Sequence[int]) -> list[Values]:
        return [np.zeros(0, dtype=np.uint64) for _ in indices]


def store_of(items: list[Utterance]) -> WaveformStore:
    return NoSamples(items)


def chosen(items: list[Utterance], learn: Learn = "label", **options: Any) -> Labelled:
    return choose(store_of(items), learn, **options)


def names(items: list[Utterance], part: list[Example]) -> dict[str, str]:
    return {items[example.index].audio: example.target for example in part}


def test_every_known_target(capfd: pytest.CaptureFixture[str]) -> None:
    items = [*ITEMS[:3], ITEMS[3].model_copy(update={"label": None, "text": " ?! "})]
    assert examples_of(store_of(items), "label") == [Example(0, "a"), Example(1, "a"), Example(2, "b")]
    assert capfd.readouterr().err == ""
    assert examples_of(store_of(items), "text") == [Example(number, f"text {number}") for number in range(3)]
    assert "1 utterance left out: no word in its text" in capfd.readouterr().err
    bare = [item.model_copy(update={"label": None}) for item in ITEMS]
    with pytest.raises(UserError, match="corpus: no utterance has a label, so there is nothing to train on"):
        chosen(bare)


@pytest.mark.parametrize(
    "options",
    [{"shots": 3}, {"minutes": 1.0}, {"valid_share": 0.2}, {"valid_share": 0.0}, {"split": "train", "shots": 2}],
)
def test_the_order_of_the_manifest_does_not_matter(options: dict[str, Any]) -> None:
    shuffled = random.Random(3).sample(ITEMS, len(ITEMS))
    one, other = (chosen(items, seed=2, **options) for items in (ITEMS, shuffled))
    assert names(ITEMS, one.train) == names(shuffled, other.train)
    assert names(ITEMS, one.valid) == names(shuffled, other.valid)
    assert one.notes == other.notes
    if "shots" in options or "minutes" in options:
        assert names(ITEMS, chosen(ITEMS, seed=3, **options).train) != names(ITEMS, one.train)


def test_shots() -> None:
    few, more = chosen(ITEMS, shots=2), chosen(ITEMS, shots=5)
    assert Counter(example.target for example in more.train) == {"a": 5, "b": 5, "c": 5}
    assert set(few.train) < set(more.train)
    assert few.valid == []
    assert few.notes == ("nothing is held out: the run has a fixed length",)
    with pytest.raises(UserError, match="corpus: 17 shots asked for, but label 'a' has 16, 'b' has 16, 'c' has 16"):
        chosen(ITEMS, shots=17)


def test_minutes() -> None:
    found = chosen(ITEMS, "text", minutes=2.0)
    assert len(found.train) == 20
    assert found.valid == []
    assert set(chosen(ITEMS, "text", minutes=1.0).train) < set(found.train)
    with pytest.raises(UserError, match=r"corpus: 10 minutes asked for, the manifest holds 4\.80"):
        chosen(ITEMS, minutes=10.0)


def test_a_list_and_a_split(tmp_path: Path) -> None:
    path = tmp_path / "few.txt"
    path.write_text("# three\n" + "\n".join(utterance_id(ITEMS[number]) for number in (40, 4, 5)) + "\n")
    assert [each.index for each in chosen(ITEMS, ids=path, valid_share=0.0).train] == [4, 5, 40]
    assert [each.index for each in chosen(ITEMS, ids=path, split="test", valid_share=0.0).train] == [5]
    with pytest.raises(UserError, match="corpus: no split 'dev'; there are test, train"):
        chosen(ITEMS, split="dev")
    bare = [item.model_copy(update={"label": None}) if item.split == "test" else item for item in ITEMS]
    with pytest.raises(UserError, match="no utterance with a label is left by the given split or list"):
        chosen(bare, split="test")
    path.write_text("s9/nobody\n")
    with pytest.raises(UserError, match="1 of 1 listed utterances are not in the corpus"):
        chosen(ITEMS, ids=path)


def test_a_split_in_other_capitals() -> None:
    mixed = [item.model_copy(update={"split": "TEST"}) if number % 2 else item for number, item in enumerate(ITEMS)]
    tested = [number for number, item in enumerate(ITEMS) if number % 2 or item.split == "test"]
    assert [each.index for each in chosen(mixed, split="Test", valid_share=0.0).train] == tested


def test_a_speaker_in_other_capitals_is_not_held_out() -> None:
    mixed = [
        item.model_copy(update={"speaker": str(item.speaker).upper()}) if number // 6 % 2 else item
        for number, item in enumerate(ITEMS)
    ]
    for seed in range(4):
        found = chosen(mixed, valid_share=0.3, seed=seed)
        trained, held = ({str(mixed[one.index].speaker).lower() for one in part} for part in (found.train, found.valid))
        assert held
        assert trained.isdisjoint(held)


@pytest.mark.parametrize("learn", ["label", "text"])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_held_out_by_speaker(learn: Learn, share: float) -> None:
    found = chosen(ITEMS, learn, valid_share=share, seed=1)
    refuse_shared(store_of(ITEMS), found.train, found.valid)
    assert len(found.train) + len(found.valid) == len(ITEMS)
    assert abs(len(found.valid) / len(ITEMS) - share) < 1 / 6
    people = {ITEMS[example.index].speaker for example in found.valid}
    assert found.notes == (f"held out for early stopping: {len(found.valid)} utterances of {len(people)} speakers",)


def test_why_nothing_is_held_out() -> None:
    few = [item for item in ITEMS if item.speaker in ("s0", "s1", "s2")]
    nameless = [*ITEMS, ITEMS[0].model_copy(update={"speaker": None, "audio": "/corpus/99.wav"})]
    for items, reason in ((few, "there are 3 speakers"), (nameless, "some speakers are not known")):
        found = chosen(items)
        assert (len(found.train), found.valid) == (len(items), [])
        assert found.notes == (f"nothing is held out for early stopping: {reason}",)


def test_no_class_is_lost_to_the_held_out_side() -> None:
    """A class that one speaker alone has: were it held out, the model would never hear of it."""
    for seed in range(12):
        items = [item.model_copy(update={"label": "rare"}) if item.speaker == "s3" else item for item in ITEMS]
        found = chosen(items, valid_share=0.2, seed=seed)
        assert {example.target for example in found.train} == {"a", "b", "c", "rare"}
        if any(items[example.index].speaker == "s3" for example in chosen(ITEMS, valid_share=0.2, seed=seed).valid):
            assert found.notes == ("nothing is held out for early stopping: all speakers of 'rare' would be",)


def test_an_impossible_share_is_one_line() -> None:
    with pytest.raises(UserError, match="corpus: fractions must be above 0"):
        chosen(ITEMS, valid_share=1.0)


def test_copies_of_what_is_held_out_are_not_trained_on() -> None:
    """The second utterance of every speaker has the audio of the next speaker's first."""
    items = [
        item.model_copy(update={"extras": {"id": f"{(number + 1) % 6 if 6 <= number < 12 else number}"}})
        for number, item in enumerate(ITEMS)
    ]
    found = chosen(items, valid_share=0.2)
    ids = [str(item.extras["id"]) for item in items]
    assert {ids[each.index] for each in found.train}.isdisjoint(ids[each.index] for each in found.valid)
    assert any("training utterances left out: their audio is held out" in note for note in found.notes)
    with pytest.raises(UserError, match="its audio is both trained on and held out"):
        refuse_shared(store_of(items), [Example(6, "a")], [Example(1, "a")])
