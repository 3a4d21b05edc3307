"""The page about speech recognition: rates by way of decoding, verdicts, and the worst utterances with their audio."""

import json

import pytest

from speechssl.metrics.results import ResultRow, write_results

from .test_html import Page, report

RATES = {"fine-tuned": (0.6, 0.4), "self-trained": (0.5, 0.3), "from <scratch>": (0.95, 0.9)}


def rows_of():
    rows = []
    for contender, rates in RATES.items():
        for probe, value in zip(("greedy", "n-gram"), rates, strict=True):
            for metric, factor in (("WER", 1.0), ("CER", 0.4)):
                gains = {
                    other: [theirs[probe != "greedy"] - value, *ends]
                    for other, theirs in RATES.items()
                    if other != contender
                    for ends in [(0.01, 0.2) if theirs[0] > rates[0] else (-0.2, -0.01)]
                }
                rows.append(
                    ResultRow(
                        "asr", contender, probe, 10, metric, factor * value, factor * value - 0.02,
                        factor * value + 0.02, 367, 1, split="speakers disjoint", corpus="runs/asr/x/corpus",
                        unit="minutes", gains=gains, command="speechssl asr",
                    )
                )  # fmt: skip
    return rows


def worst_of(audio):
    kinds = {"substitutions": 1200, "deletions": 30, "insertions": 4, "words": 3711, "utterances": 367}
    said = {"said": "the cat <sat> on it", "written": "the bat sat on", "errors": 3}
    return {
        "contender": "self-trained",
        "probe": "n-gram",
        "kinds": [{"contender": "self-trained", "probe": "n-gram", **kinds}],
        "utterances": [
            {"audio": audio, "offset": 0.0, "duration": 2.0, **said},
            {"audio": audio, "offset": 2.5, "duration": 2.0, **said, "written": ""},
        ],
    }


@pytest.fixture
def folder(tmp_path):
    write_results(rows_of(), tmp_path / "results.json")
    (tmp_path / "worst.json").write_text(json.dumps(worst_of(str(tmp_path / 'a "b" #1.wav'))))
    return tmp_path


def test_rates_and_verdicts(folder):
    page = report(folder)
    assert "10 min of labels, 367 test utterances, speakers disjoint" in page.text
    assert "fine-tuned against self-trained: worse with greedy decoding (−.10), worse with n-gram decoding" in page.text
    assert "self-trained against from <scratch>: better with greedy decoding (+.45)" in page.text
    assert "WER greedy WER n-gram CER greedy CER n-gram" in page.text
    assert ".30 [.28, .32]" in page.text
    source = (folder / "report.html").read_text()
    assert source.count("<td><b>") == 4  # the best of each column, and no other
    assert "<td><b>.30</b>" in source
    assert "No probe" not in page.text


def test_errors_are_shown_with_their_audio(folder):
    page = report(folder)
    source = (folder / "report.html").read_text()
    assert "1,200 30 4 3,711" in page.text
    assert "<td><u>cat</u></td><td><u>&lt;sat&gt;</u></td>" in source
    assert "<td><u>bat</u></td><td><u>sat</u></td><td>on</td><td><u>–</u></td>" in source
    audio = [each for each in page.references if each.startswith("file://")]
    assert audio[0] == f"file://{folder}/a%20%22b%22%20%231.wav"
    assert audio[-1] == f"{audio[0]}#t=2.5,4.5"
    assert source.count('<audio controls preload="none"') == 2


def test_a_run_without_the_worst_has_a_page_too(folder):
    (folder / "worst.json").unlink()
    assert "The worst utterances" not in report(folder).text


def test_one_recogniser_alone(folder):
    rows = [row for row in rows_of() if row.contender == "fine-tuned" and row.probe == "greedy"]
    for row in rows:
        row.gains.clear()
    write_results(rows, folder / "results.json")
    page = report(folder)
    assert "WER saved" not in page.text
    assert "In short" not in page.text
    assert isinstance(page, Page)
