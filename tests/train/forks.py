"""Runs `speechssl` commands in processes of their own that need not import torch again: it is imported once, here.

One JSON object a line comes in. ``{"argv": [...], "env": {...}, "said": path, "die_before": n, "signal": [number, n]}``
forks a process that runs the command, with both outputs going to the file; its number is the answer. With
``die_before`` the process kills itself with SIGKILL just before the n-th time it would make a file permanent (flush to
disk, or rename), from 0; with ``signal`` it gets a signal during update n, from 1. ``{"wait": number}`` answers with
the exit code, negative for a signal.
"""

import contextlib
import gc
import importlib
import itertools
import json
import os
import signal
import sys
import traceback

import torch._dynamo  # what the optimiser of torch imports when it is made

with contextlib.suppress(ImportError):
    import torch.utils.tensorboard  # not a must

import speechssl.cli
import speechssl.train.pretrain
import speechssl.train.trainer

LIMIT = 240  # seconds; nothing here takes that long


def child(job: dict[str, object]) -> int:
    """The command itself."""
    signal.alarm(LIMIT)
    os.environ.update(job["env"])
    said = os.open(job["said"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(said, stream)
    if job["die_before"] is not None:
        die_before(job["die_before"])
    if job["signal"] is not None:
        signal_during(*job["signal"])
    torch.set_num_threads(1)
    try:
        return speechssl.cli.main(job["argv"])
    except BaseException:  # noqa: BLE001 -- told, and given back as the exit code
        traceback.print_exc()
        return 1


def die_before(number: int) -> None:
    """Count flushes and renames, and do not survive one of them."""
    counter = itertools.count()

    def deadly(function):
        def wrapper(*args, **kwargs):
            if next(counter) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return wrapper

    os.replace, os.fsync = deadly(os.replace), deadly(os.fsync)


def signal_during(number: int, update: int) -> None:
    """A signal that comes in the middle of an update."""
    counter, function = itertools.count(1), speechssl.train.trainer.update_weights

    def signalled(*args, **kwargs):
        if next(counter) == update:
            os.kill(os.getpid(), number)
        return function(*args, **kwargs)

    speechssl.train.trainer.update_weights = signalled


def main() -> None:
    """Until the input ends."""
    for late in ("numpy.ctypeslib", "numpy.ma", "pydantic.type_adapter", "rich._emoji_codes"):  # in every run
        importlib.import_module(late)
    gc.collect()
    gc.freeze()  # else each process copies the pages of all that was imported when it first collects garbage
    for line in sys.stdin:
        job = json.loads(line)
        if "wait" in job:
            answer = os.waitstatus_to_exitcode(os.waitpid(job["wait"], 0)[1])
        else:
            answer = os.fork()
            if not answer:
                code = child(job)
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        print(answer, flush=True)


if __name__ == "__main__":
    main()
