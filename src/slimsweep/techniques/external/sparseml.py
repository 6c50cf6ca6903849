"""sparseml's SparseGPT, as a peer to compare with: run in an environment of its own, with files in and out."""

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file

import slimsweep.techniques.external.sparseml_run
from slimsweep.blockwise.layer_method import Pruned
from slimsweep.blockwise.layerwise import LayerReport, replace_weight
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.errors import ModelError
from slimsweep.linear.base import kinds_of, linear_forms
from slimsweep.models.batches import Batch
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.storage.plain import plain_config
from slimsweep.models.storage.saved_model import save
from slimsweep.paths import project_root
from slimsweep.techniques.base import StageReport
from slimsweep.techniques.external.base import PeerPruner

ENVIRONMENT = ".venv-sparseml"
"""Folder beside the project's own environment; `make sparseml-env` makes it."""
KNOWN = ("llama", "mistral", "qwen2", "opt", "gpt_neox")
"""Families that both we and transformers 4.40 know, and whose layers are torch's linear ones."""
LOG_CHARACTERS = 2000
"""Characters of its output that an error shows."""


@dataclass(frozen=True, kw_only=True)
class SparseML(PeerPruner):
    """SparseGPT as sparseml 1.8.0 computes it, layer after layer (`sequential_update`).

    sparseml is at its end: 1.9.0 is a stub that refuses to install, and 1.8.0 needs transformers 4.40 and an
    environment of its own. So it knows the families of 2024, on the CPU or one GPU.

    Source: the package's `oneshot` with a recipe of one `SparseGPTModifier`.
    """

    package: ClassVar[str] = "sparseml"

    path: str | None = None
    """Folder of its environment; None: `.venv-sparseml` in the project."""

    @property
    def python(self) -> Path:
        """The interpreter of its environment."""
        return Path(self.path or project_root() / ENVIRONMENT) / "bin" / "python"

    def faults(self, skeleton: LanguageModel) -> list[str]:
        faults = super().faults(skeleton)
        if part := [name for name, whole in self._blocks(skeleton).items() if not whole]:
            faults.append(f"sparseml prunes whole blocks: include and exclude take only a part of {part[0]}")
        faults += readable_faults(skeleton)
        if not self.python.is_file():
            faults.append(
                f"sparseml has no environment at {self.python.parents[1]}: make -C {project_root()} sparseml-env"
            )
        return faults

    def walk(self, model: LanguageModel, context: StageContext) -> StageReport:
        with tempfile.TemporaryDirectory(prefix="slimsweep-sparseml-") as folder:
            self._write(model, context.batches, Path(folder))
            done = self._run(Path(folder))
            return StageReport(self._read(model, Path(folder)), done)

    def _write(self, model: LanguageModel, batch: Batch, folder: Path) -> None:
        """Model, tokens and job as files that transformers 4.40 reads."""
        save(model, folder / "model")
        make_older(folder / "model")
        save_file({"token_ids": batch["input_ids"].contiguous()}, folder / "token_ids.safetensors")
        modifier = {
            "sparsity": self.ratio,
            "mask_structure": self.mask_structure,
            "block_size": self.block_columns,
            "dampening_frac": float(self.damping_fraction),
            "sequential_update": True,
            "targets": list(self._blocks(model)),
        }
        device = str(model.compute_device)
        job = {"modifier": modifier, "dtype": str(model.dtype).removeprefix("torch."), "device": device}
        (folder / "job.json").write_text(json.dumps(job))

    def _run(self, folder: Path) -> dict[str, Any]:
        """Run its environment's interpreter; returns its version and the seconds without start-up and loading.

        Raises:
            ModelError: it failed, with the end of what it printed.
        """
        # -P: the script's own folder, ours, would come before the packages of its environment.
        command = [str(self.python), "-P", slimsweep.techniques.external.sparseml_run.__file__, str(folder)]
        # In the folder, since it writes logs where it runs.
        ran = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if ran.returncode or not (folder / "done.json").is_file():
            raise ModelError(f"sparseml failed (status {ran.returncode}): ...{ran.stdout[-LOG_CHARACTERS:]}")
        return json.loads((folder / "done.json").read_text())

    def _read(self, model: LanguageModel, folder: Path) -> list[LayerReport]:
        """Take over the pruned weights.

        Raises:
            ModelError: a targeted layer is in none of its files.
        """
        wanted, reports = self.targets(model), {}
        for file in sorted((folder / "pruned").glob("*.safetensors")):
            with safe_open(file, framework="pt") as tensors, torch.no_grad():
                written = {key.removesuffix(".weight") for key in tensors.keys()}  # noqa: SIM118 no mapping
                for name in wanted.keys() & written:
                    weight = tensors.get_tensor(f"{name}.weight")
                    reports[name] = replace_weight(model, name, Pruned(weight, weight != 0))
        if missing := [name for name in wanted if name not in reports]:
            raise ModelError(f"sparseml wrote no weights of {', '.join(missing)}")
        return [reports[name] for name in wanted]

    def _blocks(self, model: LanguageModel) -> dict[str, bool]:
        """Names of the blocks that hold targeted layers, and whether all their layers are."""
        targets, blocks = self.targets(model), {}
        for prefix, block in zip(model.block_names, model.blocks, strict=True):
            chosen = [f"{prefix}.{part}" in targets for part in model.linears(block)]
            if any(chosen):
                blocks[prefix] = all(chosen)
        return blocks


def readable_faults(skeleton: LanguageModel) -> list[str]:
    """Reasons why transformers 4.40 would not read this model, or would read another one."""
    config, faults = skeleton.config, []
    if config.model_type not in KNOWN:
        faults.append(f"sparseml's transformers 4.40 does not know {config.model_type}: it has {', '.join(KNOWN)}")
    if skeleton.task.name != "causal_lm":
        faults.append("sparseml is run on language models only")
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") != "default":
        faults.append(f"rotary scaling {rope['rope_type']!r} is written otherwise in transformers 4.40: leave it out")
    if plain_config(skeleton) is None:
        faults.append("sparseml reads plain models only, and this one has layers of other widths")
    if forms := linear_forms(skeleton.module):
        faults.append(f"sparseml reads plain models only, and this one has layers stored as {kinds_of(forms)}")
    return faults


def make_older(folder: Path) -> None:
    """Write a saved model's config and tokenizer as transformers 4.40 reads them, in place."""
    config = json.loads((folder / "config.json").read_text())
    config |= {"torch_dtype": config.get("dtype", config.get("torch_dtype"))}
    if isinstance(rope := config.get("rope_parameters"), dict):
        config |= {"rope_theta": rope["rope_theta"]}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = folder / "tokenizer.json"
    if tokenizer.is_file():
        content = json.loads(tokenizer.read_text())
        if merges := content.get("model", {}).get("merges"):
            content["model"]["merges"] = [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
        tokenizer.write_text(json.dumps(content))
        settings = folder / "tokenizer_config.json"
        content = json.loads(settings.read_text()) if settings.is_file() else {}
        settings.write_text(json.dumps(content | {"tokenizer_class": "PreTrainedTokenizerFast"}))
