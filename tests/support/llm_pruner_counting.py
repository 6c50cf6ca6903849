"""GMacs as LLM-Pruner counts them: an independent check of ours against its published tables."""

from slimsweep.evaluation.cost import Lengths, attention_macs, attention_width, linear_macs
from slimsweep.linear.base import layer_shape
from slimsweep.models.language_model import LanguageModel


def gmacs_llm_pruner(model: LanguageModel, tokens: int = 64) -> float:
    """GMacs of a Llama as LLM-Pruner's counter has them, to compare with its published tables.

    It counts QK and AV twice and adds softmax, rotary positions, norms and the gated activation.
    Source: arXiv:2305.11627, tables at (1, 64) tokens; the additions were derived from those numbers.
    """
    width = layer_shape(model.blocks[0].get_submodule(model.family.attention_output))[0]
    lengths = Lengths(tokens, tokens)
    macs = linear_macs(model, lengths) + 2 * attention_macs(model, lengths) + 2 * tokens * width
    for block in model.blocks:
        inner = attention_width(block, model.family.attention)
        heads = inner // model.config.head_dim
        neurons = layer_shape(block.mlp.down_proj)[1]
        macs += heads * tokens**2 + 4 * tokens * inner + 2 * (2 * tokens * width) + 2 * tokens * neurons
    return macs / 1e9
