"""Speech recognition with few labels: fine-tuned, self-trained and from scratch, greedy and with an n-gram.

The output is one run folder: `results.json` with the answers beside it, `worst.json`, and under `models/` complete
model folders with their tuned decoder and n-gram, which `speechssl predict` reads. A stage that was killed resumes; a
second call on a finished run trains nothing. Results whose inputs have changed since (the encoder, the labels, the text
of the n-gram) are computed again, with a message.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from speechssl.config import Config, UserError, digest
from speechssl.data.labelled import Example
from speechssl.data.training_audio import (
    AudioRecord,
    TrainingAudio,
    pretraining_overlap,
    read_training_audio,
    refuse_trained,
    write_training_audio,
)
from speechssl.data.waveforms import WaveformStore
from speechssl.decoding.decode import BeamDecoder, DecoderConfig, greedy
from speechssl.decoding.phones import PhoneVocabulary
from speechssl.experiments.asr_decoder import CONTENT, choose_ngram, chosen_source, decoder_content, emissions_of
from speechssl.experiments.asr_ngram import LM_TEXT, Ngrams, read_sentences, write_text_record
from speechssl.experiments.asr_rivals import RivalName, Rivals
from speechssl.experiments.asr_rows import own_origins, rival_origins, write_outcome
from speechssl.experiments.asr_scores import GREEDY, NGRAM, Scores, score
from speechssl.experiments.asr_sides import RecognitionSides
from speechssl.experiments.asr_text import Choice, Source, sources
from speechssl.files import hold_folder, replacing, write_atomic
from speechssl.inference.predictor import DECODER, LM, decoder_config
from speechssl.metrics.results import ResultRow
from speechssl.metrics.wer import error_rate
from speechssl.models.ctc import CTCModel
from speechssl.models.heads import load_head
from speechssl.models.storage import load_encoder, model_hash, read_encoder_config
from speechssl.text import Vocabulary
from speechssl.train.finetune import FinetuneResult, finetune
from speechssl.train.finetune_config import FinetuneConfig
from speechssl.train.self_training import pseudo_label, student

FINE_TUNED, SCRATCH, SELF_TRAINED = "fine-tuned", "from scratch", "self-trained"


class AsrConfig(Config):
    """Settings of the experiment besides those of fine-tuning."""

    order: PositiveInt = 3  # of the n-gram of words
    lm: Choice = "auto"  # its text, besides one that is given (speechssl.experiments.asr_text)
    beam_size: PositiveInt = 100
    rounds: NonNegativeInt = 1  # of self-training
    keep: float = Field(default=0.7, gt=0, le=1)  # fraction of the pseudo-labels that is kept
    scratch: bool = True  # also a model without pretraining
    rivals: tuple[RivalName, ...] = ()  # recognisers of another kind (speechssl.experiments.asr_rivals)
    tune_limit: PositiveInt = 150  # utterances of the development side that decoder weights are tuned on


def recognise(
    corpus: Path,
    encoder: Path,
    out: Path,
    *,
    sides: RecognitionSides,
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
        sides: labelled, unlabelled, development and test utterances.
        config: the experiment.
        pretrained: settings of fine-tuning.
        scratch: settings of the model without pretraining; its architecture is that of ``encoder``.
        lm_text: a text file, one sentence per line, for the n-gram, instead of the sentences of the training side.
        command: the command line, kept in every row.
        say: called with each message.

    Raises:
        UserError: a model folder in ``out`` has other settings, another process writes into ``out``, or an input is
            missing.
        KeyboardInterrupt: stopped by a signal; the same call resumes.
    """
    load_encoder(encoder)  # an unreadable encoder fails before anything is computed
    store = WaveformStore(corpus)
    tested = [example.index for example in sides.test]
    audio = read_training_audio(encoder)
    refuse_trained(audio, store, tested, model=encoder)
    overlap = pretraining_overlap(audio, store, tested)
    for note in (*sides.notes, f"in the audio of pretraining: {overlap}"):
        say(note)
    language = _language(store)
    options = sources(config.lm, language=language, given=lm_text is not None, say=say)
    text = None if lm_text is None else read_sentences(lm_text, language=language)
    vocabulary = Vocabulary.from_texts([*sides.sentences, *(example.target for example in sides.labelled)])
    with hold_folder(out):
        ngrams = Ngrams(
            out,
            sides,
            text=text,
            order=config.order,
            options=options,
            language=language,
            characters=vocabulary.symbols[2:],
            can_write=(PhoneVocabulary() if pretrained.ctc.units == "phones" else vocabulary).can_write,
        )
        run = _Run(
            store,
            encoder,
            out,
            sides=sides,
            config=config,
            ngrams=ngrams,
            vocabulary=vocabulary,
            units=pretrained.ctc.units,
            command=command,
            say=say,
        )
        scores = run.contenders(pretrained, scratch)
        rivals = Rivals(
            store, encoder, out, sides=sides, ngrams=ngrams if run.beam else None, language=language, say=say
        ).found(config.rivals)
        own = own_origins(scores, texts=run.texts, scratch=SCRATCH, audio=audio, overlap=overlap)
        origins = own | rival_origins(rivals, audio=audio, overlap=overlap)
        return write_outcome(out, store, sides, scores, origins=origins, rivals=rivals, corpus=corpus, command=command)


