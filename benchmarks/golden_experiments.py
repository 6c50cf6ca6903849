"""The experiments of golden.py: overrides of small jobs that cover every technique, chains, resumes and counts."""

from dataclasses import dataclass
from pathlib import Path

STORIES = Path(__file__).resolve().parents[2] / "shared" / "models" / "stories260K"
"""A trained model of 260,032 parameters that some checkouts have beside them; else a random one stands in."""

Launch = tuple[str, ...]
"""Overrides of one call of the command."""

# Five blocks of the widths of stories260K, so that the same overrides suit both.
STORIES_SHAPE = "{model_type: llama, vocab_size: 258, hidden_size: 64, intermediate_size: 172, num_hidden_layers: 5, "
STORIES_SHAPE += "num_attention_heads: 8, num_key_value_heads: 4, max_position_embeddings: 512, tie_word_embeddings: "
STORIES_SHAPE += "true, bos_token_id: 256, eos_token_id: 257}"
MODEL = (
    ("model=local", f"model.path={STORIES}") if STORIES.is_dir() else ("model=random", f"model.shape={STORIES_SHAPE}")
)

COMMON: Launch = ("tracker=none",)
# Speed and memory are measured as briefly as can be: they are not compared.
TEXT = (
    "calibration.sequences=8",
    "calibration.tokens=128",
    "evaluation.context_tokens=128",
    "evaluation.max_windows=8",
)
TEXT += ("evaluation.task_limit=20", "evaluation.memory_tokens=8", "evaluation.prompt_tokens=8")
SMALL: Launch = (*MODEL, *TEXT, "evaluation.new_tokens=1", "evaluation.repeats=1")
META: Launch = ("model=llama_2_7b", "model.weights=meta", "evaluation=cost")


@dataclass(frozen=True)
class Experiment:
    """Launches into one outputs folder, whose records are compared after the last."""

    name: str
    launches: tuple[Launch, ...]
    """The second of two launches runs in a process of its own, as when a user comes back."""
    model: Launch = SMALL
    base: Launch = ()
    """Further overrides at the base only: its spelling of a key that has another name at HEAD."""
    head: Launch = ()
    """Further overrides at HEAD only."""
    cache: str = "off"
    """`on` where results of stages are kept for the next launch."""
    needs: str | None = None
    """Package without which the experiment is left out."""

    def overrides(self, side: str, position: int) -> list[str]:
        """What the command is given at one launch, but for folders, dtype and what `-m` must be before."""
        spelling = self.base if side == "base" else self.head
        return [*self.launches[position], *self.model, *COMMON, f"cache={self.cache}", *spelling]


def alone(technique: str, *overrides: str, needs: str | None = None) -> Experiment:
    """A technique by itself, named like it."""
    return Experiment(technique, ((f"technique={technique}", *overrides),), needs=needs)


FROM_1_TO_3 = {"base": ("technique.llm_pruner.layers=[1,3]",), "head": ("technique.llm_pruner.blocks=[1,3]",)}
"""A range of blocks, by its two names."""
PRUNED = ("technique=sparsegpt", "ratio=0.35")
EXPERIMENTS = (
    Experiment("dense", (("technique=[]",),)),
    alone("magnitude"),
    alone("random"),
    alone("wanda"),
    alone("sparsegpt"),
    alone("rtn", "technique.rtn.group_size=null"),
    alone("gptq", "technique.gptq.group_size=null"),
    alone("awq", "technique.awq.group_size=4"),
    alone("nf4"),
    alone("int8"),
    alone("dynamic_int8"),
    alone("half"),
    alone("smoothquant"),
    alone("squeezellm"),
    alone("selective", "technique.selective.group_size=null"),
    alone("heads"),
    alone("glu"),
    alone("layers", "ratio=0.4"),
    Experiment("llm_pruner", (("technique=llm_pruner",),), **FROM_1_TO_3),
    alone("qap"),
    Experiment(
        "sparsegpt_2_4",
        (("technique=sparsegpt", "technique.sparsegpt.pattern='2:4'", "technique.sparsegpt.inputs=sequential"),),
    ),
    Experiment(
        "sparsegpt_twice",
        (("technique=sparsegpt", "technique.sparsegpt.passes=2"),),
        base=("technique.sparsegpt.of=remaining",),
        head=("technique.sparsegpt.relative_to=remaining",),
    ),
    Experiment(
        "wanda+sparsegpt",
        (("technique=[wanda,sparsegpt]", "technique.wanda.ratio=0.3", "technique.sparsegpt.ratio=0.6"),),
    ),
    Experiment("sparsegpt+gptq", (("technique=[sparsegpt,gptq]", "technique.gptq.group_size=4"),)),
    Experiment(
        "llm_pruner+rtn",
        (("technique=[llm_pruner,rtn]", "technique.rtn.group_size=null", "ratio=0.25"),),
        **FROM_1_TO_3,
    ),
    Experiment("sweep", (("-m", "technique=[],magnitude", "ratio=0.7", "sweep=golden"),)),
    Experiment(
        "restored_stage",
        (PRUNED, ("technique=[sparsegpt,rtn]", "technique.rtn.group_size=null", "ratio=0.35")),
        cache="on",
    ),
    Experiment("again", (("technique=magnitude", "ratio=0.35"),) * 2),
    Experiment(
        "meta_block",
        (("technique=llm_pruner", "ratio=0.25"),),
        model=META,
        base=("technique.llm_pruner.layers=[4,29]",),
        head=("technique.llm_pruner.blocks=[4,29]",),
    ),
    Experiment(
        "meta_channel",
        (("technique=llm_pruner", "ratio=0.2", "technique.llm_pruner.level=channel"),),
        model=META,
    ),
    Experiment("meta_heads", (("technique=heads", "ratio=0.25"),), model=META),
    Experiment("meta_layers+glu", (("technique=[layers,glu]", "ratio=0.25"),), model=META),
    # Last: a peer may leave other global settings behind.
    alone("llmcompressor", needs="llmcompressor"),
    alone("llmcompressor_quantizer", "technique.llmcompressor_quantizer.group_size=null", needs="llmcompressor"),
)
NEWER = "is newer than the commits whose numbers are to be kept; its tests hold it to exact oracles"
EXCEPTIONS = {
    "sparseml": "runs in an environment of its own (make sparseml-env)",
    **dict.fromkeys(("autoround", "svd", "tensor_train", "eora"), NEWER),
    **dict.fromkeys(
        ("finetune", "lora", "qlora", "lora_prune", "distill", "minillm", "distill_reasoning", "qat"), NEWER
    ),
}
"""Techniques of conf/technique without an experiment, with the reason."""
