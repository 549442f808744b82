"""Losses of generalised low-rank models: what a value says of the model's number at its place.

Reference: Hong, Kolda, Duersch 2020, doi:10.1137/18M1203626 (generalised CP).

Example:
    >>> import torch
    >>> LOSSES["poisson"].of(torch.tensor([1.0]), torch.tensor([1.0])).item()
    1.0
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["LOSSES", "Loss"]

#: Models of at least 0 are kept above this where a logarithm is taken.
EPS = 1e-10


@dataclass(frozen=True, slots=True)
class Loss:
    """One loss.

    Attributes:
        of: from the model's numbers m and the values x to the loss of each.
        positive: whether m must not be negative.
        allowed: from values to whether each is one that the loss takes.
        what: the values in words.
        mean: from m to the expected value.
        from_mean: from an expected value to m, for the start.
        scales: whether values may be divided by their size.
    """

    of: Callable[[Tensor, Tensor], Tensor]
    positive: bool
    allowed: Callable[[Tensor], Tensor]
    what: str
    mean: Callable[[Tensor], Tensor]
    from_mean: Callable[[Tensor], Tensor]
    scales: bool = False


def _any(x: Tensor) -> Tensor:
    return torch.ones_like(x, dtype=torch.bool)


def _counts(x: Tensor) -> Tensor:
    return x >= 0


def _binary(x: Tensor) -> Tensor:
    return (x == 0) | (x == 1)


def _above(x: Tensor) -> Tensor:
    return x > 0


def _same(x: Tensor) -> Tensor:
    return x


def _floored(x: Tensor) -> Tensor:
    return x.clamp_min(1e-3)


def _log(x: Tensor) -> Tensor:
    return _floored(x).log()


def _logit(x: Tensor) -> Tensor:
    share = x.clamp(1e-3, 1 - 1e-3)
    return (share / (1 - share)).log()


LOSSES: Mapping[str, Loss] = {
    "gaussian": Loss(lambda m, x: 0.5 * (m - x).square(), False, _any, "any numbers", _same, _same, True),
    "huber": Loss(
        lambda m, x: functional.huber_loss(m, x, reduction="none", delta=0.25),
        False,
        _any,
        "any numbers",
        _same,
        _same,
        True,
    ),
    "absolute": Loss(lambda m, x: (m - x).abs(), False, _any, "any numbers", _same, _same, True),
    "poisson": Loss(lambda m, x: m - x * (m + EPS).log(), True, _counts, "counts of at least 0", _same, _floored),
    "poisson_log": Loss(
        lambda m, x: m.exp() - x * m,
        False,
        _counts,
        "counts of at least 0",
        torch.exp,
        _log,
    ),
    "bernoulli": Loss(lambda m, x: functional.softplus(m) - x * m, False, _binary, "0 and 1", torch.sigmoid, _logit),
    "gamma": Loss(
        lambda m, x: x / (m + EPS) + (m + EPS).log(),
        True,
        _above,
        "numbers above 0",
        _same,
        _floored,
    ),
}
