"""Optional packages with kernels of their own: imported where they are used, missed before any work begins."""

import functools
import logging
from types import ModuleType

BITSANDBYTES = "pip install 'bitsandbytes>=0.50'"


@functools.cache
def bitsandbytes_functional() -> ModuleType:
    """`bitsandbytes.functional`; importing it takes seconds.

    Raises:
        ImportError: it is not installed.
    """
    # Its import warns of an optional package with faster CPU kernels, which none of our calls would use.
    notices = logging.getLogger("bitsandbytes.backends.cpu.ops")
    level = notices.level
    notices.setLevel(logging.ERROR)
    try:
        from bitsandbytes import functional
    finally:
        notices.setLevel(level)
    return functional


def bitsandbytes_faults(device: str) -> list[str]:
    """Try bitsandbytes on a device such as `cpu` or `cuda:0`; returns the reasons why it does not run there."""
    import torch

    try:
        functional = bitsandbytes_functional()
    except ImportError as error:
        return [f"needs bitsandbytes, which cannot be imported ({error}): {BITSANDBYTES}"]
    try:
        functional.quantize_4bit(torch.ones(1, 64, device=device), blocksize=64, quant_type="nf4")
        codes = torch.ones(4, 4, dtype=torch.int8, device=device)
        functional.int8_linear_matmul(codes, codes)
    except RuntimeError as error:  # NotImplementedError, which torch raises where no kernel is registered, is one too
        reason = str(error).strip().partition("\n")[0]
        return [
            f"bitsandbytes has no working backend for device={device} ({reason}). Set device=cpu, or install a build "
            f"that has one: {BITSANDBYTES} --upgrade; `python -m bitsandbytes` says what it finds"
        ]
    return []
