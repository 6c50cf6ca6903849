import logging
import sys

import pytest

from slimsweep.linear import backends
from slimsweep.techniques.quantization.int8 import Int8
from slimsweep.techniques.quantization.nf4 import NF4


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


def test_a_job_without_it_ends_before_weights_are_read(slimsweep, monkeypatch, forgotten):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    answer = slimsweep("model=random", "technique=[nf4,int8]", "tracker=none")
    assert answer.status == 1 and "2 faults; nothing was started" in answer.err
    assert "technique.nf4: needs bitsandbytes" in answer.err and "technique.int8: needs" in answer.err


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


def test_importing_is_quiet_and_leaves_the_logger_as_it_was(tmp_path, monkeypatch, caplog, forgotten):
    from bitsandbytes.backends.cpu.ops import logger

    assert logger.name == "bitsandbytes.backends.cpu.ops"
    (tmp_path / "bitsandbytes").mkdir()
    (tmp_path / "bitsandbytes" / "__init__.py").touch()
    notice = f"import logging; logging.getLogger({logger.name!r}).warning('a package is missing')"
    (tmp_path / "bitsandbytes" / "functional.py").write_text(notice)
    for name in ("bitsandbytes", "bitsandbytes.functional"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    assert backends.bitsandbytes_functional().__file__.startswith(str(tmp_path))
    assert caplog.text == "" and logger.level == logging.NOTSET
