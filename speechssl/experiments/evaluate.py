"""Few-shot evaluation of a frozen model beside its baselines.

Contenders, each with the same shots and the same test utterances:

- the model: mean and standard deviation over frames, of its last layer and of the mean of all hidden states. Both are
  reported under their own names. No layer is chosen by its score, since that would be a choice on the test side.
- the random encoder: the same configuration with random weights (seed RANDOM_SEED), its front end included, pooled in
  the same ways. With a good front end it already beats MFCC; the gain of training is the difference from it. It is one
  draw: other seeds move its score by about two points.
- MFCC and log-mel statistics, and chance.

The task `abx` trains nothing: it compares the frames of every layer with a phone alignment (see `evaluate_abx`).

Gains over the baselines have a paired interval (the same draws of speakers for both sides). Claims should use it: the
two plain intervals of a table may overlap while one contender is better for nearly every speaker.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int

from speechssl.audio import SAMPLE_RATE
from speechssl.config import UserError, digest
from speechssl.data.copies import copies, copies_note
from speechssl.data.names import is_synthetic, utterance_ids
from speechssl.data.training_audio import pretraining_overlap, read_training_audio, refuse_trained
from speechssl.data.utterance import said
from speechssl.data.waveforms import WaveformStore
from speechssl.embed.embedder import EmbeddingModel, load
from speechssl.experiments.evaluate_abx import TRIPLES, abx_rows, abx_test
from speechssl.experiments.evaluation_console import EvaluationConsole
from speechssl.files import replacing
from speechssl.inference.layers import ALL_LAYERS, Layer
from speechssl.metrics.baselines import logmel_statistics, mfcc_statistics
from speechssl.metrics.items import Answers, items_path, write_items
from speechssl.metrics.probe import ProbeScore, chance_scores, probe_scores
from speechssl.metrics.probe_splits import ProbeTask, make_task
from speechssl.metrics.results import ABX, CHANCE, LOGMEL, MFCC, MODEL, RANDOM, ResultRow, write_results
from speechssl.models.encoder import SpeechEncoder

RANDOM_SEED = 1000  # of the random encoder; pretraining uses small seeds, so the two are different draws
LAYERS: dict[str, Layer] = {"last layer": -1, "mean of layers": ALL_LAYERS}
MAP_POINTS = 1500  # of the 2-D map; t-SNE takes some ten seconds for them on two cores
_CHUNK_SECONDS = 240.0

Features = dict[str, Float32[np.ndarray, "utterances dim"]]
"""Features by contender; rows of utterances that no task needs are zero."""


def evaluate(
    model_folder: Path,
    corpus: Path,
    out: Path,
    *,
    tasks: Sequence[str] = ("label",),
    shots: Sequence[int] = (5, 10, 25),
    seeds: int = 5,
    baselines: bool = True,
    command: str = "",
    device: str = "auto",
    test_limit: int = 1000,
    alignments: Path | None = None,
    triples: int | None = None,
) -> list[ResultRow]:
    """Probe a model on a prepared corpus, write the rows, and show them as a table on stderr.

    Args:
        model_folder: a model folder.
        corpus: a prepared corpus whose manifest has the targets.
        out: the JSON file of rows; `map.npz`, a 2-D map of some of the embeddings, is written beside it where there is
            a probe.
        tasks: any of `label`, `speaker`, `text`, `abx`.
        shots: labelled utterances per class.
        seeds: number of draws.
        baselines: whether the random encoder, MFCC and log-mel run as well (chance always does).
        command: the command line, kept in every row.
        device: as in `embedder.load`.
        test_limit: approximate number of test utterances per draw.
        alignments: phones of the corpus, for `abx`: a folder of `.lab` or `.phn` files, or an `.item` file.
        triples: at most, within and across speakers each, for `abx`; None: TRIPLES.

    Returns:
        The rows.

    Raises:
        UserError: no model, no corpus, a folder as `out`, a task without targets in the corpus, or alignments without
            their task or that cannot be used; says what is missing.
    """
    if out.is_dir():
        raise UserError(f"{out}: is a folder; give the name of a JSON file")
    _check_abx(tasks, alignments, triples)
    store = WaveformStore(corpus)
    probed = [name for name in tasks if name != ABX]
    probe_tasks = [probe_task(store, name, shots=shots, seeds=seeds, test_limit=test_limit) for name in probed]
    model = load(model_folder, device=device)
    encoders = {MODEL: model} | ({RANDOM: random_encoder(model)} if baselines else {})
    test = None
    if alignments is not None:
        test = abx_test(store, alignments, encoders, baselines=baselines, triples=triples or TRIPLES)
    tested = {task.name: _tested(task) for task in probe_tasks}
    notes: dict[str, Sequence[str]] = {task.name: task.notes for task in probe_tasks}
    if test is not None:
        tested[ABX], notes[ABX] = test.utterances, test.notes
    audio = read_training_audio(model_folder)
    overlaps = {name: pretraining_overlap(audio, store, indices) for name, indices in tested.items()}
    refuse_trained(audio, store, [index for indices in tested.values() for index in indices], model=model_folder)
    with EvaluationConsole() as console:
        for name, overlap in overlaps.items():
            for note in (*notes[name], f"in the audio of pretraining: {overlap}"):
                console.say(note)
        rows, items = _probed(store, probe_tasks, encoders, baselines=baselines, out=out, console=console)
        if test is not None:
            with console.progress(ABX, total=test.layers) as advance:
                rows += abx_rows(test, store, progress=advance)
        own, synthetic = model.digest, is_synthetic(store)
        rows = [
            replace(
                row,
                command=command,
                corpus=str(store.folder),
                synthetic=synthetic,
                model_hash=own if row.family == MODEL else "",
                pretraining_audio=overlaps[row.task] if row.family == MODEL else "",
            )
            for row in rows
        ]
        write_items(items_path(out), items)
        write_results(rows, out)
        console.results(rows)
    return rows


def _probed(
    store: WaveformStore,
    tasks: Sequence[ProbeTask],
    encoders: Mapping[str, EmbeddingModel],
    *,
    baselines: bool,
    out: Path,
    console: EvaluationConsole,
) -> tuple[list[ResultRow], list[Answers]]:
    """Rows and answers of the probes; the map is written beside `out`."""
    if not tasks:
        return [], []
    used = np.unique(np.concatenate([task.utterances() for task in tasks]))
    features: Features = {}
    for family, encoder in encoders.items():
        features |= encoder_features(store, encoder, used, family=family, console=console)
    if baselines:
        features |= _fixed_features(store, used, console=console)
    scores: list[ProbeScore] = []
    with console.progress("probes", total=len(tasks) * len(features)) as advance:
        for task in tasks:
            for contender, matrix in features.items():
                scores += probe_scores(task, matrix, contender=contender)
                advance(1)
    with console.progress("map", total=1) as advance:
        write_map(out.with_name("map.npz"), store, tasks[0], features=features[f"{MODEL} (last layer)"])
        advance(1)
    names = utterance_ids(store.utterances)
    splits = {(task.name, level): _split_hash(task, level, names) for task in tasks for level in task.shots}
    rows = [
        replace(row, split_hash="" if row.contender == CHANCE else splits[row.task, row.labels])  # chance: no answers
        for row in _rows(tasks, scores)
    ]
    by_name = {task.name: task for task in tasks}
    items = [
        _answers(by_name[score.task], score, store, names=names, split_hash=splits[score.task, score.shots])
        for score in scores
        if score.metric == "UAR"  # the answers are the same for every metric
    ]
    return rows, items


def _check_abx(tasks: Sequence[str], alignments: Path | None, triples: int | None) -> None:
    """Raise `UserError` where the task and its settings are not given together."""
    if ABX in tasks and alignments is None:
        raise UserError("--task abx: needs --alignments, a folder of .lab or .phn files or an .item file")
    if ABX not in tasks and alignments is not None:
        raise UserError(f"--alignments {alignments}: only for --task abx")
    if ABX not in tasks and triples is not None:
        raise UserError(f"--triples {triples}: only for --task abx")


def _tested(task: ProbeTask) -> list[int]:
    """The test utterances of all draws."""
    return np.unique(np.concatenate([draw.test for draw in task.splits])).tolist()


def _split_hash(task: ProbeTask, shots: int, names: Sequence[str]) -> str:
    """Sixteen hexadecimal digits of the training and test utterances of every draw at this number of shots."""
    return digest(
        [
            [sorted(names[int(i)] for i in side) for side in (draw.shots[:, :shots].ravel(), draw.test)]
            for draw in task.splits
        ]
    )


def _answers(
    task: ProbeTask, score: ProbeScore, store: WaveformStore, *, names: Sequence[str], split_hash: str
) -> Answers:
    """Answers of a probe per item; the interval of a comparison resamples speakers in every task."""
    places = [(number, int(i)) for number, draw in enumerate(task.splits) for i in draw.test]
    return Answers(
        task=score.task,
        contender=score.contender,
        probe=score.probe,
        labels=score.shots,
        unit="shots",
        split_hash=split_hash,
        ids=[names[i] for _, i in places],
        groups=[store.speakers[i] or names[i] for _, i in places],
        repetitions=[number for number, _ in places],
        truth=[str(task.targets[i]) for _, i in places],
        predicted=[answer for answers in score.predicted for answer in answers],
    )


def random_encoder(model: EmbeddingModel) -> EmbeddingModel:
    """The model's configuration with random weights (seed RANDOM_SEED); the global random state does not change."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        encoder = SpeechEncoder(model.encoder.config)
    return EmbeddingModel(encoder, device=str(model.device), dtype=model.dtype)


