"""Provenance of a result: device, processor, threads, commit and package versions."""

import importlib.metadata
import re
import subprocess
from pathlib import Path

import torch

from slimsweep.paths import is_checkout, project_root

CPU_FILE = Path("/proc/cpuinfo")


def computed_on(device: str) -> dict[str, str | int | None]:
    """Provenance on which a time, and the last bits of a result, depend beside the settings."""
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "git_commit": git_commit(),
        "torch": version("torch"),
        "slimsweep": version("slimsweep"),
    }


def git_commit() -> str | None:
    """Commit of the checkout this runs from, `+` appended where files differ from it; None outside one."""
    if not is_checkout():
        return None
    git = ["git", "-C", str(project_root())]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+" if changes.stdout.strip() else "")


def version(package: str) -> str | None:
    """Installed version of a package; None where there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor_vendor() -> str | None:
    """Such as `GenuineIntel` or `AuthenticAMD`; None where the system does not say."""
    return _cpu_field("vendor_id")


def _cpu_field(name: str) -> str | None:
    try:
        found = re.search(rf"^{name}\s*:\s*(\S.*?)\s*$", CPU_FILE.read_text(), re.MULTILINE)
    except OSError:
        return None
    return found[1] if found else None


def machine(device: str) -> dict[str, str | int | None]:
    """Machine on which a time or a peak of memory depends: device, processor, threads, torch."""
    return {
        "device": device_name(device),
        "processor": _cpu_field("model name"),
        "threads": torch.get_num_threads(),
        "torch": version("torch"),
    }


def device_name(device: str) -> str:
    """The card of a CUDA device, `cpu` otherwise."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device
