"""Triton's kernels: in its interpreter, and what happens where they can't run. On a GPU: test_on_cuda.py."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from plateflow.model import fast
from plateflow.model.vit import FlowViT, FlowViTConfig, init_weights

HERE = Path(__file__).parent


def test_the_kernels_in_tritons_interpreter() -> None:
    """In a process of its own: Triton looks at the variable when it is first imported."""
    pytest.importorskip("triton", reason="Triton is for Linux")
    tests = [sys.executable, "-m", "pytest", "-q", "-n", "0", HERE / "interpreted_kernels.py"]
    done = subprocess.run(
        tests,
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        cwd=HERE,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
@pytest.mark.parametrize("fault", ["no Triton", "no driver"])
def test_where_kernels_cannot_run_the_plain_path_does_and_says_so_once(
    fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = FlowViTConfig(width=64, depth=2, heads=2, neck_width=16)
    model = init_weights(FlowViT(config), 0).eval().bfloat16()
    x = torch.rand(2, 3, 32, 32).bfloat16()
    with torch.inference_mode():
        expected = model(x)
        monkeypatch.setattr(fast, "DEVICES", {"cuda", "cpu"})  # so that a kernel is tried, without a driver
        monkeypatch.setattr(fast, "_failures", [])
        if fault == "no Triton":
            monkeypatch.setitem(sys.modules, "triton", None)
            monkeypatch.delitem(sys.modules, "plateflow.model.kernels", raising=False)
        with caplog.at_level(logging.WARNING):
            assert torch.equal(model(x), expected)
            assert torch.equal(model(x), expected)
    assert not fast.in_use()
    (record,) = caplog.records
    assert "Triton's kernels can't be used here" in record.message
    assert ("triton" if fault == "no Triton" else "driver") in record.message


def test_training_and_float32_take_the_plain_path(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} was tried")

    monkeypatch.setattr(fast, "DEVICES", {"cuda", "cpu"})
    monkeypatch.setattr(fast, "_failures", [])
    model = init_weights(FlowViT(FlowViTConfig(width=64, depth=1, heads=2, neck_width=16)), 0)
    with torch.inference_mode():
        model(torch.rand(1, 3, 32, 32))
    model.bfloat16()(torch.rand(1, 3, 32, 32).bfloat16()).sum().backward()
    assert fast.in_use(), "a kernel was tried, and failed for want of a driver"


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, RuntimeError])
def test_too_little_memory_is_no_fault_of_a_kernel(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = pytest.importorskip("plateflow.model.kernels", reason="Triton is for Linux", exc_type=ImportError)

    def full(*_: object) -> None:
        raise kind("Triton Error [CUDA]: out of memory")

    monkeypatch.setattr(fast, "DEVICES", {"cpu"})
    monkeypatch.setattr(fast, "_failures", [])
    monkeypatch.setattr(kernels, "attention", full)
    with torch.inference_mode(), pytest.raises(torch.OutOfMemoryError):
        fast.fused("attention", torch.zeros(1, 4, 192).bfloat16(), 2, (2, 2), None)
    assert fast.in_use()
