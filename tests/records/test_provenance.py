import subprocess

import torch

from slimsweep.records import provenance


def test_a_commit_is_marked_where_files_differ_from_it(tmp_path, monkeypatch):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "file").write_text("one")
    for arguments in (["init", "-q"], ["add", "file"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *arguments], check=True)
    monkeypatch.setattr(provenance, "is_checkout", lambda: True)
    monkeypatch.setattr(provenance, "project_root", lambda: tmp_path)
    clean = provenance.git_commit()
    assert len(clean) == 40
    (tmp_path / "file").write_text("two")
    assert provenance.git_commit() == clean + "+"


def test_there_is_no_commit_outside_a_checkout(monkeypatch):
    monkeypatch.setattr(provenance, "is_checkout", lambda: False)
    assert provenance.git_commit() is None


def test_a_time_says_its_device_threads_and_versions():
    found = provenance.computed_on("cpu")
    assert (found["device"], found["threads"], found["torch"]) == ("cpu", torch.get_num_threads(), torch.__version__)
    assert provenance.version("no-such-package") is None


def test_the_vendor_of_the_processor(tmp_path, monkeypatch):
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr("slimsweep.records.provenance.CPU_FILE", file)
    assert provenance.processor_vendor() is None
    file.write_text("processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 26\n")
    assert provenance.processor_vendor() == "AuthenticAMD"
    file.write_text("CPU implementer\t: 0x41\n")
    assert provenance.processor_vendor() is None
