"""Lists of identifiers: read, found again in either layout, drawn by a rule; and the committed ones."""

import os
from pathlib import Path

import pytest

from speechssl.config import UserError
from speechssl.data.corpora.folder_metadata import read_metadata
from speechssl.data.lists import RULES, draw_lists, read_list, select, utterance_id, write_list
from speechssl.data.utterance import Utterance

LISTS = Path(__file__).parents[2] / "data" / "lists"
COMMITTED = sorted(LISTS.glob("*.txt"))


def _utterance(audio: str, **known: object) -> Utterance:
    return Utterance.model_validate({"audio": audio, "duration": 5.0, **known})


def _head(path: Path) -> dict[str, str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(line.removeprefix("# ").split(": ", 1) for line in lines if line.startswith("#"))


def test_layouts_of_one_corpus_agree() -> None:
    official = _utterance("/a/WAVE/SPEAKER0003/000030012.WAV", speaker="0003")
    packed = _utterance("/b/speechocean762.pack/test/0003/000030012.opus", speaker="0003")
    assert utterance_id(official) == utterance_id(packed) == "0003/000030012"
    assert utterance_id(_utterance("x.wav")) == "x"
    assert utterance_id(_utterance("x.wav", offset=12.5)) == "x@12.5"


def test_a_list_is_written_and_read(tmp_path: Path) -> None:
    utterances = [_utterance(f"/data/{name}.wav", speaker="nsh") for name in "cab"]
    write_list(tmp_path / "l.txt", utterances, corpus="festvox_ru")
    assert read_list(tmp_path / "l.txt") == {"nsh/a", "nsh/b", "nsh/c"}
    head = _head(tmp_path / "l.txt")
    assert (head["corpus"], head["seed"], head["utterances"], head["minutes"]) == ("festvox_ru", "0", "3", "0.25")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"# nothing\n\n", "no identifier in it"),
        (b"a\nb\na\n", "a in it more than once"),
        (b"\xff\n", "cannot be read .not UTF-8 text"),
    ],
)
def test_lists_that_cannot_be_read(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "l.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_list(path)
    with pytest.raises(UserError, match="No such file"):
        read_list(tmp_path / "none.txt")


def test_select_names_what_is_missing() -> None:
    utterances = [_utterance(f"{name}.wav") for name in "abcd"]
    assert select(utterances, ["d", "b"]) == [1, 3]
    with pytest.raises(UserError, match=r"^5 of 6 listed utterances are not in the corpus: v, w, x and 2 more$"):
        select(utterances, {"a", "v", "w", "x", "y", "z"})
    with pytest.raises(UserError, match=r"^1 listed utterances are in the corpus more than once: a$"):
        select([*utterances, _utterance("elsewhere/a.flac")], {"a", "b"})


def test_a_rule_is_there_for_each_corpus() -> None:
    with pytest.raises(UserError, match="no lists of 'fsdd'; allowed: speechocean762, cmu_arctic, festvox_ru"):
        draw_lists("fsdd", [])
    assert {_head(path)["corpus"] for path in COMMITTED} == set(RULES)


def test_the_draw_depends_on_identifiers_alone() -> None:
    few = [_utterance(f"/a/ru_{i:04}.wav", speaker="nsh", duration=9.0) for i in range(700)]
    other = [each.model_copy(update={"audio": each.audio.replace("/a/", "/z/y/")}) for each in reversed(few)]
    first, again = draw_lists("festvox_ru", few), draw_lists("festvox_ru", other)
    for name, drawn in first.items():
        assert [utterance_id(each) for each in drawn] == [utterance_id(each) for each in again[name]]
        assert all(each in few for each in drawn)


def test_the_draws_keep_apart_what_must_be_apart() -> None:
    arctic = [
        _utterance(f"/{speaker}/arctic_{part}{i:04}.wav", speaker=speaker)
        for speaker in ("bdl", "slt")
        for part, count in (("a", 300), ("b", 20))
        for i in range(count)
    ]
    drawn = {name: {utterance_id(each) for each in part} for name, part in draw_lists("cmu_arctic", arctic).items()}
    names = ("slt-10min", "slt-dev", "bdl-test", "slt-test")
    assert [len(drawn[f"cmu_arctic-{name}"]) for name in names] == [120, 120, 20, 20]
    assert {name.split("/")[0] for name in drawn["cmu_arctic-slt-test"]} == {"slt"}
    assert drawn["cmu_arctic-slt-10min"].isdisjoint(drawn["cmu_arctic-slt-dev"])
    ocean = [
        _utterance(f"{i:05}.wav", speaker=f"{i % 30:04}", split="train" if i % 30 < 20 else "test") for i in range(1500)
    ]
    parts = draw_lists("speechocean762", ocean)
    assert {each.split for part in parts.values() for each in part} == {"train"}
    speakers = {name: {each.speaker for each in part} for name, part in parts.items()}
    assert speakers["speechocean762-1h"].isdisjoint(speakers["speechocean762-dev"])
    assert len(speakers["speechocean762-dev"]) == 2


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_a_committed_list_is_as_its_head_says(path: Path) -> None:
    ids = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert ids == sorted(read_list(path))
    head = _head(path)
    assert path.stem.startswith(f"{head['corpus']}-")
    assert RULES[head["corpus"]] in head["rule"]
    assert int(head["utterances"]) == len(ids)
    assert int(head["speakers"]) == len({name.split("/")[0] for name in ids})
    wanted = {"10min": 10, "1h": 60}.get(path.stem.rpartition("-")[2])
    assert wanted is None or wanted - 0.5 < float(head["minutes"]) <= wanted


def test_the_committed_lists_do_not_overlap() -> None:
    lists = {path.stem: read_list(path) for path in COMMITTED}
    for corpus in ("speechocean762", "festvox_ru"):
        assert lists[f"{corpus}-10min"] < lists[f"{corpus}-1h"]
        assert lists[f"{corpus}-1h"].isdisjoint(lists[f"{corpus}-dev"])
    assert lists["festvox_ru-test"].isdisjoint(lists["festvox_ru-1h"] | lists["festvox_ru-dev"])
    assert lists["cmu_arctic-slt-10min"].isdisjoint(lists["cmu_arctic-slt-dev"])
    speakers = {name: {each.split("/")[0] for each in ids} for name, ids in lists.items()}
    assert speakers["speechocean762-1h"].isdisjoint(speakers["speechocean762-dev"])
    known = {each.split("/")[1] for each in lists["cmu_arctic-slt-10min"] | lists["cmu_arctic-slt-dev"]}
    for name in ("bdl", "slt"):
        assert known.isdisjoint(each.split("/")[1] for each in lists[f"cmu_arctic-{name}-test"])
    labelled = ("slt-10min", "slt-dev", "slt-test")
    assert {name for each in labelled for name in speakers[f"cmu_arctic-{each}"]} == {"slt"}


def _assert_reproduced(corpus: str, utterances: list[Utterance]) -> None:
    drawn = draw_lists(corpus, utterances)
    committed = {path.stem: read_list(path) for path in COMMITTED if _head(path)["corpus"] == corpus}
    assert {name: {utterance_id(each) for each in part} for name, part in drawn.items()} == committed


@pytest.mark.packs
@pytest.mark.parametrize("corpus", ["speechocean762", "cmu_arctic"])
def test_the_committed_lists_are_reproduced(packs: Path, corpus: str) -> None:
    rows = read_metadata(packs / corpus / "metadata.jsonl")
    _assert_reproduced(corpus, [_utterance(str(row.path), duration=row.duration, **row.known) for row in rows])


def test_the_committed_lists_of_the_russian_corpus_are_reproduced() -> None:
    root = os.environ.get("SPEECHSSL_DATA")
    if not root or not (Path(root) / "festvox_ru" / "festvox-ru").exists():
        pytest.skip("festvox_ru does not lie under SPEECHSSL_DATA")
    from speechssl.data.corpora.festvox_ru import prepare

    _assert_reproduced("festvox_ru", list(prepare(Path(root) / "festvox_ru")))
