"""The records of a manifest: an utterance, and one that was left out."""

from pydantic import Field

from speechssl.config import Config
from speechssl.text import normalize_transcript


class Utterance(Config):
    """One labelled or unlabelled stretch of an audio file.

    Attributes:
        audio: path of the file; in a manifest a relative one is relative to the manifest's folder.
        offset: where the stretch starts, s.
        duration: its length, s; 0 when it is not known yet, then it reaches to the end of the file.
        speaker: an identifier that is unique in the manifest.
        text: the transcript.
        label: the class, for example an emotion or a word.
        language: an identifier such as "en".
        split: for example "train" or "test", where the corpus has official ones.
        extras: whatever else is known, flat.
    """

    audio: str
    offset: float = 0.0
    duration: float
    speaker: str | None = None
    text: str | None = None
    label: str | None = None
    language: str | None = None
    split: str | None = None
    extras: dict[str, str | int | float | bool | None] = Field(default_factory=dict)


class Reject(Config):
    """An utterance that was left out, and why.

    Attributes:
        audio: path of the file.
        reason: why, in one line.
        offset: where the utterance starts, s; None when it starts with the file.
    """

    audio: str
    reason: str
    offset: float | None = None


def said(utterance: Utterance) -> str:
    """The transcript of an utterance by the rules of its language; empty where there is none.

    >>> said(Utterance(audio="a.wav", duration=1.0, text="Isı 3,5 derece.", language="tr"))
    'ısı 3,5 derece'
    """
    return normalize_transcript(utterance.text or "", utterance.language)
