"""Speech recognition with few labels: fine-tuned, self-trained and from scratch, greedy and with an n-gram.

Everything is one run folder: `results.json` with the answers beside it, `worst.json`, and under `models/` complete
model folders with their tuned decoder and n-gram, which `speechssl predict` takes. A stage that was killed goes on
where it was; a second call on a finished run trains nothing.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from pydantic import Field, NonNegativeInt, PositiveInt

from speechssl.config import Config, UserError
from speechssl.data.labelled import Example
from speechssl.data.lists import utterance_id
from speechssl.data.waveforms import WaveformStore
from speechssl.embed.predict import DECODER, LM
from speechssl.experiments.asr_division import Division, divide
from speechssl.models.ctc import CTCModel
from speechssl.models.heads import emissions, load_head
from speechssl.models.storage import model_hash, write_atomic
from speechssl.scoring.decode import BeamDecoder, DecoderConfig, greedy
from speechssl.scoring.items import Answers, items_path, write_items
from speechssl.scoring.ngram import train_ngram
from speechssl.scoring.results import ResultRow, write_results
from speechssl.scoring.tuning import tune
from speechssl.scoring.wer import EditCounts, count_errors, error_rate, error_rate_difference
from speechssl.text import Vocabulary, normalize_transcript
from speechssl.train.finetune import finetune
from speechssl.train.finetune_config import FinetuneConfig
from speechssl.train.self_training import pseudo_label, student

FINE_TUNED, SCRATCH, SELF_TRAINED = "fine-tuned", "from scratch", "self-trained"
GREEDY, NGRAM = "greedy", "n-gram"
WORST = 20  # utterances shown in the report
_CHUNK = 64  # utterances whose waveforms are held at once

Emissions = list[Float32[np.ndarray, "frames symbols"]]


class AsrConfig(Config):
    """The experiment, beside the fine-tuning settings."""

    order: PositiveInt = 3  # of the n-gram of words
    beam_size: PositiveInt = 100
    rounds: NonNegativeInt = 1  # of self-training
    keep: float = Field(default=0.7, gt=0, le=1)  # share of the pseudo-labels that is kept
    scratch: bool = True  # also a model without pretraining
    tune_limit: PositiveInt = 150  # utterances of the development side that decoder weights are tuned on


@dataclass(frozen=True)
class Scores:
    """A model's answers with one way of decoding."""

    contender: str
    probe: str
    words: list[EditCounts]
    characters: list[EditCounts]
    written: list[str]
    model_hash: str


def recognise(
    corpus: Path,
    encoder: Path,
    out: Path,
    *,
    division: Division,
    config: AsrConfig,
    pretrained: FinetuneConfig,
    scratch: FinetuneConfig,
    lm_text: Path | None = None,
    command: str = "",
    say: "Say" = print,
) -> list[ResultRow]:
    """Run the experiment and write its files.

    Args:
        corpus: the prepared corpus.
        encoder: model folder of the pretrained encoder.
        out: the run folder.
        division: who is labelled and who is tested.
        config: the experiment.
        pretrained: settings of fine-tuning.
        scratch: settings of the model without pretraining.
        lm_text: a text file, a sentence a line, for the n-gram; None takes the sentences of the training side.
        command: the command line, kept in every row.
        say: where sentences go.

    Raises:
        UserError: the folder holds another run, or something that is needed is missing.
    """
    store = WaveformStore(corpus)
    for note in division.notes:
        say(note)
    sentences = division.sentences if lm_text is None else _read_sentences(lm_text)
    vocabulary = Vocabulary.from_texts([*sentences, *(example.target for example in division.labelled)])
    out.mkdir(parents=True, exist_ok=True)
    arpa = _ngram(out / LM, sentences, division, order=config.order, say=say)
    run = _Run(store, out, division, config, vocabulary, arpa, command, say)
    scores: list[Scores] = []
    say(f"{FINE_TUNED}: {pretrained.loop.steps} updates")
    scores += run.train(FINE_TUNED, pretrained, encoder, division.labelled)
    teacher = out / "models" / FINE_TUNED
    for number in range(1, config.rounds + 1):
        name = SELF_TRAINED if config.rounds == 1 else f"{SELF_TRAINED} {number}"
        scores += run.self_train(name, pretrained, encoder, teacher)
        teacher = out / "models" / name
    if config.scratch:
        say(f"{SCRATCH}: {scratch.loop.steps} updates")
        scores += run.train(SCRATCH, scratch, None, division.labelled)
    rows = run.rows(scores)
    write_results(rows, out / "results.json")
    write_items(items_path(out / "results.json"), run.items(scores))
    best = min(scores, key=lambda each: sum(count.errors for count in each.words))
    write_atomic(out / "worst.json", json.dumps(run.worst(best), ensure_ascii=False, indent=1).encode())
    return rows
