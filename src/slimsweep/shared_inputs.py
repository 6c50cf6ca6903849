"""What layers that share an input share: prepared once, by whichever of them is compressed first."""

import threading
import time
from typing import TYPE_CHECKING, Any

from slimsweep.activations import InputSum
from slimsweep.errors import HessianError, ModelError
from slimsweep.finite import all_finite

if TYPE_CHECKING:
    from slimsweep.layerwise import LayerMethod


class Prepared:
    """What a method prepares of the sum over one input; layers compressed side by side may ask for it at once."""

    def __init__(self, method: "LayerMethod", shared: InputSum):
        """Raises ModelError where what was collected is not finite."""
        refuse_non_finite(shared)
        self.layers = shared.layers
        self.seconds = 0.0
        """What preparing took."""
        self.numbers = 0 if shared.summed is None else shared.summed.numel()
        """Of the sum; how long preparing takes grows with them."""
        self._method, self._summed = method, shared.summed
        shared.summed = None  # so that it can be freed when it is prepared
        self._lock, self._found, self._failed = threading.Lock(), None, None

    @classmethod
    def ready(cls, layers: list[str], found: Any) -> "Prepared":
        """What was prepared before."""
        made = cls.__new__(cls)
        made.layers, made.seconds, made.numbers = layers, 0.0, 0
        made._method, made._summed, made._lock = None, None, threading.Lock()
        made._found, made._failed = found, None
        return made

    def __call__(self) -> Any:
        """None where there is no sum.

        Raises:
            HessianError: naming the layers.
        """
        with self._lock:
            if self._failed:
                raise self._failed
            if self._summed is not None:
                started = time.perf_counter()
                try:
                    self._found, self._summed = self._method.prepare(self._summed), None
                except HessianError as error:
                    self._failed = HessianError(
                        f"Hessian of {', '.join(self.layers)}: {error}. Use more calibration text or exclude these "
                        "layers."
                    )
                    raise self._failed from error
                self.seconds = time.perf_counter() - started
            return self._found


def refuse_non_finite(shared: InputSum) -> None:
    """Raise ModelError where what was collected of some inputs is not finite."""
    if shared.summed is not None and not all_finite(shared.summed):
        raise ModelError(
            f"The calibration inputs of {', '.join(shared.layers)} are not finite. Choose a dtype with more range "
            "(dtype=bfloat16 or dtype=float32), or compress less."
        )
