"""Run every benchmark, and write RESULTS.md, on CPUs that are slow in bf16 RESULTS_FP32.md, on GPUs RESULTS_GPU.md.

.venv/bin/python benchmarks/all.py [NAME ...]    only these, the others keep what the file says of them
"""

import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import measuring
import torch

from slimsweep.records.provenance import git_commit, version

HERE = Path(__file__).parent
COMMIT = git_commit() or "unknown"
"""Before this writes anything."""
NAMES = {
    "solve": "Column solve",
    "jobs": "Whole jobs beside llm-compressor",
    "evaluation": "Evaluation beside a bare forward",
    "generation": "Generation beside transformers",
    "sweep": "A whole sweep beside single jobs",
    "startup": "Until the command answers",
    "growth": "Growth",
    "structured_speed": "Smaller shapes and 2:4 zeros",
    "memory": "A model larger than its memory",
}


def machine() -> str:
    """Processor, cores and what computes."""
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) or ["unknown processor"]
    flags = re.findall(r"flags\s*: (.*)", Path("/proc/cpuinfo").read_text())[:1]
    known = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in " ".join(flags).split()]
    memory = int(re.findall(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())[0]) / 2**20
    cards = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] or ["no GPU"]
    return f"{len(names)} cores {names[0].strip()} ({', '.join(known)}), {memory:.0f} GiB, {', '.join(cards)}"


def section(name: str) -> tuple[str, bool]:
    """What one benchmark printed, with its date and commit, and whether it came to its end."""
    ran = subprocess.run([sys.executable, HERE / f"{name}.py"], stdout=subprocess.PIPE, text=True)
    outcome = "" if ran.returncode == 0 else f"\n\n**ended with status {ran.returncode}**"
    versions = ", ".join(f"{package} {version(package)}" for package in ("torch", "transformers", "llmcompressor"))
    commit = COMMIT[:12] + ("+" if COMMIT.endswith("+") else "")
    stamp = f"{datetime.now(UTC):%Y-%m-%d}, commit {commit}, {versions}; {machine()}"
    text = f"## {NAMES[name]}\n\n`benchmarks/{name}.py`, {stamp}\n\n{ran.stdout.strip()}{outcome}\n"
    return text, ran.returncode == 0


def results() -> Path:
    """The file of this kind of machine."""
    if torch.cuda.is_available():
        return HERE / "RESULTS_GPU.md"
    dtype = measuring.experiment("model=random", "dtype=auto").resolved_dtype
    return HERE / ("RESULTS.md" if dtype == "bfloat16" else "RESULTS_FP32.md")


def main() -> None:
    chosen = sys.argv[1:] or list(NAMES)
    if unknown := [name for name in chosen if name not in NAMES]:
        sys.exit(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    kept, written = {}, results()
    if written.is_file():
        parts = re.split(r"^(?=## )", written.read_text(), flags=re.MULTILINE)[1:]
        titles = {title: name for name, title in NAMES.items()}
        kept = {titles[part[3:].split("\n", 1)[0]]: part.strip() + "\n" for part in parts}
    failed = []
    for name in chosen:
        print(f"== {name}", flush=True)
        kept[name], is_whole = section(name)
        failed += [] if is_whole else [name]
        print(kept[name], flush=True)
        head = "# Benchmarks\n\nWritten by `make bench`. Ratios of medians, measured side by side in one run.\n"
        written.write_text("\n".join([head, *(kept[name] for name in NAMES if name in kept)]))
    if failed:
        sys.exit(f"make bench: {', '.join(failed)} ended with an error; what they printed is in {written}")


if __name__ == "__main__":
    main()
