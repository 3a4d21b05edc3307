"""SIGKILL at random moments: the run goes on, and its output is that of a run that was left alone."""

import random
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from speechssl.extract import decode
from speechssl.extract.run import extract
from tests.micro import tone

# The same run in a process of its own, slow enough to be killed in the middle.
CHILD = """
import sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from speechssl.extract import run as module, shards, decode
decode.PART_CLIPS = 2
commit, write = module.Run.commit, shards.Shards.commit
module.Run.commit = lambda run, part: (time.sleep(0.05), commit(run, part))
shards.Shards.commit = lambda *given: (write(*given), time.sleep(0.05))[0]
module.extract(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
"""


def killed(arguments, folder, after, rng):
    """Start, wait for so many parts and a random moment more, kill; False where it was through before."""
    process = subprocess.Popen([sys.executable, "-c", CHILD, *map(str, arguments)], stderr=subprocess.PIPE)
    try:
        end = time.monotonic() + 120
        while process.poll() is None and len(list(folder.glob("part-*.parquet"))) < after:
            assert time.monotonic() < end, "no part within two minutes"
            time.sleep(0.005)
        time.sleep(rng.uniform(0.0, 0.1))
        alive = process.poll() is None
        process.send_signal(signal.SIGKILL)
        _, said = process.communicate()
        assert alive or process.returncode == 0, said.decode()
        return alive
    finally:
        process.kill()


@pytest.fixture
def one_thread():
    """Sums are split between threads, and their last bits with them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_killed_run_ends_as_if_it_had_not_been(model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "PART_CLIPS", 2)
    rng = random.Random(0)
    audio = tmp_path / "audio"
    audio.mkdir()
    for number in range(24):
        soundfile.write(audio / f"{number:02d}.wav", tone(4000 + 400 * rng.randrange(20), 90 + 9 * number), 16000)
    for number in (3, 11, 12):
        (audio / f"{number:02d}.wav").write_bytes(b"RIFF" * number)
    whole, out = tmp_path / "whole.parquet", tmp_path / "v.parquet"
    extract(model_folder, audio, whole)
    folder = tmp_path / "v.parquet.parts"
    kills = [killed((model_folder, audio, out), folder, after, rng) for after in (2, 6)]
    if not any(kills):
        pytest.fail("the runs were through before they could be killed")
    report = extract(model_folder, audio, out)
    assert report.resumed > 0
    assert (report.written, report.failed) == (21, 3)
    assert pq.ParquetFile(out).read().equals(pq.ParquetFile(whole).read())
    assert report.errors.read_text() == (tmp_path / "whole.parquet.errors.jsonl").read_text()
    assert not folder.exists()
