"""Fit any format to a weight as its inputs see it: minimise tr((W − Ŵ) G (W − Ŵ)ᵀ) over all of its tensors at once.

The Gram matrix G holds all that the objective needs of the calibration data. It starts from the fit of the weight
alone, with L-BFGS on the whole network, and what it gives is never worse in the metric.

References:
    Nocedal and Wright, Numerical Optimization (2006), chapter 7.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tnkit.nn.specs.base import Fitted
from tnkit.nn.stats import Metric

__all__ = ["fit_in_metric"]

#: Directions that the inputs do not show count this share of the mean one, so that they are not given up.
UNSEEN = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class _Roots:
    """Square roots of the metric of each group, (g, i, i) and (g, o, o) or (g, o); None for the identity."""

    inputs: Tensor | None
    rows: Tensor | None

    def __call__(self, wrong: Tensor) -> Tensor:
        """(g, o, i, …) seen in the metric."""
        if self.inputs is not None:
            wrong = torch.einsum("goi...,gij->goj...", wrong, self.inputs)
        if self.rows is not None:
            equation = "go,goj...->goj..." if self.rows.ndim == 2 else "gpo,goj...->gpj..."
            wrong = torch.einsum(equation, self.rows, wrong)
        return wrong


def fit_in_metric(fitted: Fitted, blocks: Tensor, metric: Metric, *, max_steps: int = 60) -> Fitted:
    """A fit that is at least as good in the metric.

    Args:
        fitted: a format, as a weight (of one group) or with a first axis for the groups.
        blocks: (g, o, i, …) the weight it stands for, float64.
        metric: of inputs and rows.
        max_steps: of L-BFGS.

    Cost:
        A contraction and a product with G for each step, and one eigendecomposition of G.
    """
    roots = _roots(blocks, metric)
    if roots.inputs is None and roots.rows is None:
        return fitted
    scale = float(roots(blocks).norm())
    if scale == 0.0:
        return fitted
    leaves, tree = torch.utils._pytree.tree_flatten(fitted)
    free = [t.detach().clone().requires_grad_() for t in leaves]
    optimizer = torch.optim.LBFGS(
        free, max_iter=max_steps, tolerance_grad=1e-12, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        now = torch.utils._pytree.tree_unflatten(free, tree)
        return (roots(blocks - now.to_dense().reshape(blocks.shape)) / scale).square().sum()

    def step() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    with torch.no_grad():
        before = float(loss())
    with torch.enable_grad():
        optimizer.step(step)
    with torch.no_grad():
        after = float(loss())
    if not after < before:
        return fitted
    better: Fitted = torch.utils._pytree.tree_unflatten([t.detach() for t in free], tree)
    return better


def _roots(blocks: Tensor, metric: Metric) -> _Roots:
    groups = range(len(blocks))
    grams = [metric.gram(k) for k in groups]
    rows = [metric.rows(k) for k in groups]
    inputs = None if grams[0] is None else torch.stack([_root(g, blocks) for g in grams if g is not None])
    outputs = None if rows[0] is None else torch.stack([_root(f, blocks) for f in rows if f is not None])
    return _Roots(inputs, outputs)


def _root(gram: Tensor, like: Tensor) -> Tensor:
    g = gram.to(like)
    if g.ndim == 1:
        return (g.clamp_min(0) + UNSEEN * g.mean()).sqrt()
    energy, vectors = torch.linalg.eigh(g)
    floor = UNSEEN * float(energy.clamp_min(0).mean())
    root: Tensor = (vectors * (energy.clamp_min(0) + floor).sqrt()) @ vectors.mT
    return root
