"""What calibration keeps of a layer's inputs: the Gram matrix, the sum and the count; never the activations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tnkit.errors import DataError, ShapeError

__all__ = ["InputStats", "Metric"]

#: Rows of a table that were not looked up count this share of the mean one.
RARE = 0.01
#: Gram matrices of four times this width or more are computed in blocks.
BLOCK = 128


@dataclass(frozen=True, slots=True, eq=False)
class InputStats:
    """Second moments of the rows that a layer multiplies with its weight.

    Attributes:
        gram: (g, n, n) float64, XᵀX for each group of the layer (g = 1 for most); of a table that is looked up, (1, n)
            float64, how often each row is.
        total: (g, n) float64, the sum of the rows.
        count: number of rows.
        aside: the moments of a part of these rows, by which fits to the others can be compared; None where none was
            kept apart.
    """

    gram: Tensor
    total: Tensor
    count: int
    aside: InputStats | None = None

    @staticmethod
    def of(rows: Tensor) -> InputStats:
        """The statistics of rows (g, N, n), or (N, n) for one group.

        Example:
            >>> import torch
            >>> from tnkit.nn.stats import InputStats
            >>> stats = InputStats.of(torch.ones(5, 2))
            >>> stats.gram.tolist(), stats.count
            ([[[5.0, 5.0], [5.0, 5.0]]], 5)
        """
        if rows.ndim not in (2, 3):
            raise ShapeError(f"InputStats.of takes rows (N, n) or (g, N, n); these have shape {tuple(rows.shape)}.")
        x = (rows[None] if rows.ndim == 2 else rows).detach().to(torch.float64)
        return InputStats(_gram(x), x.sum(dim=1), x.shape[1])

    @staticmethod
    def of_ids(ids: Tensor, n: int) -> InputStats:
        """The statistics of a look-up: how often each of `n` rows is taken.

        Example:
            >>> import torch
            >>> from tnkit.nn.stats import InputStats
            >>> InputStats.of_ids(torch.tensor([2, 0, 2]), 4).gram.tolist()
            [[1.0, 0.0, 2.0, 0.0]]
        """
        counts = torch.bincount(ids.reshape(-1).long(), minlength=n).to(torch.float64)[None]
        return InputStats(counts, counts, ids.numel())

    @property
    def counts_rows(self) -> bool:
        """Whether these are counts of looked-up rows."""
        return self.gram.ndim == 2

    @staticmethod
    def from_gram(gram: Tensor | InputStats) -> InputStats:
        """Statistics from a bare Gram matrix (n, n) or (g, n, n); mean and count are then unknown (0).

        Raises:
            ShapeError: not square.
            DataError: NaN or infinite values.
        """
        if isinstance(gram, InputStats):
            return gram
        if gram.ndim not in (2, 3) or gram.shape[-1] != gram.shape[-2]:
            raise ShapeError(f"gram has shape {tuple(gram.shape)}; give XᵀX of the inputs, (n, n) or (groups, n, n).")
        if not bool(torch.isfinite(gram).all()):
            raise DataError("gram holds NaN or infinite values. Calibrate on inputs that are finite.")
        g = (gram[None] if gram.ndim == 2 else gram).detach().to(torch.float64)
        return InputStats(g, g.new_zeros(g.shape[:2]), 0)

    def __add__(self, other: InputStats) -> InputStats:
        """The statistics of both sets of rows together."""
        gram = self.gram + other.gram.to(self.gram)
        parts = [part for part in (self.aside, other.aside) if part is not None]
        aside = None if not parts else parts[0] if len(parts) == 1 else parts[0] + parts[1]
        return InputStats(gram, self.total + other.total.to(self.total), self.count + other.count, aside)

    def rest(self) -> InputStats:
        """The statistics of the rows that were not kept apart.

        Example:
            >>> import torch
            >>> from dataclasses import replace
            >>> from tnkit.nn.stats import InputStats
            >>> first, second = InputStats.of(torch.ones(3, 2)), InputStats.of(torch.ones(1, 2))
            >>> both = first + replace(second, aside=second)
            >>> both.count, both.rest().count, both.aside.count
            (4, 3, 1)
        """
        part = self.aside
        if part is None:
            return self
        gram = self.gram - part.gram.to(self.gram)
        return InputStats(gram, self.total - part.total.to(self.total), self.count - part.count)

    def mean(self) -> Tensor:
        """(g, n) mean row."""
        return self.total / max(self.count, 1)

    def centred(self) -> InputStats:
        """The statistics of the rows minus their mean; `total` keeps the sum, so that `mean` still gives it."""
        mu = self.mean()
        return InputStats(self.gram - self.count * mu[:, :, None] * mu[:, None, :], self.total, self.count)

    def shrunk_mean(self) -> Tensor:
        """(g, n, n) mean outer product of the rows, drawn towards a multiple of the identity where rows are few.

        The identity's share is n / (count + n): an estimate from fewer rows than columns is mostly noise.
        """
        n = self.gram.shape[-1]
        mean = self.gram / max(self.count, 1)
        share = n / (self.count + n)
        level = mean.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
        return (1 - share) * mean + share * level * torch.eye(n, dtype=mean.dtype, device=mean.device)

    def to(self, device: torch.device) -> InputStats:
        """The same on another device."""
        if self.gram.device == device:
            return self
        aside = None if self.aside is None else self.aside.to(device)
        return InputStats(self.gram.to(device), self.total.to(device), self.count, aside)

    def require_finite(self, name: str) -> InputStats:
        """Itself.

        Raises:
            DataError: the inputs of layer `name` held NaN or infinite values.
        """
        if not bool(torch.isfinite(self.gram).all()):
            raise DataError(
                f"calibrate: the inputs of layer {name!r} held NaN or infinite values. "
                "Check the calibration batches and the model's own outputs on them."
            )
        return self


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """In what sense a fit is best: errors as the inputs show them, weighed by how much the model's outputs feel them.

    Attributes:
        inputs: moments of the layer's inputs; None for the identity.
        outputs: (g, m, m) mean outer product of the gradients of the model's outputs with respect to the layer's; None
            for the identity.
        frequency: (1, m) how often each row of a table is looked up; None where it is no table.
        columns: (1, n, n) mean outer product of the gradients of the model's outputs with respect to the looked-up
            rows; None for the identity, or where there are `inputs`.
    """

    inputs: InputStats | None = None
    outputs: Tensor | None = None
    frequency: Tensor | None = None
    columns: Tensor | None = None

    def gram(self, group: int) -> Tensor | None:
        """(n, n) of one group; of a table that is only looked up, how much the model's outputs feel its columns."""
        if self.inputs is None:
            return None if self.columns is None else self.columns[group]
        return self.inputs.gram[group]

    def comparable(self) -> bool:
        """Whether errors are in the unit of the model's outputs, so that those of several layers can be added up."""
        return self.columns is not None or (self.outputs is not None and self.inputs is not None)

    def rows(self, group: int) -> Tensor | None:
        """(m, m) of one group; (m,) for a table."""
        if self.frequency is not None:
            return self.frequency[group] + RARE * self.frequency[group].mean()
        return None if self.outputs is None else self.outputs[group]

    def energy(self, blocks: Tensor) -> float:
        """‖W G^½‖² of (g, m, n) matrices or (g, o, i, k) kernels, over all groups; the outputs do not enter.

        The rows of a table count as often as they are looked up.
        """
        w = blocks.detach().to(torch.float64)
        if self.frequency is not None:
            w = w * self.frequency.to(w).sqrt()[:, :, None]
        if self.inputs is None:
            return float(w.square().sum())
        gram = self.inputs.gram.to(w)
        seen = torch.einsum("goi...,gij->goj...", w, gram)
        return max(float((seen * w).sum()), 0.0)

    def felt(self, blocks: Tensor) -> float:
        """‖F^½ W G^½‖²: as `energy`, with what the outputs feel."""
        gram = self.columns if self.inputs is None else self.inputs.gram
        by_rows = self.outputs is not None and self.frequency is None
        if not by_rows and (gram is None or self.inputs is not None):
            return self.energy(blocks)
        w = blocks.detach().to(torch.float64)
        rows = w if self.frequency is None else w * self.frequency.to(w)[:, :, None]
        if by_rows and self.outputs is not None:
            rows = torch.einsum("gpo,go...->gp...", self.outputs.to(w), w)
        seen = w if gram is None else torch.einsum("goi...,gij->goj...", w, gram.to(w))
        return max(float((seen * rows).sum()), 0.0)


def _gram(x: Tensor) -> Tensor:
    """XᵀX (g, n, n) of rows (g, N, n); the lower blocks of a wide one are copied from the upper ones."""
    n = x.shape[-1]
    if n < 4 * BLOCK:
        return x.mT @ x
    gram = x.new_empty(x.shape[0], n, n)
    for start in range(0, n, -(-n // 4)):
        here = slice(start, min(start + -(-n // 4), n))
        gram[:, here, start:] = x[..., here].mT @ x[..., start:]
        gram[:, start:, here] = gram[:, here, start:].mT
    return gram
