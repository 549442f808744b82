"""nn.Embedding and nn.EmbeddingBag: a matrix whose rows are looked up. Calibration counts how often each is."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from tnkit.nn.forms import MatrixForm, bucket
from tnkit.nn.forms.steps import is_traced
from tnkit.nn.layers.layer_type import LayerType, dtype_of, feature_rows, with_values
from tnkit.nn.layers.module import FactoredModule
from tnkit.nn.specs import Execution, LayerSpec
from tnkit.nn.stats import InputStats
from tnkit.nn.views import WeightView, matrix_view
from tnkit.registry import LAYERS

__all__ = ["EmbeddingBagType", "EmbeddingType", "FactoredEmbedding", "FactoredEmbeddingBag"]


class FactoredEmbedding(FactoredModule[MatrixForm]):
    """Rows of Ŵ in the place of nn.Embedding, with its face; the table itself is never made.

    Attributes:
        num_embeddings: rows of the table.
        embedding_dim: columns of the table.
        padding_idx: as nn.Embedding has it; here the row is whatever the factors make of it.

    Example:
        >>> import torch
        >>> from tnkit.nn import FactoredEmbedding
        >>> from tnkit.nn.forms import LowRankForm
        >>> FactoredEmbedding(LowRankForm(100, 6, 2))(torch.tensor([[3, 4, 99]])).shape
        torch.Size([1, 3, 6])
    """

    kind: ClassVar[str] = "FactoredEmbedding"
    keeps: ClassVar[bool] = False  # tables are made smaller for the memory
    max_norm = None
    norm_type = 2.0
    scale_grad_by_freq = False
    sparse = False

    def __init__(
        self,
        form: MatrixForm,
        *,
        padding_idx: int | None = None,
        bias: bool = False,
        execution: Execution = "auto",
        dtype: torch.dtype | None = None,
    ) -> None:
        """A table of zeros; layer types and loading fill it."""
        super().__init__(form, None, execution, dtype)
        self.num_embeddings, self.embedding_dim, self.padding_idx = form.m, form.n, padding_idx

    @property
    def weight(self) -> Tensor:
        """The dense table."""
        return self.form.dense(self.factors())

    def forward_factored(self, x: Tensor) -> Tensor:
        """The rows, made from the factors."""
        return self.form.pick(self.factors(), x)

    def forward_materialized(self, x: Tensor) -> Tensor:
        """The rows of the dense table."""
        return F.embedding(x, self.weight)

    def sample_size(self, x: Tensor) -> tuple[int, ...]:
        """The number of rows, in powers of two."""
        return (bucket(x.numel()),)

    def face(self) -> dict[str, Any]:
        """`padding_idx`."""
        return {"padding_idx": self.padding_idx}

    def extra_repr(self) -> str:
        """What print shows."""
        return f"{self.num_embeddings}, {self.embedding_dim}, {super().extra_repr()}"


class FactoredEmbeddingBag(FactoredEmbedding):
    """Sums, means or maxima of rows of Ŵ in the place of nn.EmbeddingBag, with its face.

    Attributes:
        mode: "sum", "mean" or "max".
        include_last_offset: as nn.EmbeddingBag has it.
    """

    kind: ClassVar[str] = "FactoredEmbeddingBag"

    def __init__(
        self,
        form: MatrixForm,
        *,
        mode: str = "mean",
        padding_idx: int | None = None,
        include_last_offset: bool = False,
        bias: bool = False,
        execution: Execution = "auto",
        dtype: torch.dtype | None = None,
    ) -> None:
        """A table of zeros; layer types and loading fill it."""
        super().__init__(form, padding_idx=padding_idx, execution=execution, dtype=dtype)
        self.mode, self.include_last_offset = mode, include_last_offset

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        """The bags; only the rows that are looked up are made, but for compiled code, which has the whole table."""
        ids, skip = input, self.padding_idx
        if self.execution == "materialized" or is_traced(input):
            table = self.weight
        else:
            used, ids = torch.unique(input, return_inverse=True)
            table = self.form.pick(self.factors(), used)
            found = (used == skip).nonzero() if skip is not None else used[:0]
            skip = int(found) if found.numel() else None
        return F.embedding_bag(
            ids,
            table,
            offsets,
            mode=self.mode,
            per_sample_weights=per_sample_weights,
            include_last_offset=self.include_last_offset,
            padding_idx=skip,
        )

    def face(self) -> dict[str, Any]:
        """The options."""
        return {"mode": self.mode, "padding_idx": self.padding_idx, "include_last_offset": self.include_last_offset}


class EmbeddingType(LayerType):
    """nn.Embedding and what computes as it does."""

    name = "embedding"
    dense: ClassVar[type[nn.Module]] = nn.Embedding
    module = FactoredEmbedding
    readings = ("matrix",)

    def objection(self, layer: Any) -> str | None:
        """A table that is changed at each look-up cannot be factored."""
        return "its max_norm changes the table at each look-up" if layer.max_norm is not None else None

    def default(self, layer: Any) -> LayerSpec | None:
        """Only where a rule names it: a look-up costs time that the dense table does not."""
        return None

    def view(self, layer: Any, reading: str) -> WeightView:
        """The table as it is."""
        return matrix_view(tuple(layer.weight.shape))

    def rows_key(self, layer: Any, reading: str) -> Hashable:
        """Tables of one length see the same ids alike."""
        return ("ids", layer.num_embeddings, layer.padding_idx)

    def rows(self, layer: Any, reading: str, x: Tensor, mask: Tensor | None) -> Iterator[Tensor]:
        """None: ids are counted."""
        yield from ()

    def observe(self, layer: Any, reading: str, x: Tensor, mask: Tensor | None) -> InputStats | None:
        """How often each row is looked up."""
        ids = x[mask] if mask is not None and mask.shape == x.shape else x.reshape(-1)
        if layer.padding_idx is not None:
            ids = ids[ids != layer.padding_idx]
        return InputStats.of_ids(ids, layer.num_embeddings)

    def output_rows(self, layer: Any, y: Tensor, mask: Tensor | None) -> Tensor:
        """The output's last axis."""
        return feature_rows(y, mask)

    def positions(self, layer: Any, shape: tuple[int, ...] | None) -> tuple[int, int] | None:
        """The number of ids; 1 where no input is known."""
        rows = 1 if shape is None else prod(shape)
        return rows, rows

    def macs(self, layer: Any) -> tuple[int, int]:
        """A look-up multiplies nothing."""
        return 0, 0

    def empty(self, layer: Any, form: MatrixForm, execution: Execution) -> FactoredModule[Any]:
        """FactoredEmbedding."""
        return FactoredEmbedding(form, padding_idx=layer.padding_idx, execution=execution, dtype=dtype_of(layer))

    def restore(self, module: FactoredEmbedding) -> nn.Module:
        """nn.Embedding with the materialised table."""
        weight = module.weight
        sizes = (module.num_embeddings, module.embedding_dim, module.padding_idx)
        dense = skip_init(nn.Embedding, *sizes, device=weight.device, dtype=weight.dtype)
        return with_values(dense, module, weight)


class EmbeddingBagType(EmbeddingType):
    """nn.EmbeddingBag and what computes as it does."""

    name = "embedding_bag"
    dense = nn.EmbeddingBag
    module = FactoredEmbeddingBag

    def empty(self, layer: Any, form: MatrixForm, execution: Execution) -> FactoredModule[Any]:
        """FactoredEmbeddingBag."""
        return FactoredEmbeddingBag(
            form,
            mode=layer.mode,
            padding_idx=layer.padding_idx,
            include_last_offset=layer.include_last_offset,
            execution=execution,
            dtype=dtype_of(layer),
        )

    def restore(self, module: FactoredEmbedding) -> nn.Module:
        """nn.EmbeddingBag with the materialised table."""
        assert isinstance(module, FactoredEmbeddingBag)
        weight = module.weight
        dense = skip_init(
            nn.EmbeddingBag,
            module.num_embeddings,
            module.embedding_dim,
            mode=module.mode,
            padding_idx=module.padding_idx,
            include_last_offset=module.include_last_offset,
            device=weight.device,
            dtype=weight.dtype,
        )
        return with_values(dense, module, weight)


LAYERS.register(EmbeddingBagType.name, EmbeddingBagType())
LAYERS.register(EmbeddingType.name, EmbeddingType())
