"""Devices by name, and what a processor says of bfloat16."""

import os
import subprocess
import sys

import pytest
import torch

from speechssl import device
from speechssl.config import UserError
from speechssl.device import device_of, has_bfloat16
from speechssl.train.trainer import use_bf16

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "has"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_bf16": False, "amx_bf16": False, "avx2": True}, False),
        ({"bf16": True, "sve": False}, True),
        ({}, False),
    ],
)
def test_the_processor_says_whether_it_has_bfloat16(monkeypatch, capabilities, has):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(device, "_onednn_multiplies_bfloat16", lambda: True)
    assert has_bfloat16(CPU) is has
    assert use_bf16("auto", CPU) is has
    assert not has_bfloat16(torch.device("meta"))


@pytest.mark.parametrize(("capability", "has"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_a_gpu_says_it_by_its_capability(monkeypatch, capability, has):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert has_bfloat16(torch.device("cuda")) is has


@pytest.mark.parametrize(("name", "words"), [("tpu", "unknown device 'tpu'"), ("mps", "only CPUs and CUDA's GPUs")])
def test_other_devices_are_refused(name, words):
    with pytest.raises(UserError, match=words):
        device_of(name)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="torch sees no GPU"):
        device_of("cuda:1")
    assert device_of("auto") == CPU


@pytest.mark.slow
def test_a_limit_of_instruction_sets_makes_an_older_processor():
    program = "import torch; from speechssl.device import has_bfloat16; print(has_bfloat16(torch.device('cpu')))"
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == ["False"]