def write_map(
    path: Path, store: WaveformStore, task: ProbeTask, *, features: Float32[np.ndarray, "utterances dim"]
) -> None:
    """Write a 2-D map of up to MAP_POINTS test utterances of the first draw: `points`, `label`, `speaker`, `method`.

    t-SNE (van der Maaten and Hinton, 2008) of the standardised features after PCA to at most 50 dimensions, as its
    authors do; plain PCA where there are fewer than 100 utterances. Unknown labels and speakers are empty strings.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from sklearn.preprocessing import StandardScaler

    chosen = task.splits[0].test
    if len(chosen) > MAP_POINTS:
        chosen = np.sort(np.random.default_rng(0).choice(chosen, MAP_POINTS, replace=False))
    vectors = StandardScaler().fit_transform(features[chosen])
    few = len(chosen) < 100
    reduced = PCA(n_components=min(2 if few else 50, *vectors.shape), random_state=0).fit_transform(vectors)
    points = reduced if few else TSNE(init="pca", perplexity=30, random_state=0).fit_transform(reduced)
    points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))  # a single dimension stays a line
    items = [store.utterances[index] for index in chosen.tolist()]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        np.savez(
            file,
            points=points.astype(np.float32),
            label=np.array([item.label or "" for item in items]),
            speaker=np.array([item.speaker or "" for item in items]),
            method=np.array("PCA" if few else "t-SNE"),
        )


def probe_task(store: WaveformStore, name: str, *, shots: Sequence[int], seeds: int, test_limit: int) -> ProbeTask:
    """The probe task of a corpus, without utterances that repeat the audio of another one.

    Raises:
        UserError: the corpus lacks what the task needs; says what.
    """
    items = store.utterances
    again = copies(store, names=utterance_ids(items), one_speaker=name == "speaker")
    try:
        task = make_task(
            name,
            labels=[None if i in again else item.label for i, item in enumerate(items)],
            speakers=[None if i in again else speaker for i, speaker in enumerate(store.speakers)],
            texts=[said(item) or item.text for item in items],  # one sentence, regardless of its punctuation
            shots=shots,
            seeds=seeds,
            test_limit=test_limit,
        )
    except ValueError as error:
        raise UserError(f"{store.folder}: {error}") from None
    return replace(task, notes=(*task.notes, copies_note(store, again))) if again else task


def encoder_features(
    store: WaveformStore,
    model: EmbeddingModel,
    used: Int[np.ndarray, " used"],
    *,
    family: str,
    console: EvaluationConsole,
) -> Features:
    """Mean and standard deviation over frames of each of LAYERS, under the names `FAMILY (LAYER)`.

    Args:
        store: the corpus.
        model: the encoder.
        used: the utterances that need features; the rows of the others stay zero.
        family: the name of the encoder in the table.
        console: shows a progress bar.
    """
    names = [f"{family} ({layer})" for layer in LAYERS]
    features = {name: np.zeros((len(store), 2 * model.dim), dtype=np.float32) for name in names}
    with console.progress(f"features: {family}", total=len(used)) as advance:
        for chunk in chunks_by_length(store, used):
            waveforms = [store.waveform(index) for index in chunk]
            vectors = model.embed_layers(waveforms, pooling="mean+std", layers=list(LAYERS.values()))
            for name, block in zip(names, vectors, strict=True):
                features[name][chunk] = block
            advance(len(chunk))
    return features


def _fixed_features(store: WaveformStore, used: Int[np.ndarray, " used"], *, console: EvaluationConsole) -> Features:
    def both(index: int) -> Float32[np.ndarray, " dim"]:
        waveform = store.waveform(index)
        return np.concatenate([mfcc_statistics(waveform), logmel_statistics(waveform)])

    from threadpoolctl import threadpool_limits

    split = len(mfcc_statistics(np.ones(SAMPLE_RATE, dtype=np.float32)))  # also compiles librosa before the threads
    rows: list[Float32[np.ndarray, " dim"]] = []
    with (
        console.progress(f"features: {MFCC}, {LOGMEL}", total=len(used)) as advance,
        threadpool_limits(limits=1),  # clips are computed in parallel
        ThreadPoolExecutor() as pool,
    ):
        for row in pool.map(both, used.tolist()):
            rows.append(row)
            advance(1)
    features = np.zeros((len(store), len(rows[0])), dtype=np.float32)
    features[used] = np.stack(rows)
    return {MFCC: features[:, :split], LOGMEL: features[:, split:]}


def chunks_by_length(store: WaveformStore, used: Int[np.ndarray, " used"]) -> Iterator[list[int]]:
    """Utterances in chunks of ascending length, so that padding is small; the seconds per chunk are bounded."""
    chunk: list[int] = []
    samples = 0
    for index in used[np.argsort(store.lengths[used], kind="stable")].tolist():
        if chunk and samples + int(store.lengths[index]) > _CHUNK_SECONDS * SAMPLE_RATE:
            yield chunk
            chunk, samples = [], 0
        chunk.append(index)
        samples += int(store.lengths[index])
    if chunk:
        yield chunk


def _rows(tasks: Sequence[ProbeTask], scores: Sequence[ProbeScore]) -> list[ResultRow]:
    """All scores as rows, with the model's gains over the baselines, and chance."""
    by_key = {(score.task, score.probe, score.shots, score.metric, score.contender): score for score in scores}
    rows: list[ResultRow] = []
    for task in tasks:
        for score in scores:
            if score.task != task.name:
                continue
            gains: dict[str, list[float]] = {}
            if score.contender.startswith(f"{MODEL} ("):
                twin = score.contender.replace(MODEL, RANDOM, 1)
                for name in (twin, MFCC, LOGMEL):
                    other = by_key.get((score.task, score.probe, score.shots, score.metric, name))
                    if other is not None:
                        gain = score.gain_over(other, task=task)
                        gains[name] = [gain.value, gain.low, gain.high]
            rows.append(replace(score.as_result(), gains=gains))
        rows += [score.as_result() for score in chance_scores(task)]
    return rows
