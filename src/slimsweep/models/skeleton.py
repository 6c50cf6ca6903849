"""The shape of a model without weights, which techniques plan on."""

from dataclasses import dataclass, field

from slimsweep.linear.base import layer_shape
from slimsweep.models.language_model import LanguageModel


@dataclass(kw_only=True, eq=False)
class Skeleton(LanguageModel):
    """A model on the meta device, with the zeros that planned stages would leave in it."""

    zeros: dict[str, int] = field(default_factory=dict)
    """Planned zeros by full name of the linear layer."""
    departures: list[str] = field(default_factory=list)
    """Planned stages after which weights differ from those of the base beside what was lost, each with the reason."""
    device_type: str = "cpu"
    """Kind of device that the model is planned for."""
    loaded: dict[str, tuple[int, int]] | None = None
    """See `loaded_shapes`; None where nothing was planned yet."""

    def copy(self) -> "Skeleton":
        copied = super().copy()
        copied.zeros = dict(self.zeros)
        copied.departures = list(self.departures)
        copied.device_type = self.device_type
        copied.loaded = self.loaded_shapes
        return copied

    @property
    def loaded_shapes(self) -> dict[str, tuple[int, int]]:
        """(out, in) of each linear layer of the model that was loaded, before any stage."""
        if self.loaded is not None:
            return self.loaded
        return {name: layer_shape(layer) for name, layer in self.targets().items()}

    def resize_zeros(self, name: str, kept: int, before: int) -> None:
        """Keep the planned zeros of `kept` rows or columns out of `before`; zeros are taken as evenly spread."""
        if name in self.zeros:
            self.zeros[name] = self.zeros[name] * kept // before

    def move_zeros(self, renamed: dict[str, str]) -> None:
        """Give planned zeros the new names of their blocks, by the old; zeros of other blocks go."""
        self.zeros = {
            f"{renamed[block]}{layer[len(block) :]}": zeros
            for layer, zeros in self.zeros.items()
            for block in renamed
            if layer.startswith(f"{block}.")
        }
