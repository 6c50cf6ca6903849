import logging
import subprocess
import sys

import pytest

from slimsweep import backends
from slimsweep.techniques.int8 import Int8
from slimsweep.techniques.nf4 import NF4


@pytest.fixture
def forgotten():
    backends.bitsandbytes_functional.cache_clear()
    yield
    backends.bitsandbytes_functional.cache_clear()


def test_a_working_backend_has_no_faults():
    assert backends.bitsandbytes_faults("cpu") == []


@pytest.mark.parametrize("technique", [NF4(), Int8()])
def test_a_missing_package_is_told_with_the_command(technique, monkeypatch, forgotten):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # import then raises ImportError
    (fault,) = technique.device_faults("cpu")
    assert "needs bitsandbytes" in fault and "pip install 'bitsandbytes>=0.50'" in fault


@pytest.mark.parametrize("technique", [NF4(), Int8()])
def test_a_device_without_kernels_is_told_by_name(technique):
    (fault,) = technique.device_faults("vulkan")
    assert "no working backend for device=vulkan" in fault and "Set device=cpu" in fault and "pip install" in fault


def test_a_kernel_that_fails_is_told_with_its_first_line(monkeypatch):
    def broken(*_args, **_settings):
        raise RuntimeError("\n CUDA binary not found\nmany lines of advice")

    monkeypatch.setattr(backends.bitsandbytes_functional(), "int8_linear_matmul", broken)
    (fault,) = backends.bitsandbytes_faults("cpu")
    assert "(CUDA binary not found)" in fault and "advice" not in fault


def test_importing_is_quiet_and_leaves_the_logger_as_it_was():
    code = (
        "import logging; logging.basicConfig(); from slimsweep.backends import bitsandbytes_functional as load; load();"
        "assert logging.getLogger('bitsandbytes.backends.cpu.ops').level == 0"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout + done.stderr == ""
    assert logging.getLogger("bitsandbytes.backends.cpu.ops").level == logging.NOTSET
