"""Biharmonic filling: the surface of least bending through the observed pixels, a channel at a time.

Best where whole blocks of a smooth array are missing, and a start for methods that know more.

Reference: Damelin, Hoang 2018, doi:10.1155/2018/3950312.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from tnkit.completion.base import CompletionFit, CompletionMethod, CompletionProblem, register
from tnkit.completion.convex import checked
from tnkit.completion.holdout_alike import split_alike
from tnkit.completion.observations import Observations
from tnkit.completion.spatial import relative_error, thin_plate
from tnkit.solvers import DIRECT, NO_LIMIT, TIME_LIMIT, Control

__all__ = ["Biharmonic", "plate"]


@register
@dataclass(frozen=True, slots=True)
class Biharmonic(CompletionMethod):
    """The smoothest surface over the first two modes, for each index of the others; real arrays of two and more modes.

    Attributes:
        holdout: share of the observed entries that is held out for the error, and given back; 0 for none.

    Example:
        >>> import numpy as np
        >>> from tnkit.completion import complete
        >>> i, j = np.mgrid[:20, :20] / 20
        >>> x, mask = i * j + i, np.ones((20, 20), dtype=bool)
        >>> mask[5:12, 6:13] = False
        >>> bool(np.abs(complete(x, mask=mask, method=Biharmonic()).filled - x).max() < 1e-2)
        True
    """

    holdout: float = 0.05
    name: ClassVar[str] = "biharmonic"
    formats: ClassVar[bool] = False
    weights: ClassVar[bool] = False
    summary: ClassVar[str] = "the surface of least bending over the first two modes; holes in smooth maps"

    def fit(self, problem: CompletionProblem) -> CompletionFit:
        """See the class.

        Raises:
            DTypeError: complex values.
            ShapeError: fewer than 2 modes.
        """
        obs = checked(problem.observations, self.name)
        held = split_alike(obs, self.holdout, problem.rng)
        control = problem.control
        heldout = None if held is None else relative_error(plate(obs.take(~held), control), obs.take(held))
        dense = plate(obs, control)
        status = TIME_LIMIT if control.out_of_time else DIRECT
        return CompletionFit(None, dense, heldout, relative_error(dense, obs), status)


def plate(obs: Observations, control: Control = NO_LIMIT, *, max_steps: int = 400) -> torch.Tensor:
    """The completed array; at the deadline as far as it has come, which is the pyramid of means at first.

    Args:
        obs: what is known.
        control: deadline.
        max_steps: of the conjugate gradients.
    """
    shape = obs.shape
    scale = float(obs.values.abs().max()) or 1.0
    x, seen = (t.reshape(*shape[:2], -1).permute(2, 0, 1) for t in (obs.to_dense() / scale, obs.mask()))
    dense: torch.Tensor = thin_plate(x, seen, control, max_steps=max_steps).permute(1, 2, 0).reshape(shape) * scale
    return dense
