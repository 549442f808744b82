"""Adam whose steps are shares of what they change: one rate for factors of every size.

The factors of a decomposition may be of any scale, and a layer's are all alike only by chance. So the rate is relative,
to the root mean square of a parameter in the coordinates in which steps are taken (`tnkit.nn.whitening`).

References:
    Kingma and Ba, Adam, arXiv 1412.6980. Shazeer and Stern, Adafactor, arXiv 1804.04235 (relative step sizes).
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tnkit.arrays import engine_dtype
from tnkit.nn.whitening import Coordinates

__all__ = ["RelativeAdam"]

#: Decay of the mean of gradients and of their squares, and the least share of the median scale that a scale may be.
BETAS, LEAST = (0.9, 0.99), 1e-2
TINY = 1e-30


@dataclass(slots=True, eq=False)
class _Moments:
    """Running means of a parameter's gradients in its coordinates; its value in float32 where it is of a half type."""

    mean: Tensor
    square: Tensor
    value: Tensor | None
    step: int = 0


class RelativeAdam:
    """Steps of Adam in given coordinates, of a length relative to the parameter.

    Example:
        >>> import torch
        >>> from tnkit.nn.relative_adam import RelativeAdam
        >>> p = torch.nn.Parameter(torch.full((3,), 100.0))
        >>> adam = RelativeAdam([p], {})
        >>> p.grad = torch.tensor([1.0, -1.0, 1e-9])
        >>> adam.step(0.01)
        >>> p.tolist()
        [99.0, 101.0, 99.0]
    """

    def __init__(self, parameters: Iterable[nn.Parameter], coordinates: Mapping[nn.Parameter, Coordinates]) -> None:
        """Without any step made.

        Args:
            parameters: floating point; they are changed by `step`.
            coordinates: of some of them; others are their own, with their root mean square as scale, or, where that is
                tiny (a bias of zeros), a hundredth of the median.
        """
        given = {p: coordinates.get(p) or Coordinates(_size(p)) for p in parameters}
        least = LEAST * statistics.median([c.scale for c in given.values() if c.scale > 0.0] or [1.0])
        self._scales = {p: max(c.scale, least) for p, c in given.items()}
        self._coordinates = given
        self._moments: dict[nn.Parameter, _Moments] = {}

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One step along the gradients that are there; `rate` is the share by which each coordinate changes at most."""
        for p, coordinates in self._coordinates.items():
            if p.grad is None:
                continue
            dtype = engine_dtype(p.dtype)
            gradient = coordinates.through(p.grad.to(dtype))
            known = self._moments.get(p)
            if known is None:
                zeros = torch.zeros_like(gradient)
                known = self._moments[p] = _Moments(
                    zeros, zeros.clone(), p.detach().to(dtype) if dtype != p.dtype else None
                )
            step = coordinates.through(_direction(known, gradient)) * (rate * self._scales[p])
            if known.value is None:
                p.sub_(step)
            else:  # a small step is lost in the rounding of a half type, many are not
                known.value -= step
                p.copy_(known.value)

    def forget(self) -> None:
        """As if no step had been made; needed where somebody else writes the parameters."""
        self._moments.clear()


def _direction(moments: _Moments, gradient: Tensor) -> Tensor:
    moments.step += 1
    for running, value, decay in ((moments.mean, gradient, BETAS[0]), (moments.square, gradient.square(), BETAS[1])):
        running.lerp_(value, 1.0 - decay)
    mean = moments.mean / (1.0 - BETAS[0] ** moments.step)
    square = moments.square / (1.0 - BETAS[1] ** moments.step)
    return mean / (square.sqrt() + TINY)


def _size(p: nn.Parameter) -> float:
    return float(p.detach().to(torch.float32).square().mean().sqrt()) if p.numel() else 0.0
