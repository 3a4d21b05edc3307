"""Commands that make corpora."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from speechssl.cli.common import Sets
from speechssl.terminal import bars, doubts, say

if TYPE_CHECKING:
    from speechssl.data.utterance import Utterance
    from speechssl.data.waveforms import PackReport


def prepare(
    corpus: Annotated[str, typer.Argument(help="Name of a corpus; `speechssl info` lists them.")],
    out: Annotated[Path, typer.Option(help="Folder of the prepared corpus.")],
    root: Annotated[
        Path | None, typer.Option(help="Folder of the corpus, or of its download [default: data/corpora/NAME].")
    ] = None,
    sets: Sets = [],  # noqa: B006 -- typer copies it
    workers: Annotated[int, typer.Option(min=0, help="Decoding threads; 0: one per core.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this many utterances.")] = None,
    shards: Annotated[
        int | None, typer.Option(min=1, help="Files to divide the samples into [default: one file, or as it is].")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Prepare only part I of N; the last to finish joins them.")
    ] = None,
) -> None:
    """Decode a corpus once into packed waveforms."""
    from itertools import islice

    from speechssl.config import UserError, load_config
    from speechssl.data.corpora import check_root, corpus_root, load_corpus
    from speechssl.data.manifest import Utterance
    from speechssl.data.parts import check_layout, prepare_corpus

    check_layout(out, shards=shards, shard=shard)
    module = load_corpus(corpus)
    settings = load_config(module.Settings, overrides=sets)
    if root is not None:
        check_root(module.INFO, root)
    if module.INFO.synthetic:
        say(f"{corpus} is synthetic: no result on it is a result on speech.")
    utterances = module.prepare(root or corpus_root(corpus), settings)  # downloads here, with a bar of its own
    found: list[Utterance] = []
    with bars() as bar:
        update = bar(f"finding {corpus}")
        for utterance in islice(utterances, limit):
            found.append(utterance)
            update(len(found), limit)
        update = bar("decoding")
        total = len(found) if shard is None else None
        prepared = prepare_corpus(
            found, out, shards=shards, shard=shard, workers=workers, progress=lambda done, _: update(done, total)
        )
    _say_packed(prepared.report, prepared.folder)
    if prepared.left:
        say(f"{out}: not joined yet; parts that are left: {', '.join(prepared.left)} (--shard {prepared.left[0]} …)")
        return
    _say_understood(utterances, out)
    if not prepared.report.accepted:
        raise UserError(f"{out}: no utterance could be used")


def _say_packed(report: "PackReport", out: Path) -> None:
    """Print the counts of a prepared corpus, with the most frequent reasons of rejection."""
    from collections import Counter

    from speechssl.audio.neighbours import THERE
    from speechssl.data.manifest import Reject
    from speechssl.data.stretches import contradictions_note

    say(f"{out}: {report.accepted} utterances accepted, {report.rejected} rejected, {report.seconds / 3600:.2f} h")
    if report.upsampled:
        say(f"{report.upsampled} files are below 16 kHz and were resampled; they have nothing above half their rate.")
    for line in doubts(report.notes, listed=f"{out / 'waveforms.json'} (notes)"):
        say(line)
    if report.rejected:
        lines = (out / "rejects.jsonl").read_text(encoding="utf-8").splitlines()
        reasons = [Reject.model_validate_json(line).reason for line in lines]
        beside = [reason for reason in reasons if THERE in reason]
        for reason, count in Counter(reason.partition(THERE)[0] for reason in reasons).most_common(3):
            nearest = (
                f", for example: {beside[0].partition('; ')[2]}" if beside and beside[0].startswith(reason) else ""
            )
            say(f"  {count} x {reason}{nearest}")
        if note := contradictions_note(reasons):
            say(f"  {note}")
        say(f"  each one is in {out / 'rejects.jsonl'}")


def _say_understood(utterances: "Iterator[Utterance]", out: Path) -> None:
    """Print the findings of a prepared corpus, and the parts of its source that could not be read."""
    from speechssl.data.findings import Findings, Found, closing_lines, count_known
    from speechssl.data.store import WaveformStore
    from speechssl.data.stretches import copies_that_differ

    findings = utterances.findings if isinstance(utterances, Found) else Findings()
    store = WaveformStore(out)
    for line in closing_lines(count_known(store.utterances), findings):
        say(line)
    if note := copies_that_differ(store.utterances, store.content_ids()):
        say(note)
