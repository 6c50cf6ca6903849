"""Memory limits of the control groups (cgroups) a process runs in: containers, batch jobs, systemd services.

A process sees the machine's memory, and is killed at the limit of its group or of any group around it. Version 2 keeps
all limits in one tree, version 1 keeps those of memory in a tree of its own; some machines mount both:

    /proc/self/cgroup     0::/job/step              the group
    /proc/self/mountinfo  ... /job /sys/fs/cgroup   where which part of the tree is mounted
    /sys/fs/cgroup/step/memory.max, /sys/fs/cgroup/memory.max
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROCESS = Path("/proc/self")


@dataclass(frozen=True)
class MemoryLimit:
    """Limit of one cgroup, and the part of it that is still free."""

    limit_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class _Files:
    """Names of the files in which a cgroup version keeps its limit, its use, and what of that is page cache."""

    limit: str
    usage: str
    cache: tuple[str, ...]
    """Lines of memory.stat: pages of files, which the kernel gives back before it refuses memory."""


V2 = _Files("memory.max", "memory.current", ("inactive_file", "active_file"))
V1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))


def tightest_limit() -> MemoryLimit | None:
    """The limit that leaves the least memory free; None where no cgroup of this process has one."""
    found = [limit for folder, files in _groups() if (limit := _limit(folder, files))]
    return min(found, key=lambda limit: limit.free_bytes, default=None)


def _groups() -> Iterator[tuple[Path, _Files]]:
    """Folders of this process's cgroup and of every one around it, up to where the tree is mounted."""
    try:
        groups = [line.split(":", 2) for line in (PROCESS / "cgroup").read_text().splitlines()]
        mounts = [line.split(" - ", 1) for line in (PROCESS / "mountinfo").read_text().splitlines()]
    except OSError:  # not Linux
        return
    for place, kind in mounts:
        fields, (kind, _, options) = place.split(), kind.split()[:3]
        files = {"cgroup2": V2, "cgroup": V1}.get(kind)
        if files is None or (files is V1 and "memory" not in options.split(",")):
            continue
        for _, controllers, group in groups:
            if ("memory" in controllers.split(",")) if files is V1 else not controllers:
                root, mount = Path(_unescaped(fields[3])), Path(_unescaped(fields[4]))
                is_inside = Path(group).is_relative_to(root) and ".." not in Path(group).parts
                # A group outside what is mounted here is seen as the mount itself, as in a container.
                inner = Path(group).relative_to(root) if is_inside else Path()
                yield from ((mount / part, files) for part in (inner, *inner.parents))


def _limit(folder: Path, files: _Files) -> MemoryLimit | None:
    try:
        limit, usage = (folder / files.limit).read_text().strip(), int((folder / files.usage).read_text())
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # the root group of version 2 has none of these files
        return None
    if not limit.isdecimal():  # "max"
        return None
    used = usage - sum(int(statistics.get(name, 0)) for name in files.cache)
    return MemoryLimit(int(limit), max(int(limit) - max(used, 0), 0))


def _unescaped(path: str) -> str:
    r"""A path as mountinfo writes it, with \040 for a space."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)
