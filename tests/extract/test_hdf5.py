"""The file that HDF5 writes into is any file, also where the disk is full, until it is asked."""

import io
import os

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechssl.extract.formats.hdf5 import WritableFile

from ..toys import files_of_at_most

STEPS = st.lists(st.tuples(st.sampled_from(["write", "read"]), st.integers(0, 60), st.integers(0, 30)), max_size=30)


@given(steps=STEPS, most=st.sampled_from([0, 7, 25, 10_000]))
def test_it_is_as_a_file_in_memory(steps, most, tmp_path_factory):
    path, memory = tmp_path_factory.mktemp("file") / "a", io.BytesIO()
    with WritableFile(path) as file:
        for number, (step, place, size) in enumerate(steps):
            assert file.seek(place) == memory.seek(place)
            if step == "write":
                data = bytes([number + 1]) * size
                with files_of_at_most(most):
                    assert file.write(data) == memory.write(data)
            elif step == "read":
                assert file.read(size) == memory.read(size)
            assert file.tell() == memory.tell()
            assert file.seek(0, os.SEEK_END) == memory.seek(0, os.SEEK_END)
        if len(memory.getvalue()) <= most:
            file.check()
            assert path.read_bytes() == memory.getvalue()
        else:
            with pytest.raises(OSError, match="File too large"):
                file.check()


@pytest.mark.parametrize("most", [0, 100, 3000, 10_000])
def test_hdf5_closes_a_file_that_does_not_fit(tmp_path, most):
    rows = np.arange(5000.0)
    with WritableFile(tmp_path / "a.h5") as target:
        with files_of_at_most(most), h5py.File(target, "w") as file:
            for name in "abc":
                file.create_dataset(name, data=rows)
            file.create_dataset("words", data=["x"] * 100, dtype=h5py.string_dtype())
            assert (file["b"][:] == rows).all()
        with pytest.raises(OSError, match="File too large"):
            target.check()


def test_hdf5_reads_what_it_wrote(tmp_path):
    with WritableFile(tmp_path / "a.h5") as target:
        with h5py.File(target, "w") as file:
            file["a"] = np.arange(3)
        target.check()
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["a"][:].tolist() == [0, 1, 2]
