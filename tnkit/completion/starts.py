"""Starts for methods that refine an array: T-CTV, a smooth surface, or low rank along the channels; the best of them.

Example:
    >>> import torch
    >>> from tnkit.completion import Observations
    >>> from tnkit.completion.starts import best_start
    >>> from tnkit.solvers import Control
    >>> seen = torch.rand(24, 24, generator=torch.Generator().manual_seed(0)) < 0.5
    >>> obs = Observations.from_dense(torch.ones(24, 24), seen)
    >>> best_start("smooth", obs, None, Control()).name
    'smooth'
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from tnkit.completion.base import CompletionProblem
from tnkit.completion.biharmonic import plate
from tnkit.completion.channels import by_channels
from tnkit.completion.observations import Observations
from tnkit.completion.spatial import relative_error
from tnkit.completion.tctv import TCTV
from tnkit.rng import generator
from tnkit.solvers import INTERRUPTED, TIME_LIMIT, Control, Status

__all__ = ["Start", "best_start"]

#: Channels from which on a mode counts as a spectrum.
SPECTRUM = 16
#: Starts that are compared for spectra.
CHANNELS = ("channels 3", "channels 6", "channels 12")


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """A completed array, how it was made, its error on what was held out, and why it was cut short (or None)."""

    name: str
    x: Tensor
    heldout: float | None
    stopped: Status | None


def best_start(name: str, known: Observations, aside: Observations | None, control: Control) -> Start:
    """The start of this name; with "auto" the one of the smallest error on the entries aside.

    Args:
        name: "auto", "tctv", "smooth" or "channels" (also "channels 3", with the number of components).
        known: what may be used.
        aside: what was held out; without it "auto" is "channels" for spectra and "tctv" otherwise.
        control: deadline and progress.
    """
    spectrum = prod(known.shape[2:]) >= SPECTRUM
    names = {"auto": CHANNELS if spectrum else ("tctv", "smooth"), "channels": CHANNELS}.get(name, (name,))
    best = _start(names[0], known, aside, control)
    for other in names[1:] if aside is not None else ():
        if best.stopped is not None or control.out_of_time:
            break
        try:
            start = _start(other, known, aside, control)
        except KeyboardInterrupt:
            return replace(best, stopped=INTERRUPTED)
        if (start.heldout or 0.0) < (best.heldout or 0.0):
            best = start
    return best


def _start(name: str, known: Observations, aside: Observations | None, control: Control) -> Start:
    stopped = None
    if name == "tctv":
        rng = generator(0, known.values.device)
        fit = TCTV(holdout=0.0).fit(CompletionProblem(known, None, None, rng, control))
        assert fit.dense is not None
        x = fit.dense
        stopped = fit.status if fit.status in (INTERRUPTED, TIME_LIMIT) else None
    elif name == "smooth":
        x = plate(known)
    else:
        x = by_channels(known, rank=int(name.split()[1]))
    if stopped is None and control.out_of_time:
        stopped = TIME_LIMIT
    return Start(name, x.to(torch.float64), None if aside is None else relative_error(x, aside), stopped)