class _Run:
    """State shared by the contenders of one run."""

    def __init__(
        self,
        store: WaveformStore,
        encoder: Path,
        out: Path,
        *,
        sides: RecognitionSides,
        config: AsrConfig,
        ngrams: Ngrams,
        vocabulary: Vocabulary,
        units: str,
        command: str,
        say: Callable[[str], None],
    ):
        self.store, self.encoder, self.out, self.sides, self.config = store, encoder, out, sides, config
        self.ngrams, self.command, self.say = ngrams, command, say
        if units == "phones" and "wordfreq" in ngrams.options:
            raise UserError(
                "ctc.units=phones are those of English words, and the n-gram 'wordfreq' is one of characters; use "
                "ctc.units=characters, or --lm transcripts"
            )
        self.beam = ngrams.usable(say)
        if units == "phones" and not self.beam:
            raise UserError(
                "ctc.units=phones: words need an n-gram; use ctc.units=characters, or install the extra 'lm'"
            )
        self.encoder_hash = model_hash(encoder)
        self.vocabulary = vocabulary
        self.texts: dict[str, str] = {}  # of the n-gram that each contender is decoded with

    def contenders(self, pretrained: FinetuneConfig, scratch: FinetuneConfig) -> list[Scores]:
        """Fine-tuned, self-trained in rounds, and from scratch, each trained and scored."""
        scores = self.train(FINE_TUNED, pretrained, self.encoder)
        teacher = FINE_TUNED
        for number in range(1, self.config.rounds + 1):
            name = SELF_TRAINED if number == 1 else f"{SELF_TRAINED} {number}"
            found = self.self_train(name, pretrained, teacher=teacher)
            if not found:
                break
            scores += found
            teacher = name
        if self.config.scratch:
            like = read_encoder_config(self.encoder)
            scores += self.train(SCRATCH, scratch.model_copy(update={"encoder": like}), None)
        return scores

    def train(self, name: str, config: FinetuneConfig, start: Path | None) -> list[Scores]:
        """Fine-tune, or train from scratch, on the labelled side, and score."""
        self.say(f"{name}: {config.loop.steps} updates on {len(self.sides.labelled)} utterances")
        result = finetune(
            self.store,
            self._claimed(name, start=start, pseudo=()),
            config=config,
            start=start,
            train=self.sides.labelled,
            vocabulary=self.vocabulary,
            command=self.command,
        )
        return self._scored(name, result)

    def self_train(self, name: str, config: FinetuneConfig, *, teacher: str) -> list[Scores]:
        """Label the unlabelled side with a teacher, train on both sides, and score."""
        pseudo = self._pseudo_labels(name, teacher)
        if not pseudo:
            self.say(f"{name}: {teacher} gave no usable transcript; the round is skipped")
            return []
        result = student(
            self.store,
            self._claimed(name, start=self.encoder, pseudo=pseudo),
            config=config,
            start=self.encoder,
            labelled=self.sides.labelled,
            pseudo=pseudo,
            vocabulary=self.vocabulary,
            command=self.command,
        )
        return self._scored(name, result)

    def folder(self, name: str) -> Path:
        """The model folder of a contender."""
        return self.out / "models" / name.replace(" ", "-")

    def _claimed(self, name: str, *, start: Path | None, pseudo: Sequence[Example]) -> Path:
        """The model folder, emptied where its model was trained on other data."""
        folder = self.folder(name)
        path = folder.with_name(f".{folder.name}.key")
        learnt = [[each.index, each.target] for each in (*self.sides.labelled, *pseudo)]
        key = digest([None if start is None else self.encoder_hash, self.vocabulary.symbols, learnt])
        known = path.read_text(encoding="utf-8") if path.exists() else ""
        if folder.exists() and known != key:
            self.say(f"{name}: the encoder or the labels differ from those of {folder}; trained again")
            shutil.rmtree(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, key.encode())
        return folder

    def _pseudo_labels(self, name: str, teacher: str) -> list[Example]:
        """A teacher's transcripts, stored in a file: a student that resumes needs the same ones."""
        path, folder = self.out / f"pseudo-{name.replace(' ', '-')}.json", self.folder(teacher)
        search = self._labelling_decoder(name, teacher) if self.beam else None
        sides = [[each.index for each in side] for side in (self.sides.unlabelled, self.sides.labelled)]
        option = chosen_source(folder) if search else "transcripts"
        decoder = search and [search.model_dump(), self.ngrams.key_of(option)]
        key = digest([model_hash(folder), decoder, self.config.keep, sides])
        if path.exists():
            known = json.loads(path.read_text(encoding="utf-8"))
            if known["key"] == key:
                return [Example(index, text) for index, text in known["labels"]]
        model = _load(folder)
        parts = self.ngrams.parts(option) if search else [(None, self.sides.unlabelled)]
        kept: list[Example] = []
        thresholds: list[float] = []
        for lm, examples in parts:
            indices = [example.index for example in examples]
            beam = BeamDecoder(model.vocabulary, config=search, lm=lm) if search else None
            found = pseudo_label(model, self.store, indices, decoder=beam, keep=self.config.keep)
            kept += found.examples
            thresholds.append(found.threshold)
        if kept:
            self.say(
                f"{name}: {len(kept)} of {len(self.sides.unlabelled)} transcripts by {teacher} kept, "
                f"with a mean character probability of {min(thresholds):.2f} or more"
            )
        labels = [[example.index, example.target] for example in kept]
        write_atomic(path, json.dumps({"key": key, "labels": labels}, ensure_ascii=False).encode())
        return kept

    def _labelling_decoder(self, name: str, teacher: str) -> DecoderConfig | None:
        """The teacher's decoder, or None: greedy, where that gets more characters of the development side right.

        With an n-gram the transcripts are whole words. Those of a weak teacher are mostly wrong where half of the
        letters were right, and the student learns letters. Likhomanenko et al. 2020 (arXiv 2010.11524) also label
        without one.
        """
        folder = self.folder(teacher)
        tuned = json.loads((folder / DECODER).read_text(encoding="utf-8"))
        beam, alone = tuned["chosen"]["cer"], tuned["greedy"]["cer"]
        words = _load(folder).vocabulary.writes_words  # phones are compared with phones: no transcripts
        best = NGRAM if beam < alone or not words else GREEDY
        self.say(
            f"{name}: {teacher} labels with {best} decoding: dev CER {beam:.3f} with an n-gram, {alone:.3f} greedy"
        )
        return decoder_config(folder) if best == NGRAM else None

    def _scored(self, name: str, result: FinetuneResult) -> list[Scores]:
        """Scores of greedy decoding, and of the n-gram with weights tuned on the development side alone."""
        if not result.finished:
            raise KeyboardInterrupt
        if result.left_out:
            self.say(f"{name}: {result.left_out} utterances too long, or with more symbols than frames; left out")
        folder = self.folder(name)
        model, own = _load(folder), model_hash(folder)
        outputs = emissions_of(model, self.store, self.sides.test)
        written: dict[str, list[str]] = {}
        if model.vocabulary.writes_words:
            written[GREEDY] = [greedy(rows, model.vocabulary) for rows in outputs]
        if self.beam:
            config, option = self._tuned(name, model, folder)
            decoder = BeamDecoder(model.vocabulary, config=config, lm=self.ngrams.whole(option))
            written[NGRAM] = [decoder.decode(rows).text for rows in outputs]
            self.texts[name] = self.ngrams.row(option)
        scores = [score(name, probe, each, sides=self.sides, model_hash=own) for probe, each in written.items()]
        for each in scores:
            rate = error_rate(each.words)
            self.say(f"{name}, {each.probe}: WER {rate.value:.3f} ({rate.low:.3f} to {rate.high:.3f})")
        return scores

    def _tuned(self, name: str, model: CTCModel, folder: Path) -> tuple[DecoderConfig, Source]:
        """The n-gram and the weights of a model's decoder, tuned once; its folder has them and all trials."""
        path = folder / DECODER
        # Every trial decodes all of them. They are drawn at random, since utterances of one speaker are adjacent.
        order = np.random.default_rng(0).permutation(len(self.sides.dev))[: self.config.tune_limit]
        chosen = [self.sides.dev[place] for place in sorted(order.tolist())]
        indices = [each.index for each in chosen]
        keys = [self.ngrams.key_of(option) for option in self.ngrams.options]
        key = digest([CONTENT, model_hash(folder), keys, self.config.beam_size, indices])
        if path.exists() and json.loads(path.read_text(encoding="utf-8")).get("key") == key:
            return decoder_config(folder), chosen_source(folder)
        outputs, references = emissions_of(model, self.store, chosen), [each.target for each in chosen]
        vocabulary, ngrams = model.vocabulary, self.ngrams
        best = choose_ngram(outputs, references, vocabulary=vocabulary, ngrams=ngrams, beam_size=self.config.beam_size)
        self.say(f"{name}: {best}")
        content = decoder_content(
            best, key=key, ngrams=ngrams, outputs=outputs, references=references, vocabulary=vocabulary
        )
        path.unlink(missing_ok=True)  # never another n-gram's weights beside this one
        with ngrams.whole(best.source).open("rb") as source, replacing(folder / LM) as file:
            shutil.copyfileobj(source, file)
        write_text_record(folder / LM_TEXT, ngrams.sentences)
        audio = TrainingAudio(selection=AudioRecord.of(self.store, indices))
        write_training_audio(folder, read_training_audio(folder) | audio)
        write_atomic(path, content)
        return best.tuning.config, best.source


def _language(store: WaveformStore) -> str | None:
    """The language of a corpus; None where it is not known or there are several."""
    found = {item.language for item in store.utterances}
    return found.pop() if len(found) == 1 else None


def _load(folder: Path) -> CTCModel:
    model = load_head(folder)
    assert isinstance(model, CTCModel)
    return model
