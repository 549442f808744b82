"""Whitening: coordinates for the factors of linear layers in which steps of one size do changes of one size.

What a layer of a trained network is given is far from white: a few directions carry most of the energy, and the loss is
steep along these and flat along the others. A step that treats all entries of a factor alike is too long for the first
or too short for the rest. In θ, where a factor is P θ Q with Q the inverse root of the second moments of what the
factor is given, and P that of the Gram matrix of what comes after it, both are alike. Nothing else changes: θ is not
stored, only steps are taken there.

References:
    Desjardins et al., Natural neural networks, arXiv 1507.00210 (whitened coordinates).
    Martens and Grosse, K-FAC, arXiv 1503.05671 (both sides).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tnkit.arrays import engine_dtype
from tnkit.nn.batches import attention_mask, evaluating, run_batch
from tnkit.nn.forms import LowRankForm
from tnkit.nn.hooks import hooked
from tnkit.nn.layers import FactoredLinear
from tnkit.nn.layers.layer_type import feature_rows

__all__ = ["Coordinates", "whitened"]

#: Added to the eigenvalues of a Gram matrix, as a share of their mean: directions that carry less than that are noise.
DAMPING = 1e-2
#: Inputs of more features than this are whitened one by one, without what they have in common.
MOST = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Coordinates:
    """A parameter is `left` θ `right`.

    Attributes:
        scale: root mean square of θ, by which steps are measured.
        left: symmetric (a, a), or None for the identity.
        right: symmetric (b, b), or the (b,) diagonal of one, or None for the identity.
    """

    scale: float
    left: Tensor | None = None
    right: Tensor | None = None

    def through(self, value: Tensor) -> Tensor:
        """`left` value `right`: takes a gradient to θ's, and a step of θ to the parameter's."""
        if self.left is not None:
            value = self.left @ value
        if self.right is None:
            return value
        return value * self.right if self.right.ndim == 1 else value @ self.right


@dataclass(slots=True, eq=False)
class _Moments:
    """Σ xxᵀ of rows, or its diagonal, and their number."""

    total: Tensor
    count: int = 0

    def add(self, rows: Tensor) -> None:
        """Rows (N, n)."""
        rows = rows.to(torch.float32)
        self.total += rows.square().sum(0) if self.total.ndim == 1 else rows.mT @ rows
        self.count += len(rows)


def whitened(model: nn.Module, batches: Iterable[Any], who: str = "recover") -> dict[nn.Parameter, Coordinates]:
    """Coordinates for the factors and biases of the linear layers of low rank in a model.

    Args:
        model: compressed.
        batches: as in `compress`; positions whose attention_mask is 0 do not count.
        who: the caller, for messages.

    Returns:
        By parameter; layers that no batch called are not in it.

    Raises:
        DataError: a batch that the model does not take.

    Cost:
        A forward pass for each batch, O(n²) for each row that a layer is given, and two eigendecompositions a layer.

    Example:
        >>> import torch
        >>> from tnkit import nn as tnn
        >>> from tnkit.nn.whitening import whitened
        >>> model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 32))
        >>> small, _ = tnn.compress(model, tnn.Budget(params=0.4), measure=False)
        >>> found = whitened(small, [torch.randn(100, 32)])
        >>> [tuple(p.shape) for p in found] == [tuple(p.shape) for p in small.parameters()]
        True
    """
    layers = [m for m in model.modules() if isinstance(m, FactoredLinear) and isinstance(m.form, LowRankForm)]
    seen = {layer: _Moments(_zeros(layer)) for layer in dict.fromkeys(layers)}
    mask: Tensor | None = None

    def watch(layer: FactoredLinear) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            if args:
                seen[layer].add(feature_rows(args[0], mask)[0])

        return hook

    handles = [layer.register_forward_pre_hook(watch(layer)) for layer in seen]
    with hooked(handles), evaluating(model):
        for batch in batches:
            mask = attention_mask(batch)
            run_batch(model, batch, who)
    found: dict[nn.Parameter, Coordinates] = {}
    for layer, moments in seen.items():
        if moments.count and bool(torch.isfinite(moments.total).all()) and float(moments.total.abs().sum()) > 0:
            found |= _of_layer(layer, moments.total.to(torch.float64) / moments.count)
    return found


def _zeros(layer: FactoredLinear) -> Tensor:
    n, device = layer.in_features, layer.get_parameter("right").device
    return torch.zeros((n, n) if n <= MOST else (n,), device=device)


def _of_layer(layer: FactoredLinear, moments: Tensor) -> dict[nn.Parameter, Coordinates]:
    """Those of `left`, `right` and the bias, from the (n, n) or (n,) second moments of the layer's inputs."""
    form, factors = layer.form, layer.factors()
    assert isinstance(form, LowRankForm)
    after, before = (t.detach().to(torch.float64) for t in form.two_factors(factors))
    features = (before * moments) @ before.mT if moments.ndim == 1 else before @ moments @ before.mT
    if form.pivots == "columns":  # the pivots' columns are an identity, and no parameters
        rest = factors["order"][form.rank :]
        moments = moments[rest] if moments.ndim == 1 else moments[rest][:, rest]
    left, right = layer.get_parameter("left"), layer.get_parameter("right")
    found: dict[nn.Parameter, Coordinates] = {}
    if left.numel():
        found[left] = _coordinates(left, None, features)
    if right.numel():
        found[right] = _coordinates(right, after.mT @ after, moments)
    if layer.bias is not None:  # a constant input of 1, as white as any other
        found[layer.bias] = Coordinates(found[left].scale if left.numel() else 1.0)
    return found


def _coordinates(parameter: nn.Parameter, after: Tensor | None, before: Tensor) -> Coordinates:
    value = parameter.detach().to(torch.float64)
    left, left_root = (None, None) if after is None else _roots(after)
    right, right_root = _roots(before)
    theta = value if left_root is None else left_root @ value
    theta = theta * right_root if right_root.ndim == 1 else theta @ right_root
    scale = float(theta.square().mean().sqrt())
    dtype = engine_dtype(parameter.dtype)
    return Coordinates(scale, None if left is None else left.to(dtype), right.to(dtype))


def _roots(moments: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse root and the root of a damped, scaled symmetric matrix, or of a diagonal."""
    if moments.ndim == 1:
        damped = moments / moments.mean().clamp_min(1e-30) + DAMPING
        return damped.rsqrt(), damped.sqrt()
    scaled = moments / moments.diagonal().mean().clamp_min(1e-30)
    values, vectors = torch.linalg.eigh((scaled + scaled.mT) / 2)
    values = values.clamp_min(0.0) + DAMPING
    return (vectors * values.rsqrt()) @ vectors.mT, (vectors * values.sqrt()) @ vectors.mT
