from types import SimpleNamespace

import psutil
import pytest
import torch

from slimsweep.models.placement import container_memory
from slimsweep.models.placement.container_memory import MemoryLimit, tightest_limit
from slimsweep.models.placement.loading import free_bytes

GIB = 2**30
UNLIMITED_V1 = 9223372036854771712


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Write /proc/self/cgroup and mountinfo, and the files of some groups; limits of None are not written."""
    monkeypatch.setattr(container_memory, "PROCESS", tmp_path / "proc")
    (tmp_path / "proc").mkdir()

    def write(cgroup: str, mounts: list[str], groups: dict[str, tuple], names=("memory.max", "memory.current")):
        (tmp_path / "proc" / "cgroup").write_text(cgroup)
        lines = [f"30 20 0:26 {line.replace('MOUNT', str(tmp_path / 'fs'))}" for line in mounts]
        (tmp_path / "proc" / "mountinfo").write_text("".join(f"{line}\n" for line in lines))
        for group, (limit, usage, statistics) in groups.items():
            folder = tmp_path / "fs" / group
            folder.mkdir(parents=True, exist_ok=True)
            (folder / names[0]).write_text(f"{limit}\n")
            (folder / names[1]).write_text(f"{usage}\n")
            (folder / "memory.stat").write_text("".join(f"{name} {size}\n" for name, size in statistics.items()))

    return write


V2_MOUNT = "{root} MOUNT rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1_MOUNTS = [
    "/ /elsewhere/cpu rw - cgroup cgroup rw,cpu,cpuacct",
    "{root} MOUNT rw,nosuid - cgroup cgroup rw,memory",
]


def test_page_cache_counts_as_free(system):
    cache = {"anon": 2 * GIB, "file": 3 * GIB, "inactive_file": GIB, "active_file": GIB // 2, "shmem": GIB}
    system("0::/\n", [V2_MOUNT.format(root="/")], {"": (8 * GIB, 5 * GIB, cache)})
    assert tightest_limit() == MemoryLimit(8 * GIB, 8 * GIB - (5 * GIB - GIB - GIB // 2))


def test_of_nested_groups_the_one_with_the_least_room_counts(system):
    groups = {"job": (4 * GIB, 3 * GIB, {}), "job/step": ("max", GIB, {}), "job/step/task": (2 * GIB, GIB // 2, {})}
    system("0::/job/step/task\n", [V2_MOUNT.format(root="/")], groups)
    assert tightest_limit() == MemoryLimit(4 * GIB, GIB)


def test_a_group_beside_this_one_does_not_count(system):
    groups = {"mine": (4 * GIB, 0, {}), "other": (GIB, 0, {}), "mine/child": (GIB, 0, {})}
    system("0::/mine\n", [V2_MOUNT.format(root="/")], groups)
    assert tightest_limit() == MemoryLimit(4 * GIB, 4 * GIB)


@pytest.mark.parametrize(
    ("group", "root"),
    [("/", "/"), ("/docker/abc", "/docker/abc"), ("/../../job", "/"), ("/docker/abc", "/elsewhere")],
)
def test_what_a_container_sees_as_the_top_is_its_own_group(system, group, root):
    system(f"0::{group}\n", [V2_MOUNT.format(root=root)], {"": (GIB, 0, {})})
    assert tightest_limit() == MemoryLimit(GIB, GIB)


def test_version_1_has_a_tree_for_memory(system):
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    groups = {
        "": (UNLIMITED_V1, 9 * GIB, {}),
        "job": (3 * GIB, 2 * GIB, {"inactive_file": 5, "total_inactive_file": GIB, "total_active_file": 0}),
    }
    mounts = [mount.format(root="/") for mount in V1_MOUNTS]
    system("4:memory:/job\n1:cpu,cpuacct:/\n0::/\n", mounts, groups, names)
    assert tightest_limit() == MemoryLimit(3 * GIB, 2 * GIB)


def test_a_mount_point_with_a_space_is_read(system, tmp_path):
    (tmp_path / "fs").mkdir()
    (tmp_path / "my fs").symlink_to(tmp_path / "fs")
    mount = V2_MOUNT.format(root="/").replace("MOUNT", f"{tmp_path}/my\\040fs")
    system("0::/\n", [mount], {"": (GIB, 0, {})})
    assert tightest_limit() == MemoryLimit(GIB, GIB)


@pytest.mark.parametrize("limit", ["max", None])
def test_without_a_limit_the_machine_decides(limit, system, monkeypatch):
    system("0::/\n", [V2_MOUNT.format(root="/")], {"": (limit, 0, {})} if limit else {})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=7))
    assert tightest_limit() is None
    assert free_bytes(torch.device("cpu")) == 7


def test_a_system_without_cgroups_has_no_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(container_memory, "PROCESS", tmp_path / "absent")
    assert tightest_limit() is None


def test_more_used_than_allowed_leaves_nothing_free(system):
    system("0::/\n", [V2_MOUNT.format(root="/")], {"": (GIB, 2 * GIB, {})})
    assert tightest_limit() == MemoryLimit(GIB, 0)
    assert free_bytes(torch.device("cpu")) == 0


def test_a_job_that_does_not_fit_its_container_is_refused_with_the_limit(system, slimsweep, tiny, tmp_path):
    from slimsweep.models.storage.saved_model import save

    save(tiny, tmp_path / "saved")
    system("0::/\n", [V2_MOUNT.format(root="/")], {"": (GIB // 2, GIB // 4, {})})
    small = ["evaluation.tasks=[]", "evaluation.context_tokens=64", "evaluation.memory_tokens=64"]
    small += ["evaluation.prompt_tokens=8", "tracker=none", "dtype=float32", "technique=magnitude"]
    answer = slimsweep("model=local", f"model.path={tmp_path}/saved", "memory_budget=3GiB", *small)
    assert answer.status == 1
    assert "memory has 0.25 GiB free of the 0.50 GiB that the container or job may use (cgroup)" in answer.err
