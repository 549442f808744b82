"""Starts for methods that refine an array: T-CTV, a smooth surface, low rank along the channels; a blend or the best.

Example:
    >>> import torch
    >>> from tnkit.completion import Observations
    >>> from tnkit.completion.starts import make_starts
    >>> from tnkit.solvers import Control
    >>> seen = torch.rand(24, 24, generator=torch.Generator().manual_seed(0)) < 0.5
    >>> obs = Observations.from_dense(torch.ones(24, 24), seen)
    >>> starts = make_starts("smooth", obs, None, Control())
    >>> starts.names, tuple(starts.blend.shape)
    (('smooth',), (24, 24))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from tnkit.completion.base import CompletionProblem
from tnkit.completion.biharmonic import plate
from tnkit.completion.blend import blended, simplex_weights
from tnkit.completion.channels import by_channels
from tnkit.completion.observations import Observations
from tnkit.completion.spatial import relative_error
from tnkit.completion.tctv import TCTV
from tnkit.rng import generator
from tnkit.solvers import INTERRUPTED, TIME_LIMIT, Control, Status

__all__ = ["SPECTRUM", "Starts", "make_starts"]

#: Channels from which on a mode counts as a spectrum.
SPECTRUM = 16
#: Starts that are compared for spectra, and blended for others.
CHANNELS, PLANES = ("channels 3", "channels 6", "channels 12"), ("tctv", "smooth")


@dataclass(frozen=True, slots=True, eq=False)
class Starts:
    """Completed arrays.

    Attributes:
        names: how each was made.
        arrays: each in float64.
        weights: of the blend of them.
        heldout: relative error of the blend on the entries aside; None where there were none.
        stopped: why they were cut short, or None.
    """

    names: tuple[str, ...]
    arrays: tuple[Tensor, ...]
    weights: tuple[float, ...]
    heldout: float | None
    stopped: Status | None

    @property
    def blend(self) -> Tensor:
        """Their weighted mean."""
        return blended(self.arrays, self.weights)


def make_starts(
    name: str,
    known: Observations,
    aside: Observations | None,
    control: Control,
    weights: Sequence[float] | None = None,
) -> Starts:
    """The starts that a name stands for: of spectra the best by the entries aside, of others a blend by them.

    Args:
        name: "auto", "tctv", "smooth" or "channels" (also "channels 3", with the number of components).
        known: what may be used.
        aside: what was held out; without it the first start counts alone, unless there are weights.
        control: deadline and progress.
        weights: of the starts, where they are known.
    """
    spectrum = prod(known.shape[2:]) >= SPECTRUM
    names: tuple[str, ...] = {"auto": CHANNELS if spectrum else PLANES, "channels": CHANNELS}.get(name, (name,))
    names = names if aside is not None or weights is not None else names[:1]
    arrays: list[Tensor] = []
    stopped: Status | None = None
    for each in names:
        try:
            x, stopped = _start(each, known, control)
        except KeyboardInterrupt:
            stopped = INTERRUPTED
            if arrays:
                break
            x = plate(known, max_steps=0)
        arrays.append(x.to(torch.float64))
        if stopped is not None:
            break
    names = names[: len(arrays)]
    if aside is None:
        given = tuple(weights or (1.0,))[: len(arrays)]
        given = tuple(w / sum(given) for w in given) if sum(given) > 0 else (1.0, *(0.0,) * (len(arrays) - 1))
        return Starts(names, tuple(arrays), given, None, stopped)
    if names[0] in CHANNELS:
        errors = [relative_error(x, aside) for x in arrays]
        best = min(range(len(arrays)), key=errors.__getitem__)
        return Starts((names[best],), (arrays[best],), (1.0,), errors[best], stopped)
    places = tuple(aside.indices.unbind(-1))
    shares = simplex_weights([x[places] for x in arrays], aside.values)
    return Starts(names, tuple(arrays), shares, relative_error(blended(arrays, shares), aside), stopped)


def _start(name: str, known: Observations, control: Control) -> tuple[Tensor, Status | None]:
    """One array, and why it was cut short."""
    stopped = None
    if name == "tctv":
        rng = generator(0, known.values.device)
        fit = TCTV(holdout=0.0).fit(CompletionProblem(known, None, None, rng, control))
        assert fit.dense is not None
        x = fit.dense
        stopped = fit.status if fit.status in (INTERRUPTED, TIME_LIMIT) else None
    elif name == "smooth":
        x = plate(known, control)
    else:
        x = by_channels(known, rank=int(name.split()[1]), control=control)
    return x, TIME_LIMIT if stopped is None and control.out_of_time else stopped
