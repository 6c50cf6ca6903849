"""One loaded model as techniques and metrics see it: blocks, linear layers, hidden states, logits."""

import contextlib
import copy
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slimsweep.linear.base import compute_dtype, dense_parameters, linear_layers, packed_layers
from slimsweep.models.batches import Batch, to_device
from slimsweep.models.families import Family, Stack
from slimsweep.models.placement.offload import Offload
from slimsweep.models.placement.scratch import PAGE, Scratch
from slimsweep.models.task import Task, inputs_of
from slimsweep.numerics.parallel import parallel_map

CPU = torch.device("cpu")


@dataclass(kw_only=True, eq=False)
class LanguageModel:
    """A transformers model with the places of its parts; its weights may be written in place."""

    module: nn.Module
    """The transformers model, in eval mode."""
    family: Family
    task: Task
    tokenizer: Any = None
    """Its transformers tokenizer; None where none was loaded (meta device)."""
    compute_device: torch.device = CPU
    """Device on which forwards run and on which `hidden_states` and `logits` return their results."""
    offload: bool = False
    """Blocks rest in host memory and visit `compute_device` one at a time."""
    scratch: Scratch | None = None
    """The file that the blocks' weights rest in, where they do not rest in memory."""
    activation_bytes: int | None = None
    """Activations of all calibration sequences that take more than this rest in a scratch file too."""
    original_parameters: int = 0
    """Parameters of the model as it was loaded, tied ones once; what `compression_factor` compares with."""

    def __post_init__(self) -> None:
        self.original_parameters = self.original_parameters or parameter_count(self.module)
        self._offload = Offload(self.compute_device)
        if self.offload:
            self._offload.install(self.module, self.blocks)
        if self.scratch:
            for block in self.blocks:
                block.register_forward_hook(lambda *_: self.release(), always_call=True)

    @property
    def config(self) -> Any:
        return self.module.config

    @property
    def dtype(self) -> torch.dtype:
        return compute_dtype(self.module.get_submodule(self.family.embeddings))

    @property
    def is_meta(self) -> bool:
        """True when there are shapes but no weights."""
        return next(self.module.get_submodule(self.family.embeddings).parameters()).is_meta

    @property
    def has_alibi(self) -> bool:
        """True when each head has a position slope, in one table for all blocks."""
        alibi = self.family.alibi
        return bool(getattr(self.config, alibi)) if isinstance(alibi, str) else alibi

    @property
    def blocks(self) -> list[nn.Module]:
        """Blocks of all stacks in forward order: those of an encoder come before the decoder's."""
        return [block for stack in self.family.stacks for block in self.module.get_submodule(stack.blocks)]

    @property
    def block_names(self) -> list[str]:
        return [f"{stack.blocks}.{place}" for stack, blocks in self._stacks for place in range(len(blocks))]

    @property
    def stack_ranges(self) -> list[range]:
        """Indices in `blocks` of each stack's blocks."""
        return [blocks for _, blocks in self._stacks]

    def stack_of(self, index: int) -> Stack:
        """The stack that block `index` belongs to."""
        return next(stack for stack, blocks in self._stacks if index in blocks)

    @property
    def _stacks(self) -> list[tuple[Stack, range]]:
        """Stacks, each with the indices of its blocks."""
        ends = [0]
        for stack in self.family.stacks:
            ends.append(ends[-1] + len(self.module.get_submodule(stack.blocks)))
        return list(zip(self.family.stacks, map(range, ends, ends[1:]), strict=True))

    def linears(self, block: nn.Module) -> dict[str, nn.Module]:
        """Linear layers of a block by their name within it, in order of definition."""
        return linear_layers(block)

    def targets(self) -> dict[str, nn.Module]:
        """Linear layers of all blocks by full name; embeddings and head are not among them."""
        return {
            f"{prefix}.{name}": layer
            for prefix, block in zip(self.block_names, self.blocks, strict=True)
            for name, layer in self.linears(block).items()
        }

    @torch.no_grad()
    def hidden_states(self, batch: Batch) -> Float[Tensor, "sequence token width"]:
        """Output of the last norm, as the head reads it; of an encoder-decoder that of the decoder."""
        inputs = inputs_of(to_device(batch, self.compute_device))
        if self.family.encoder is None:
            return self.module.base_model(**inputs, use_cache=False).last_hidden_state
        mask = inputs.get("attention_mask")
        source = self.module.get_encoder()(input_ids=inputs["input_ids"], attention_mask=mask).last_hidden_state
        return self.module.get_decoder()(
            input_ids=inputs["decoder_input_ids"],
            attention_mask=inputs.get("decoder_attention_mask"),
            encoder_hidden_states=source,
            encoder_attention_mask=mask,
            use_cache=False,
        ).last_hidden_state

    @torch.no_grad()
    def logits(self, hidden: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch vocabulary"]:
        """The head's output for any slice of `hidden_states`, so that a caller can bound its memory."""
        scaled_by = self.family.head_scaled_by
        if scaled_by and getattr(self.config, scaled_by, False):
            hidden = hidden * self.module.model_dim**-0.5
        logits = self.module.get_submodule(self.family.head)(hidden)
        if self.family.logits_bias:
            logits = logits + self.module.get_buffer(self.family.logits_bias)[0]
        if self.family.logits_divisor:
            logits = logits / getattr(self.config, self.family.logits_divisor)
        softcap = getattr(self.config, self.family.head_softcap, None) if self.family.head_softcap else None
        return logits if softcap is None else softcap * torch.tanh(logits / softcap)

    @contextlib.contextmanager
    def resident(self, block: nn.Module) -> Iterator[None]:
        """Hold a block's weights on `compute_device`; what was written to them inside is kept."""
        if not self.offload:
            try:
                yield
            finally:
                self.release()
            return
        with self._offload.resident(block):
            yield

    def release(self) -> None:
        """Give back the memory of weights that rest in a file; to be called after each layer that was looked at."""
        if self.scratch:
            self.scratch.release()

    def spill(self, size: int) -> Scratch | None:
        """A scratch file for activations of `size` bytes; None where they may stay in memory."""
        if self.scratch is None or self.activation_bytes is None or size <= self.activation_bytes:
            return None
        return Scratch(self.scratch.folder, size + PAGE)

    def copy(self) -> "LanguageModel":
        """An independent model with equal weights on the same devices; tied weights stay tied."""
        self._offload.remove()
        module = copy.deepcopy(self.module)
        if self.offload:
            self._offload.install(self.module, self.blocks)
        return type(self)(
            module=module,
            family=self.family,
            task=self.task,
            tokenizer=self.tokenizer,
            compute_device=self.compute_device,
            offload=self.offload,
            original_parameters=self.original_parameters,
        )


def parameter_count(module: nn.Module) -> int:
    """Numbers in all parameters, tied ones counted once; a packed layer has as many as the weights it stands for."""
    dense = sum(parameter.numel() for parameter in dense_parameters(module).values())
    return dense + sum(layer.weight_count for layer in packed_layers(module).values())


def weights_digest(model: LanguageModel) -> str:
    """SHA-256 over names, dtypes, shapes and SHA-256 of the bytes of the state dict, in the order of its names.

    Buffers that are not persistent are not in it: a config decides them. Tied tensors are read once.
    """

    def of_bytes(tensor: Tensor) -> str:
        whole = tensor.detach().cpu().contiguous()
        # as_strided: one that holds a single number is contiguous whatever its strides say.
        digest = hashlib.sha256(whole.as_strided((whole.numel(),), (1,)).view(torch.uint8).numpy()).hexdigest()
        model.release()
        return digest

    state = dict(sorted(model.module.state_dict().items()))
    places = {name: (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()) for name, tensor in state.items()}
    apart = {places[name]: tensor for name, tensor in state.items()}
    # Tensors that rest in a file or on a GPU visit memory one at a time.
    is_in_memory = model.scratch is None and all(tensor.is_cpu for tensor in apart.values())
    found = parallel_map(of_bytes, apart.values(), CPU) if is_in_memory else map(of_bytes, apart.values())
    digests = dict(zip(apart, found, strict=True))
    parts = [f"{name} {tensor.dtype} {list(tensor.shape)} {digests[places[name]]};" for name, tensor in state.items()]
    return hashlib.sha256("".join(parts).encode()).hexdigest()
