"""The protocol of one speaker: training, tuning and test on one voice, each side with other sentences."""

from collections.abc import Sequence
from itertools import combinations

from speechssl.config import UserError
from speechssl.data.labelled import Example
from speechssl.data.waveforms import WaveformStore

SAME_SPEAKER = "one speaker, other sentences"  # in the rows


def of_tested_speaker(store: WaveformStore, indices: Sequence[int], tested: Sequence[int]) -> list[int]:
    """Utterances of the one speaker who is tested.

    Raises:
        UserError: the tested utterances have several speakers, or an unknown one.
    """
    voices = {store.speakers[index] for index in tested}
    if None in voices:
        raise UserError(f"{store.folder}: --same-speaker needs the speaker of every test utterance; some have none")
    if len(voices) > 1:
        raise UserError(
            f"{store.folder}: --same-speaker tests one speaker, and the test side has {len(voices)}; give --test a "
            "list of one speaker's utterances"
        )
    return [index for index in indices if store.speakers[index] in voices]


def without_sentences_of(
    examples: dict[int, Example], side: Sequence[int], others: Sequence[int]
) -> tuple[list[int], int]:
    """Utterances without a sentence of a side, and the number of those that have one."""
    held = {examples[index].target for index in side}
    left = [index for index in others if examples[index].target not in held]
    return left, len(others) - len(left)


def refuse_sentences(
    store: WaveformStore,
    examples: dict[int, Example],
    *,
    labelled: Sequence[int],
    developed: Sequence[int],
    tested: Sequence[int],
) -> None:
    """Raise `UserError` where two sides have a sentence in common, or one has another speaker than the test side."""
    voice = store.speakers[tested[0]]
    uses = {"labelled": labelled, "used to tune the decoder": developed, "tested on": tested}
    for use, side in uses.items():
        other = next((index for index in side if store.speakers[index] != voice), None)
        if other is not None:
            raise UserError(
                f"{store.utterances[other].audio}: is {use}, and its speaker is {store.speakers[other]!r}; "
                f"--same-speaker takes speaker {voice!r} alone"
            )
    for (use, side), (other_use, other_side) in combinations(uses.items(), 2):
        places = {examples[index].target: index for index in other_side}
        both = next((index for index in side if examples[index].target in places), None)
        if both is not None:
            again = store.utterances[places[examples[both].target]].audio
            raise UserError(
                f"{store.utterances[both].audio}: is {use}, and its sentence is {other_use} in {again}; "
                "--same-speaker needs other sentences on each side"
            )
