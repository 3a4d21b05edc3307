"""Stretches: which are the same, and identifiers that are exact to the sample."""

from hypothesis import given
from hypothesis import strategies as st

from speechssl.audio import samples_to_seconds, seconds_to_samples
from speechssl.data.lists import list_ids, select, utterance_id
from speechssl.data.names import place_of, utterance_ids
from speechssl.data.stretches import exact_seconds, stretch_of
from speechssl.data.utterance import Utterance

DAY = 24 * 3600 * 16000


def clip(offset: float = 0.0, duration: float = 1.0, audio: str = "/a/m.wav") -> Utterance:
    return Utterance(audio=audio, offset=offset, duration=duration)


@given(st.integers(0, DAY))
def test_a_time_is_written_exactly(sample: int) -> None:
    text = exact_seconds(samples_to_seconds(sample))
    assert seconds_to_samples(float(text)) == sample


@given(st.integers(0, 999_999), st.integers(0, 5))
def test_what_six_digits_held_is_written_as_before(number: int, digits: int) -> None:
    seconds = number / 10**digits
    assert exact_seconds(seconds) == f"{seconds:g}"


def test_two_starts_in_a_day_long_file_differ() -> None:
    one, other = clip(10000.12), clip(10000.14)
    assert utterance_ids([one, other]) == ["m.wav@10000.12", "m.wav@10000.14"]
    assert list_ids([one, other]) == ["m@10000.12", "m@10000.14"]
    assert place_of(one) != place_of(other)
    assert stretch_of(one) != stretch_of(other)
    assert stretch_of(clip(0.1 + 0.2)) == stretch_of(clip(0.3))
    assert utterance_id(clip(1e-6)) == "m"


def test_a_list_names_windows_by_their_length() -> None:
    windows = [clip(0, 1), clip(0, 3), clip(5, 1)]
    assert select(windows, {"m@0+3", "m@5"}) == [1, 2]
    assert select(windows[1:], {"m"}) == [0]


def test_identifiers_are_composed() -> None:
    decomposed = clip(audio="/a/gru\u0308n.wav")
    assert utterance_id(decomposed) == "gr\u00fcn"
    assert select([decomposed], {"gru\u0308n"}) == [0]
