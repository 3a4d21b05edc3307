"""Speech recognition with few labels: fine-tuned, self-trained and from scratch, greedy and with an n-gram.

Everything is one run folder: `results.json` with the answers beside it, `worst.json`, and under `models/` complete
model folders with their tuned decoder and n-gram, which `speechssl predict` takes. A stage that was killed goes on
where it was; a second call on a finished run trains nothing.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from pydantic import Field, NonNegativeInt, PositiveInt

from speechssl.config import Config, UserError
from speechssl.data.labelled import Example
from speechssl.data.lists import utterance_id
from speechssl.data.waveforms import WaveformStore
from speechssl.embed.predict import DECODER, LM, decoder_config
from speechssl.experiments.asr_division import Division
from speechssl.models.ctc import CTCModel
from speechssl.models.heads import emissions, load_head
from speechssl.models.storage import model_hash, write_atomic
from speechssl.scoring.decode import EXTRA, BeamDecoder, DecoderConfig, beam_search_installed, greedy
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

    def counts(self, metric: str) -> list[EditCounts]:
        """Of words for the WER, of characters for the CER."""
        return self.words if metric == "WER" else self.characters


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
    say: Callable[[str], None],
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
    run = _Run(store, out, division=division, config=config, vocabulary=vocabulary, lm=arpa, command=command, say=say)
    scores = run.train(FINE_TUNED, pretrained, encoder)
    teacher = FINE_TUNED
    for number in range(1, config.rounds + 1):
        name = SELF_TRAINED if config.rounds == 1 else f"{SELF_TRAINED} {number}"
        scores += run.self_train(name, pretrained, encoder, teacher=teacher)
        teacher = name
    if config.scratch:
        scores += run.train(SCRATCH, scratch, None)
    rows = run.rows(scores)
    write_results(rows, out / "results.json")
    write_items(items_path(out / "results.json"), run.items(scores))
    best = min(scores, key=lambda each: sum(count.errors for count in each.words))
    write_atomic(out / "worst.json", json.dumps(run.worst(best), ensure_ascii=False, indent=1).encode())
    return rows


class _Run:
    """What every contender of one run shares."""

    def __init__(
        self,
        store: WaveformStore,
        out: Path,
        *,
        division: Division,
        config: AsrConfig,
        vocabulary: Vocabulary,
        lm: Path | None,
        command: str,
        say: Callable[[str], None],
    ):
        self.store, self.out, self.division, self.config = store, out, division, config
        self.vocabulary, self.lm, self.command, self.say = vocabulary, lm, command, say

    def train(self, name: str, config: FinetuneConfig, start: Path | None) -> list[Scores]:
        """Fine-tune, or train from scratch, on the labelled side, and score."""
        self.say(f"{name}: {config.loop.steps} updates on {len(self.division.labelled)} utterances")
        result = finetune(
            self.store,
            self.out / "models" / name,
            config=config,
            start=start,
            train=self.division.labelled,
            vocabulary=self.vocabulary,
            command=self.command,
        )
        _refuse_unfinished(finished=result.finished)
        return self._score(name)

    def self_train(self, name: str, config: FinetuneConfig, start: Path, *, teacher: str) -> list[Scores]:
        """Label the unlabelled side with a teacher, train on both sides, and score."""
        pseudo = self._pseudo_labels(name, teacher)
        if not pseudo:
            self.say(f"{name}: {teacher} wrote nothing that could be learnt from; this round is left out")
            return []
        result = student(
            self.store,
            self.out / "models" / name,
            config=config,
            start=start,
            labelled=self.division.labelled,
            pseudo=pseudo,
            vocabulary=self.vocabulary,
            command=self.command,
        )
        _refuse_unfinished(finished=result.finished)
        return self._score(name)

    def _pseudo_labels(self, name: str, teacher: str) -> list[Example]:
        """A teacher's transcripts, kept in a file: a student that goes on must learn from the same ones."""
        path = self.out / f"pseudo-{name.replace(' ', '-')}.json"
        if path.exists():
            return [Example(index, text) for index, text in json.loads(path.read_text(encoding="utf-8"))]
        folder = self.out / "models" / teacher
        model = _load(folder)
        indices = [example.index for example in self.division.unlabelled]
        found = pseudo_label(model, self.store, indices, decoder=self._decoder(folder), keep=self.config.keep)
        self.say(
            f"{name}: {len(found.examples)} of {found.considered} utterances kept, "
            f"with a mean character probability of {found.threshold:.2f} or more"
        )
        listed = [[example.index, example.target] for example in found.examples]
        write_atomic(path, json.dumps(listed, ensure_ascii=False).encode())
        return found.examples

    def _score(self, name: str) -> list[Scores]:
        """Greedy, and with the n-gram whose weights are tuned on the development side alone."""
        folder = self.out / "models" / name
        model = _load(folder)
        heard = self._emissions(model, self.division.test)
        scores = [self._scores(name, GREEDY, folder, [greedy(rows, model.vocabulary) for rows in heard])]
        if self.lm is not None:
            self._tune(model, folder)
            decoder = self._decoder(folder)
            assert decoder is not None
            scores.append(self._scores(name, NGRAM, folder, [decoder.decode(rows).text for rows in heard]))
        for each in scores:
            rate = error_rate(each.words)
            self.say(f"{name}, {each.probe}: WER {rate.value:.3f} ({rate.low:.3f} to {rate.high:.3f})")
        return scores

    def _emissions(self, model: CTCModel, examples: Sequence[Example]) -> Emissions:
        found: Emissions = []
        for start in range(0, len(examples), _CHUNK):
            chunk = examples[start : start + _CHUNK]
            found += emissions(model, [self.store.read(each.index).astype(np.float32) / 32768.0 for each in chunk])
        return found

    def _tune(self, model: CTCModel, folder: Path) -> None:
        """Tune the decoder of a model once; its weights, and what was tried, lie beside it."""
        assert self.lm is not None
        path, own = folder / DECODER, model_hash(folder)
        if path.exists() and json.loads(path.read_text(encoding="utf-8")).get("model_hash") == own:
            return
        # The greedy transcript of a weak model is mostly wrong; tuning on more of the same costs time and no more.
        chosen = self.division.dev[: self.config.tune_limit]
        config = DecoderConfig(beam_size=self.config.beam_size)
        decoder = BeamDecoder(model.vocabulary, config=config, lm=self.lm)
        tuning = tune(self._emissions(model, chosen), [each.target for each in chosen], decoder=decoder, limit=None)
        content = {
            "config": tuning.config.model_dump(mode="json"),
            "model_hash": own,
            "utterances": len(chosen),
            "trials": [vars(trial) for trial in tuning.trials],
        }
        shutil.copyfile(self.lm, folder / LM)
        write_atomic(path, json.dumps(content, indent=1).encode())

    def _decoder(self, folder: Path) -> BeamDecoder | None:
        if self.lm is None:
            return None
        return BeamDecoder(self.vocabulary, config=decoder_config(folder), lm=self.lm)

    def _scores(self, name: str, probe: str, folder: Path, written: list[str]) -> Scores:
        said = [example.target for example in self.division.test]
        words, characters = count_errors(said, written), count_errors(said, written, unit="character")
        return Scores(name, probe, words=words, characters=characters, written=written, model_hash=model_hash(folder))

    def rows(self, scores: Sequence[Scores]) -> list[ResultRow]:
        """A row of WER and one of CER for each; ``gains`` are reductions, with paired intervals."""
        rows: list[ResultRow] = []
        for each in scores:
            rivals = [other for other in scores if other.probe == each.probe and other.contender != each.contender]
            for metric in ("WER", "CER"):
                rate = error_rate(each.counts(metric))
                gains: dict[str, list[float]] = {}
                for other in rivals:
                    gain = error_rate_difference(other.counts(metric), each.counts(metric))
                    gains[other.contender] = [gain.value, gain.low, gain.high]
                rows.append(
                    ResultRow(
                        task="asr",
                        contender=each.contender,
                        probe=each.probe,
                        labels=self._minutes(),
                        metric=metric,
                        value=rate.value,
                        low=rate.low,
                        high=rate.high,
                        n=rate.utterances,
                        seeds=1,
                        split=self.division.rule,
                        command=self.command,
                        gains=gains,
                        corpus=str(self.store.folder),
                        synthetic=any(bool(item.extras.get("synthetic")) for item in self.store.utterances[:1]),
                        unit="minutes",
                        split_hash=self.division.split_hash,
                        model_hash=each.model_hash,
                    )
                )
        return rows

    def items(self, scores: Sequence[Scores]) -> list[Answers]:
        """What every model wrote, counted utterance by utterance, for paired comparisons of runs."""
        ids = [utterance_id(self.store.utterances[example.index]) for example in self.division.test]
        return [
            Answers(
                task="asr",
                contender=each.contender,
                probe=each.probe,
                labels=self._minutes(),
                unit="minutes",
                split_hash=self.division.split_hash,
                ids=ids,
                groups=ids,
                repetitions=[0] * len(ids),
                metric=metric,
                errors=[count.errors for count in each.counts(metric)],
                words=[count.words for count in each.counts(metric)],
            )
            for each in scores
            for metric in ("WER", "CER")
        ]

    def worst(self, scores: Scores) -> dict[str, object]:
        """The utterances with the most wrong words, for the report."""
        order = sorted(range(len(scores.words)), key=lambda i: (-scores.words[i].errors, i))[:WORST]
        rate = error_rate(scores.words)
        return {
            "contender": scores.contender,
            "probe": scores.probe,
            "substitutions": rate.substitutions,
            "deletions": rate.deletions,
            "insertions": rate.insertions,
            "words": rate.words,
            "utterances": [
                {
                    "audio": self.store.utterances[self.division.test[i].index].audio,
                    "said": self.division.test[i].target,
                    "written": scores.written[i],
                    "errors": scores.words[i].errors,
                }
                for i in order
            ],
        }

    def _minutes(self) -> int:
        seconds = sum(self.store.utterances[example.index].duration for example in self.division.labelled)
        return max(1, round(seconds / 60))


def _ngram(
    path: Path, sentences: Sequence[str], division: Division, *, order: int, say: Callable[[str], None]
) -> Path | None:
    """The n-gram of words, or None where beam search is not installed."""
    if not beam_search_installed():
        say(f"greedy transcripts only: {EXTRA}")
        return None
    if not path.exists():
        train_ngram(sentences, path, order=order)
    known = {word for sentence in sentences for word in sentence.split()}
    words = [word for example in division.test for word in example.target.split()]
    unknown = sum(word not in known for word in words)
    say(
        f"n-gram of order {order} on {len(sentences)} sentences; it lacks {unknown} of {len(words)} words of the test side"
    )
    return path


def _read_sentences(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except ValueError as error:
        raise UserError(f"{path}: not UTF-8 text ({error})") from None
    sentences = [sentence for sentence in map(normalize_transcript, lines) if sentence]
    if not sentences:
        raise UserError(f"{path}: no sentence in it")
    return sentences


def _load(folder: Path) -> CTCModel:
    model = load_head(folder)
    assert isinstance(model, CTCModel)
    return model


def _refuse_unfinished(*, finished: bool) -> None:
    if not finished:
        raise KeyboardInterrupt
