"""Single channels of recordings in a Kaldi data folder, which cannot be read: the mean of all channels is."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from speechssl.config import UserError
from speechssl.data.channels import channels_of
from speechssl.data.corpora.kaldi_tables import read_table

TABLE = "reco2file_and_channel"


class Channels:
    """Recordings that are one channel of a file with several.

    A recording is one where `reco2file_and_channel` names its channel, or where another recording has the same file.

    Args:
        folder: the data folder.
        places: the location of the audio of each recording that has one.

    Raises:
        UserError: a line of `reco2file_and_channel` that is not `RECORDING FILE CHANNEL`.
    """

    def __init__(self, folder: Path, places: Mapping[str, str]):
        path = folder / TABLE
        self._named = read_table(path) if path.is_file() else {}
        wrong = next((name for name, value in self._named.items() if len(value.split()) != 2), None)
        if wrong is not None:
            given = f"{wrong} {self._named[wrong]}"
            raise UserError(f"{path}: given {given!r}, allowed: RECORDING FILE CHANNEL, such as 'sw02001-A sw02001 A'")
        self._places, self._names = places, Counter(places.values())
        self._counts: dict[str, int] = {}

    def reason(self, recording: str) -> str:
        """Why the audio of a recording is not that of the tables; empty where it is."""
        place = self._places[recording]
        if recording not in self._named and self._names[place] == 1:
            return ""
        if place not in self._counts:
            self._counts[place] = channels_of(place)
        if self._counts[place] == 1:
            return ""
        what = (
            f"{TABLE} names one channel"
            if recording in self._named
            else f"{self._names[place]} recordings of wav.scp are one file"
        )
        return f"{what}, and the file has {self._counts[place]} channels; write each channel to a file of its own"
