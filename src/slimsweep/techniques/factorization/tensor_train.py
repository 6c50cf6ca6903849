"""Hold the token embedding as a tensor train, and with it the head that is tied to it."""

import logging
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slimsweep.blockwise.layerwise import LayerReport, install_empty
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.checks import number_faults, refuse, whole_number_faults
from slimsweep.errors import LayerError
from slimsweep.linear import tensor_train as forms
from slimsweep.linear.base import (
    LinearForm,
    compute_dtype,
    install,
    is_plain,
    layer_shape,
    relative_error,
    weight_count,
    zero_count,
)
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.skeleton import Skeleton
from slimsweep.numerics import counts, tensor_train
from slimsweep.techniques.base import StageReport, Technique

log = logging.getLogger(__name__)

PLANNED = (
    "ranks by an error depend on the weights: the plan has the largest ranks at which the cores hold no more numbers "
    "than the dense table"
)


@dataclass(frozen=True, kw_only=True)
class TensorTrain(Technique):
    """Write the embedding [vocabulary width] as a train of small cores, by TT-SVD.

    Rows are looked up without rebuilding the table. A head that is tied to the embedding reads the same cores, so the
    matrix is stored once as before; an untied head stays dense. Techniques that cut heads, neurons or channels
    out refuse a model with such an embedding: they come first.
    Source: arXiv:2307.00526 (TensorGPT), with one train for the whole table in place of one for each row, as in
        arXiv:1901.10787; TT-SVD of doi:10.1137/090752286.
    """

    version: ClassVar[int] = 2

    ratio: float | int | None
    """Fraction of the embedding's parameters to remove, [0, 1); 0 leaves it dense. Null where `error` is given."""
    error: float | int | None = None
    """Largest relative error (Frobenius) of the table, (0, 1): the ranks follow from it. None: they follow from the
    ratio."""
    factors: int = 3
    """Number of cores."""

    def __post_init__(self) -> None:
        if self.error is not None:
            object.__setattr__(self, "ratio", None)
            faults = number_faults("error", self.error, "(0, 1)", "the relative error of the table, or null")
        else:
            faults = number_faults("ratio", self.ratio, "[0, 1)", "the fraction of parameters to remove")
        refuse(faults + whole_number_faults("factors", self.factors, least=2))

    def faults(self, skeleton: LanguageModel) -> list[str]:
        """An embedding that cannot become a train, or a ratio or error that no train has."""
        if skeleton.family.encoder is not None:
            return [
                "an encoder and a decoder share this model's embedding, and tensor_train treats models of one stack"
            ]
        embedding = _embedding(skeleton)
        if isinstance(embedding, LinearForm):
            return [f"{skeleton.family.embeddings} is stored as {embedding.kind} already: apply tensor_train once"]
        if type(embedding).forward is not nn.Embedding.forward and not hasattr(embedding, "embed_scale"):
            return [f"{skeleton.family.embeddings} is a {type(embedding).__name__}, which does more than look rows up"]
        others = [name for name in _readers(skeleton) if not is_plain(skeleton.module.get_submodule(name))]
        if others:
            return [f"{', '.join(others)} shares the embedding's weight and is no linear layer, so it would lose it"]
        if self.ratio == 0:
            return []
        return self._size_faults(skeleton) if self.error is None else self._error_faults(skeleton)

    def _size_faults(self, skeleton: LanguageModel) -> list[str]:
        """A ratio below the parameters of rank 1."""
        rows, columns = self._bases(skeleton)
        least, budget = tensor_train.parameter_count(rows, columns, [1] * (self.factors - 1)), self._budget(skeleton)
        if least <= budget:
            return []
        return [
            f"ratio={self.ratio:g} leaves {budget} parameters of the embedding, and {self.factors} cores of rank 1 "
            f"have {least}: give a smaller ratio"
        ]

    def _error_faults(self, skeleton: LanguageModel) -> list[str]:
        """An error below what rounding the cores may add."""
        rounding = self._rounding(skeleton)
        if self.error > rounding:
            return []
        return [
            f"error={self.error:g}: {self.factors} cores in {str(skeleton.dtype).removeprefix('torch.')} may be off by "
            f"{rounding:.2g} by rounding alone: give a larger error, or dtype=float32"
        ]

    @torch.no_grad()
    def apply(self, model: LanguageModel, context: StageContext) -> StageReport:
        """Replace the embedding, and a tied head.

        Raises:
            LayerError: cores whose stored error exceeds the one asked for.
        """
        if self.ratio == 0:
            return _left_dense(model, zero_count(_embedding(model)), 0.0)
        name, readers, (rows, columns) = model.family.embeddings, _readers(model), self._bases(model)
        embedding = _embedding(model)
        table = embedding.weight.detach()
        cores = self._cores(model, table)
        settings = _settings(rows, columns, [core.shape[3] for core in cores[:-1]])
        shape, train = layer_shape(embedding), forms.TensorTrain([core.to(compute_dtype(embedding)) for core in cores])
        install(model.module, name, forms.TensorTrainEmbedding(shape, settings, train))
        for reader in readers:
            install(model.module, reader, forms.TensorTrainHead(shape, settings | {"embedding": name}, train))
        error = relative_error(_embedding(model).weight, table.float())
        if self.error is not None and error > self.error:
            raise LayerError(f"{name}: the stored cores are off by {error:.3g}, and error={self.error:g} was asked for")
        return self._report(model, readers, error)

    def _cores(self, model: LanguageModel, table: Float[Tensor, "vocabulary width"]) -> list[Float[Tensor, "_ _ _ _"]]:
        """Cores in fp64. An error bound leaves room for their rounding, whose square adds to that of the cuts."""
        rows, columns = self._bases(model)
        if self.error is None:
            return tensor_train.decompose_to_ranks(table, rows, columns, self._planned_ranks(model))
        allowed = math.sqrt(self.error**2 - self._rounding(model) ** 2)
        return tensor_train.decompose_to_error(table, rows, columns, allowed)

    def plan(self, skeleton: Skeleton) -> StageReport:
        """Put empty cores in place: of the ranks of the ratio, or of the largest that hold no more than the table."""
        if self.ratio == 0:
            return _left_dense(skeleton)
        name, readers, ranks = skeleton.family.embeddings, _readers(skeleton), self._planned_ranks(skeleton)
        settings = _settings(*self._bases(skeleton), ranks)
        install_empty(skeleton, name, forms.TensorTrainEmbedding, settings)
        for reader in readers:
            install_empty(skeleton, reader, forms.TensorTrainHead, settings | {"embedding": name})
        report = self._report(skeleton, readers, None)
        if self.error is not None:
            report.notes["plan"] = PLANNED
        return report

    def _planned_ranks(self, model: LanguageModel) -> tuple[int, ...]:
        """Ranks that follow from the shape alone."""
        rows, columns = self._bases(model)
        return tensor_train.ranks_within(rows, columns, self._budget(model)) or (1,) * (self.factors - 1)

    def _bases(self, model: LanguageModel) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Bases of row and column indices."""
        vocabulary, width = layer_shape(_embedding(model))
        factors = self.factors
        return tensor_train.balanced_factors(vocabulary, factors), tensor_train.balanced_factors(width, factors)

    def _budget(self, model: LanguageModel) -> int:
        """Numbers that all cores may have together; with an error bound those of the table, for a plan."""
        return counts.kept_count(self.ratio or 0, math.prod(layer_shape(_embedding(model))))

    def _rounding(self, model: LanguageModel) -> float:
        """Relative error that rounding the cores is expected to stay below: half a step for each core, added up.

        It is no bound: the numbers of a core could all be rounded in the direction that matters most. `apply` measures
        the error that was reached.
        """
        return self.factors * torch.finfo(model.dtype).eps / 2

    def _report(self, model: LanguageModel, readers: list[str], error: float | None) -> StageReport:
        """Counts of the new embedding, with its bases and ranks."""
        name, form = model.family.embeddings, _embedding(model)
        zeros = 0 if error is None else zero_count(form)
        dense, parameters = math.prod(layer_shape(form)), weight_count(form)
        notes: dict[str, Any] = dict(form.settings) | {
            "dense_parameters": dense,
            "parameters": parameters,
            "tied_heads": readers,
        }
        if error is not None:
            notes["error"] = error
            if parameters >= dense:
                notes["warning"] = f"the cores have {parameters} parameters, no fewer than the dense table's {dense}"
                log.warning("%s: %s", type(self).__name__, notes["warning"])
        return StageReport([LayerReport(name, parameters, zeros, error)], notes)


def _left_dense(model: LanguageModel, zeros: int = 0, error: float | None = None) -> StageReport:
    """Report on an embedding that stays as it is."""
    name, parameters = model.family.embeddings, weight_count(_embedding(model))
    notes = {"left_dense": [name], "dense_parameters": parameters, "parameters": parameters}
    return StageReport([LayerReport(name, parameters, zeros, error)], notes)


def _settings(rows: tuple[int, ...], columns: tuple[int, ...], ranks: Any) -> dict[str, list[int]]:
    """Settings of the forms, in the types that a manifest gives back."""
    return {"rows": list(rows), "columns": list(columns), "ranks": list(ranks)}


def _embedding(model: LanguageModel) -> nn.Module:
    return model.module.get_submodule(model.family.embeddings)


def _readers(model: LanguageModel) -> list[str]:
    """Other modules that hold the embedding's weight, by full name: a tied head."""
    embedding = _embedding(model)
    return [
        name
        for name, module in model.module.named_modules()
        if module is not embedding and getattr(module, "weight", None) is embedding.weight
    ]
