"""IEMOCAP: two people talk, acted and improvised; the benchmark of emotion in English conversation.

Story: ten actors in five sessions, a woman and a man in each, play scripts and improvise. As usual, four
classes are read: angry, happy (with excited), neutral and sad, 5,531 utterances; the five sessions are the folds.
Licence: IEMOCAP's own (research, on request to USC); it may not be redistributed.
Citation: Busso, Bulut, Lee, Kazemzadeh, Mower, Kim, Chang, Lee, Narayanan, "IEMOCAP: Interactive emotional dyadic
motion capture database", Language Resources and Evaluation 42(4), 2008.

Layout, as published: `SessionN/dialog/EmoEvaluation/*.txt` (one line `[start - end] NAME EMOTION [...]` per utterance),
`SessionN/sentences/wav/DIALOG/NAME.wav`, `SessionN/dialog/transcriptions/DIALOG.txt`.
In `Ses01F_impro01_M003`, F is the actor with the markers; the speaker is the letter of the last part: `Ses01M`.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from speechssl.config import Config, UserError
from speechssl.data.corpora import CorpusInfo, duration_of
from speechssl.data.manifest import Utterance

INFO = CorpusInfo(
    name="iemocap",
    story="Real: ten American actors talk in pairs, scripted and improvised; angry, happy, neutral, sad; transcribed.",
    licence="IEMOCAP's own: research, on request",
    citation="Busso et al., IEMOCAP, Language Resources and Evaluation 42(4), 2008",
    source="https://sail.usc.edu/iemocap",
    hours=7.0,
    utterances=5531,
    speakers=10,
    synthetic=False,
)

_FOLDER = "IEMOCAP_full_release"
_LINE = re.compile(r"\[[\d.]+ - [\d.]+\]\t(Ses0(\d)[FM]_\w+_([FM])[X\d]+)\t(\w+)\t")
_TEXT = re.compile(r"^(Ses\w+) \[[^\]]*\]:\s*(.*)$", re.MULTILINE)
_EMOTIONS: Mapping[str, str] = MappingProxyType(
    {"ang": "angry", "hap": "happy", "exc": "happy", "neu": "neutral", "sad": "sad"}
)

_log = logging.getLogger(__name__)


class Settings(Config):
    """The corpus has no options."""


def prepare(root: Path, settings: Settings = Settings()) -> Iterator[Utterance]:  # noqa: ARG001, B008 -- every corpus is called with settings; they are frozen
    """Yield the utterances of the four classes by session and name.

    Args:
        root: holds `Session1` to `Session5`, itself or in `IEMOCAP_full_release`.
        settings: none.

    Returns:
        Utterances with label, speaker ("Ses01F" to "Ses05M"), text, language "en"; extras `session` (1 to 5: the
        folds), `dialog`, `sex`, `emotion` (as annotated) and `improvised`.

    Raises:
        UserError: the corpus is not there.
    """
    root = Path(root).resolve()
    folder = next((each for each in (root, root / _FOLDER, root / "IEMOCAP") if any(each.glob("Session[1-5]"))), None)
    if folder is None:
        raise UserError(
            f"{root}: no Session1 to Session5 in it; IEMOCAP is given on request ({INFO.source}): "
            f"unpack its archive so that {root / _FOLDER / 'Session1'} is there"
        )
    return _read(folder)


def _read(folder: Path) -> Iterator[Utterance]:
    annotated: dict[str, re.Match[str]] = {}
    for path in sorted(folder.glob("Session[1-5]/dialog/EmoEvaluation/*.txt")):
        if not path.name.startswith("."):  # the archive holds macOS's hidden metadata files
            annotated |= {match[1]: match for match in _LINE.finditer(_read_text(path)) if match[4] in _EMOTIONS}
    if not annotated:
        raise UserError(f"{folder}: no utterance in Session*/dialog/EmoEvaluation/*.txt")
    if len(annotated) != INFO.utterances:
        _log.warning("%s: %d utterances of the four classes, expected %d", folder, len(annotated), INFO.utterances)
    texts: dict[str, str] = {}
    for path in sorted(folder.glob("Session[1-5]/dialog/transcriptions/*.txt")):
        if not path.name.startswith("."):
            texts |= {match[1]: match[2].strip() for match in _TEXT.finditer(_read_text(path))}
    for name in sorted(annotated):
        session, letter, emotion = annotated[name].group(2, 3, 4)
        dialog = name.rpartition("_")[0]
        path = folder / f"Session{session}" / "sentences" / "wav" / dialog / f"{name}.wav"
        yield Utterance(
            audio=str(path),
            duration=duration_of(path),
            speaker=f"Ses0{session}{letter}",
            text=texts.get(name) or None,
            label=_EMOTIONS[emotion],
            language="en",
            extras={
                "session": int(session),
                "dialog": dialog,
                "sex": "female" if letter == "F" else "male",
                "emotion": emotion,
                "improvised": "impro" in dialog,
            },
        )


def _read_text(path: Path) -> str:
    """Some transcriptions have a stray byte that is no UTF-8."""
    return path.read_text(encoding="utf-8", errors="replace")
