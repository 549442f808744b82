"""Output matching: what a compressed layer makes of its features, solved again for the inputs that it really gets.

A layer y = B z + b with z = A x' sees inputs x' that the compressed layers before it have changed. For given A, the B
and b that come nearest to the dense layer's outputs in the dense model are a linear regression on the r features z; of
the data only zzᵀ and yzᵀ are kept. All layers are matched in one pass; in a second one each has better inputs.

References:
    He et al., Channel pruning for accelerating very deep neural networks, arXiv 1707.06168 (regression on the inputs of
    the pruned network); Zhang et al. (2015), arXiv 1505.06798 (asymmetric reconstruction).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tnkit.nn.batches import attention_mask, evaluating, run_batch
from tnkit.nn.forms import LowRankForm
from tnkit.nn.hooks import hooked
from tnkit.nn.layers import FactoredLinear
from tnkit.nn.layers.layer_type import feature_rows

__all__ = ["Match", "matchable", "matches"]

#: Pull towards the factor that is there, as a share of the mean energy of the features.
RIDGE = 1e-3


@dataclass(slots=True)
class _Regression:
    """Σ hhᵀ and Σ yhᵀ in float64, where h = (z, 1) or z."""

    gram: Tensor
    cross: Tensor

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Rows of both."""
        h, y = features.to(self.gram), targets.to(self.gram)
        self.gram += h.mT @ h
        self.cross += y.mT @ h

    def solved(self, now: Tensor) -> Tensor:
        """The coefficients (m, k), drawn towards those that are there."""
        weight = RIDGE * self.gram.diagonal().mean()
        whole = self.gram + weight * torch.eye(len(self.gram), dtype=now.dtype, device=now.device)
        found: Tensor = torch.linalg.solve(whole, self.cross + weight * now, left=False)
        return found


def matchable(student: nn.Module, teacher: nn.Module) -> dict[str, FactoredLinear]:
    """Linear layers of low rank, by name, that stand alone for a layer of the teacher's; tied ones are left out."""
    uses: dict[int, int] = {}
    for _, value in student.named_parameters(remove_duplicate=False):
        uses[id(value)] = uses.get(id(value), 0) + 1
    theirs = dict(teacher.named_modules())
    return {
        name: m
        for name, m in student.named_modules()
        if isinstance(m, FactoredLinear)
        and isinstance(m.form, LowRankForm)
        and name in theirs
        and all(uses[id(p)] == 1 for p in m.parameters())
    }


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """For one layer, the last factor and bias that are there, those that the regression finds, and the first factor.

    Attributes:
        layer: as it was, and is until `put_`.
        now: (m, k) float64, the bias as the last column.
        found: the same, of the regression.
        right: (r, n) float64.
    """

    layer: FactoredLinear
    now: Tensor
    found: Tensor
    right: Tensor

    def put_(self, share: float = 1.0) -> None:
        """Go this share of the way, in place; 0 is where it began."""
        form = self.layer.form
        assert isinstance(form, LowRankForm)
        new = self.now + share * (self.found - self.now)
        pivoted = form.pivots != "none"
        _, tensors = LowRankForm.of(new[:, : form.rank].contiguous(), self.right, pivoted=pivoted)
        with torch.no_grad():
            for name, value in tensors.items():
                held = self.layer.get_buffer(name) if name == "order" else self.layer.get_parameter(name)
                held.copy_(value)
            if self.layer.bias is not None:
                self.layer.bias.copy_(new[:, form.rank])


def matches(student: nn.Module, teacher: nn.Module, batches: Iterable[Any], who: str = "recover") -> list[Match]:
    """What the regression finds for every layer that can be matched; nothing is changed.

    Args:
        student: a compressed model.
        teacher: the model it was made from.
        batches: as in `compress`; positions whose attention_mask is 0 do not count.
        who: the caller, for messages.

    Returns:
        One for each layer that saw anything and whose answer is finite. Each is the best as long as the others stay;
        where all are put at once, less than the whole way is often better.

    Raises:
        DataError: a batch that a model does not take.

    Cost:
        A forward pass of both models for each batch, and O(N r (r + m)) for N rows in each layer.

    Example:
        >>> import torch
        >>> from tnkit import nn as tnn
        >>> from tnkit.nn.matching import matches
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 32))
        >>> x = torch.randn(500, 32)
        >>> small, _ = tnn.compress(model, tnn.Budget(params=0.4), calib=[x], measure=False)
        >>> before = float((small(x) - model(x)).norm().detach())
        >>> for match in matches(small, model, [x]):
        ...     match.put_()
        >>> float((small(x) - model(x)).norm().detach()) < before
        True
    """
    layers = matchable(student, teacher)
    found = {name: _regression(layer) for name, layer in layers.items()}
    targets: dict[str, list[Tensor]] = {}
    mask: Tensor | None = None

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            targets.setdefault(name, []).append(output)

        return hook

    def compare(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            if args and targets.get(name):
                wanted = targets[name].pop(0)
                if wanted.shape == output.shape:
                    x = feature_rows(args[0], mask)[0]
                    found[name].add(_features(layers[name], x), feature_rows(wanted, mask)[0])

        return hook

    theirs = [teacher.get_submodule(name).register_forward_hook(keep(name)) for name in layers]
    mine = [layer.register_forward_hook(compare(name)) for name, layer in layers.items()]
    with hooked([*theirs, *mine]), evaluating(student), evaluating(teacher):
        for batch in batches:
            mask = attention_mask(batch)
            targets.clear()
            run_batch(teacher, batch, who)
            run_batch(student, batch, who)
    made = (_match(layers[name], regression) for name, regression in found.items())
    return [match for match in made if match is not None]


def _features(layer: FactoredLinear, x: Tensor) -> Tensor:
    """A x, and a one for the bias."""
    assert isinstance(layer.form, LowRankForm)
    z = x @ layer.form.two_factors(layer.factors())[1].mT
    return z if layer.bias is None else torch.cat([z, z.new_ones(len(z), 1)], dim=1)


def _regression(layer: FactoredLinear) -> _Regression:
    k = layer.ranks[0] + (layer.bias is not None)
    like = torch.zeros((), dtype=torch.float64, device=layer.get_parameter("right").device)
    return _Regression(like.new_zeros(k, k), like.new_zeros(layer.out_features, k))


def _match(layer: FactoredLinear, regression: _Regression) -> Match | None:
    """None where the layer saw nothing, or the answer is not finite."""
    form = layer.form
    assert isinstance(form, LowRankForm)
    left, right = (t.detach().to(torch.float64, copy=True) for t in form.two_factors(layer.factors()))
    now = left if layer.bias is None else torch.cat([left, layer.bias.detach().to(left)[:, None]], dim=1)
    if not float(regression.gram.diagonal().sum()) > 0.0:
        return None
    found = regression.solved(now)
    return Match(layer, now, found, right) if bool(torch.isfinite(found).all()) else None
