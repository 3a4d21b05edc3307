"""The records of manifests: an utterance, and a rejected one."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from speechssl.config import Config
from speechssl.data.values import extra_of, folded, is_missing, name_of, stripped, text_of
from speechssl.text import normalize_transcript


def _plain_extras(value: Any) -> Any:
    """Names and texts stripped and in NFC, None for what is missing; lists and objects are left to be refused."""
    if not isinstance(value, Mapping):
        return {} if is_missing(value) else value
    return {
        stripped(str(name)): each if isinstance(each, list | dict) else extra_of(each) for name, each in value.items()
    }


Name = Annotated[str | None, BeforeValidator(name_of)]


class Utterance(Config):
    """One labelled or unlabelled stretch of an audio file.

    Names and texts are stripped and in Unicode's form NFC, so that equal ones are equal; a number becomes text (1 and
    1.0 are "1"). Missing values (null, NaN, an empty text: see `values`) are None.

    Attributes:
        audio: path of the file; in a manifest a relative one is relative to the manifest's folder.
        offset: where the stretch starts, s.
        duration: its length, s; 0: to the end of the file, when the length is not known.
        speaker: an identifier that is unique in the manifest.
        text: the transcript.
        label: the class, for example an emotion or a word.
        language: an identifier such as "en".
        split: for example "train" or "test", where the corpus has official ones.
        extras: all other values, flat.
    """

    audio: str
    offset: float = 0.0
    duration: float
    speaker: Name = None
    text: Annotated[str | None, BeforeValidator(text_of)] = None
    label: Name = None
    language: Name = None
    split: Name = None
    extras: Annotated[dict[str, str | int | float | bool | None], BeforeValidator(_plain_extras)] = Field(
        default_factory=dict
    )

    def in_split(self, name: str | None) -> bool:
        """Whether the utterance is of a split; capitals do not count, and every utterance is of None.

        A missing value, such as "" or "nan", is the name of no split.

        >>> each = Utterance(audio="a.wav", duration=1.0, split="Test")
        >>> [each.in_split(name) for name in ("test", " TEST", "train", "nan", None)]
        [True, True, False, False, True]
        """
        if name is None:
            return True
        try:
            wanted = name_of(name)
        except ValueError:
            return False
        return wanted is not None and self.split is not None and folded(self.split) == folded(wanted)


class Reject(Config):
    """An utterance that was left out, with the reason.

    Attributes:
        audio: path of the file.
        reason: why, in one line.
        offset: where the utterance starts, s; None when it starts with the file.
        duration: its length, s; None where it reaches to the end of the file.
    """

    audio: str
    reason: str
    offset: float | None = None
    duration: float | None = None


def said(utterance: Utterance) -> str:
    """The transcript of an utterance by the rules of its language; empty where there is none.

    >>> said(Utterance(audio="a.wav", duration=1.0, text="Isı 3,5 derece.", language="tr"))
    'ısı 3,5 derece'
    """
    return normalize_transcript(utterance.text or "", utterance.language)


def wordless_note(utterances: Iterable[Utterance]) -> str:
    """Message about texts without a word, such as "?!", which cannot be trained on; empty where there are none.

    >>> wordless_note([Utterance(audio="a.wav", duration=1.0, text="?!"), Utterance(audio="b.wav", duration=1.0)])
    '1 utterance left out: no word in its text'
    """
    count = sum(1 for each in utterances if each.text and not said(each))
    if count == 1:
        return "1 utterance left out: no word in its text"
    return f"{count} utterances left out: no word in their text" if count else ""
