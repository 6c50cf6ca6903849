"""A technique that raises at one layer."""

from dataclasses import dataclass

from slimsweep.techniques.pruning.magnitude import Magnitude


@dataclass(frozen=True, kw_only=True)
class BreakingLayer(Magnitude):
    """Fails at the first layer of the second block, as a singular matrix would."""

    def compress_layer(self, weight, prepared=None, generator=None, removed=None):
        first = int(generator.initial_seed())
        if first == SECOND_BLOCK:
            raise RuntimeError("singular")
        return super().compress_layer(weight, prepared, generator, removed)


def _seed_of(name: str) -> int:
    from slimsweep.blockwise.stage_context import StageContext

    return int(StageContext(seed=0).generator(name).initial_seed())


SECOND_BLOCK = _seed_of("model.layers.1.self_attn.q_proj")
