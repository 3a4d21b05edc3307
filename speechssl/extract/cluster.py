"""Parts of the plan to vectors, on several machines: Ray Data distributes clips to actors, each with its own encoder.

Actors decode and encode; vectors come back in the order of the plan and are written by the one process that holds the
lock of the output. All machines need the model and the recordings under the same names: in a shared folder, or at
addresses. Where no cluster is named (`RAY_ADDRESS`), Ray starts one on this machine.
"""

import pickle
import tempfile
from collections.abc import Generator, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from speechssl.audio import SAMPLE_RATE
from speechssl.config import UserError
from speechssl.device import device_of
from speechssl.extract.decode import Decoding, parts_of
from speechssl.extract.encode import Encoded, Job, PartEncoder
from speechssl.extract.machine.resources import Resources
from speechssl.extract.plan import Item
from speechssl.extract.resume import Run
from speechssl.interop.sources import open_source

TASK_CLIPS = 256  # clips per task of an actor


class Extractor:
    """An actor: an encoder with its decoding threads, on a GPU where Ray assigns one."""

    def __init__(self, model: str, job: Job, resources: Resources):
        assert job.dtype != "auto"
        encoder, device = open_source(model).encoder, device_of("auto")
        self._resources = resources
        self._encode = PartEncoder(encoder, job, device=device, dtype=job.dtype, resources=resources)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Encodes the clips of some rows; gives a row of results for each."""
        return {"parts": np.array([pickle.dumps(self._parts(pickle.loads(row))) for row in batch["items"]], object)}

    def _parts(self, items: list[Item]) -> list[Encoded]:
        resources, seconds = self._resources, self._resources.window_seconds
        with tempfile.TemporaryDirectory() as spool:
            clips = Decoding(
                iter(items),
                budget=resources.audio_bytes,
                long_samples=round(seconds * SAMPLE_RATE),
                spool=Path(spool),
            )
            with clips.running([clips.decode] * resources.threads, name="decode"):
                self._encode.release = clips.free
                return [self._encode(part) for part in parts_of(clips)]


def run_on_ray(
    items: Iterator[Item], model: str | Path, job: Job, run: Run, *, workers: int | None, resources: Resources
) -> Generator[Encoded]:
    """Encodes a plan on a cluster; parts come in its order.

    Args:
        items: the clips to encode.
        model: its name, valid on all workers.
        job: settings of the encoders; vectors only, in float32 or bfloat16.
        run: its settings have the dtype that an earlier run chose; its counts are kept up to date.
        workers: number of actors; None: as many as cores or GPUs allow.
        resources: of each worker.

    Raises:
        UserError: Ray is not installed, or settings that only one machine supports.
    """
    if job.pooling is None:
        raise UserError("engine ray gives vectors only; frames (pooling none) are for engine local")
    if job.dtype not in ("float32", "bfloat16"):
        raise UserError(f"engine ray needs dtype float32 or bfloat16, not {job.dtype}: its machines may differ")
    try:
        import ray
        import ray.data
    except ImportError:
        raise UserError("engine ray: pip install 'speechssl[ray]'") from None
    if "cosine" not in run.settings:
        run.settle(job.dtype, None)
    tasks = [{"items": pickle.dumps(task)} for task in iter(lambda: list(islice(items, TASK_CLIPS)), [])]
    if not tasks:
        return
    if not ray.is_initialized():
        ray.init(log_to_driver=False, configure_logging=False)
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    gpus = bool(ray.cluster_resources().get("GPU"))
    pool = ray.data.ActorPoolStrategy(size=workers) if workers else ray.data.ActorPoolStrategy(min_size=1)
    done = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
        Extractor,
        batch_size=1,
        compute=pool,
        num_gpus=1 if gpus else None,
        fn_constructor_kwargs={"model": str(model), "job": job, "resources": resources},
    )
    for row in done.iter_rows():
        for part in pickle.loads(row["parts"]):
            run.counts.add(len(part.done), sum(each.seconds for each in part.rows), failed=len(part.failed))
            yield part
