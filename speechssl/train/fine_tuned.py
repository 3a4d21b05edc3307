"""The model folder that fine-tuning writes: weights, what they were trained on, and where they came from."""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from speechssl import __version__
from speechssl.data.labelled import Example
from speechssl.data.training_audio import AudioRecord, TrainingAudio, read_training_audio, write_training_audio
from speechssl.data.waveforms import WaveformStore
from speechssl.models.bundled import origin_of
from speechssl.models.ctc import CTCModel
from speechssl.models.heads import Head, save_head
from speechssl.text import TEXT_RULES
from speechssl.train.supervised import Supervised


def model_saver(
    model: Head,
    store: WaveformStore,
    train: Sequence[Example],
    valid: Sequence[Example],
    *,
    out: Path,
    start: Path | None,
    before: Mapping[str, Any],
    command: str,
    keep_start: float,
) -> Callable[[Supervised, int, float], None]:
    """Function that writes the model folder; with ``keep_start``, of weights averaged with the initial ones.

    WiSE-FT: Wortsman et al. 2022, "Robust fine-tuning of zero-shot models" (arXiv 2109.01903): the mean of the weights
    before and after fine-tuning is better than either outside the fine-tuning data, such as on other speakers and
    rooms. Of a recogniser that is trained further, ``before`` is the `config.json`.
    """
    earlier: Mapping[str, Any] = before.get("training", {})
    items = [store.utterances[example.index] for example in train]
    used = TrainingAudio(
        fine_tuning=AudioRecord.of(store, (example.index for example in train)),
        selection=AudioRecord.of(store, (example.index for example in valid)),
    )
    audio_record = read_training_audio(start) | used
    begin = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()} if keep_start else {}

    def save(trained: Supervised, step: int, seconds_seen: float) -> None:
        training = {
            "corpus": str(store.folder),
            "content_hash": store.content_hash(),
            "utterances": len(items),
            "minutes": round(sum(item.duration for item in items) / 60, 2),
            "speakers": sorted(
                {item.speaker for item in items if item.speaker is not None} | {*earlier.get("speakers", ())}
            ),
        }
        if isinstance(model, CTCModel):
            training["text_rules"] = TEXT_RULES
            languages = {item.language for item in items if item.language is not None}
            training["languages"] = sorted(languages | {*earlier.get("languages", ())})
        provenance = {
            "speechssl": __version__,
            "torch": torch.__version__,
            "command": command,
            "start": None if start is None else origin_of(start),
            "synthetic": any(bool(item.extras.get("synthetic")) for item in items)
            or bool(before.get("provenance", {}).get("synthetic")),
            "steps": step,
            "seconds_seen": round(seconds_seen, 1),
        }
        saved = trained.model
        if keep_start:
            saved = copy.deepcopy(trained.model).cpu()
            now = saved.state_dict()
            saved.load_state_dict({name: torch.lerp(value, begin[name], keep_start) for name, value in now.items()})
        write_training_audio(out, audio_record)  # before the model: never a model without its record
        save_head(out, saved, extra={"training": training, "provenance": provenance})

    return save
