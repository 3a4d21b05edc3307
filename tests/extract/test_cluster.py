"""Two workers of a local Ray give what one machine gives."""

import pyarrow.parquet as pq
import pytest
import soundfile

from speechssl.config import UserError
from speechssl.extract import cluster
from speechssl.extract.run import extract
from tests.micro import tone


@pytest.fixture
def audio(tmp_path):
    folder = tmp_path / "audio"
    folder.mkdir()
    for number in range(6):
        soundfile.write(folder / f"{number}.wav", tone(8000 + 500 * number, 100 + 50 * number), 16000)
    (folder / "3.wav").write_bytes(b"RIFF")
    return folder


def test_what_one_machine_alone_can_do_is_refused(audio, model_folder, tmp_path):
    with pytest.raises(UserError, match="engine ray gives vectors only"):
        extract(model_folder, audio, tmp_path / "v.parquet", engine="ray", pooling="none")
    with pytest.raises(UserError, match="engine ray needs dtype float32 or bfloat16, not auto"):
        extract(model_folder, audio, tmp_path / "v.parquet", engine="ray", dtype="auto")


def test_an_actor_encodes_what_it_is_given(audio, model_folder):
    import pickle

    import numpy as np

    from speechssl.extract.encode import Job
    from speechssl.extract.machine.resources import Resources
    from speechssl.extract.plan import read_plan

    resources = Resources(audio_bytes=1 << 24, batch_seconds=20.0, window_seconds=60.0, threads=2)
    actor = cluster.Extractor(str(model_folder), Job("mean", (-1,), 24, None, "float32", compiled=False), resources)
    [told] = actor({"items": np.array([pickle.dumps(list(read_plan(audio).items()))], object)})["parts"]
    [part] = pickle.loads(told)
    assert [row.item.path for row in part.rows] == ["0.wav", "1.wav", "2.wav", "4.wav", "5.wav"]
    assert [failed.item.path for failed in part.failed] == ["3.wav"]
    assert part.done == [True, True, True, False, True, True]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's of itself
def test_two_workers_of_a_local_ray(audio, model_folder, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="ray is not installed")
    pytest.importorskip("ray.data", reason="ray[data] is not installed")
    monkeypatch.setattr(cluster, "TASK_CLIPS", 2)
    monkeypatch.setenv("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    try:
        ray.init(num_cpus=2, include_dashboard=False, configure_logging=False, log_to_driver=False)
    except (OSError, RuntimeError, TimeoutError, ConnectionError) as error:
        pytest.skip(f"ray does not start here: {error}")
    try:
        report = extract(model_folder, audio, tmp_path / "ray.parquet", engine="ray", workers=2)
    finally:
        ray.shutdown()
    assert (report.written, report.failed) == (5, 1)
    extract(model_folder, audio, tmp_path / "one.parquet")
    one, other = (pq.ParquetFile(tmp_path / f"{name}.parquet").read() for name in ("one", "ray"))
    assert one.drop_columns("vector").equals(other.drop_columns("vector"))
    for mine, theirs in zip(one["vector"].to_pylist(), other["vector"].to_pylist(), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5)
