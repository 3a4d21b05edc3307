"""What C libraries print does not reach stderr, and nothing else is kept from it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

RATE = 16000

PROGRAM = """
import sys, threading
from speechssl.audio import AudioError, decode

stop = threading.Event()

def talk():
    number = 0
    while not stop.is_set() or number < 200:
        print("line", number, file=sys.stderr, flush=True)
        number += 1
    print("lines", number)

def read():
    for path in sys.argv[1:] * 5:
        try:
            decode(path)
        except AudioError as error:
            assert str(error).count("\\n") == 0

talker = threading.Thread(target=talk)
readers = [threading.Thread(target=read) for _ in range(3)]
for thread in [talker, *readers]:
    thread.start()
for thread in readers:
    thread.join()
stop.set()
talker.join()
"""


@pytest.fixture
def damaged(tmp_path: Path) -> list[str]:
    """Mp3 files that libmpg123 has something to say about."""
    speech = np.sin(np.arange(8 * RATE) / 9) * np.linspace(0, 0.9, 8 * RATE)
    soundfile.write(tmp_path / "whole.mp3", speech, RATE, bitrate_mode="VARIABLE")
    whole = (tmp_path / "whole.mp3").read_bytes()
    middle = bytearray(whole)
    middle[len(whole) // 2 : len(whole) // 2 + 300] = np.random.default_rng(0).bytes(300)
    files = {
        "middle.mp3": bytes(middle),
        "zeros.mp3": bytes(9000),
        "twice.mp3": whole + whole,
        "half.mp3": whole[:5000],
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    return [str(tmp_path / name) for name in files]


def test_libmpg123_does_not_print(damaged: list[str]) -> None:
    """The lines of another thread all arrive, and no others."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, *damaged], capture_output=True, text=True, check=True)
    count = int(done.stdout.split()[1])
    assert done.stderr.splitlines() == [f"line {number}" for number in range(count)]


def test_libmpg123_would_print(damaged: list[str]) -> None:
    """Without it; otherwise the test above says nothing."""
    program = "import soundfile, sys\nfor path in sys.argv[1:]:\n    try:\n        soundfile.read(path)\n"
    program += "    except soundfile.SoundFileError:\n        pass\n"
    done = subprocess.run([sys.executable, "-c", program, *damaged], capture_output=True, text=True, check=True)
    assert "Note: Illegal Audio-MPEG-Header" in done.stderr or "Warning: " in done.stderr


def test_stderr_of_c_is_back_afterwards() -> None:
    program = (
        "import ctypes, os\nfrom speechssl.audio.quiet import quiet_c_stderr\nlibrary = ctypes.CDLL(None)\n"
        "with quiet_c_stderr():\n    library.perror(b'inside')\n"
        "    child = os.fork()\n    if not child:\n        library.perror(b'child')\n        os._exit(0)\n"
        "    os.waitpid(child, 0)\nlibrary.perror(b'after')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["child", "after"]
