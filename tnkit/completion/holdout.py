"""Holding out: which observed entries are kept aside to measure the error on what was not seen.

What is missing often has a pattern: all channels of a pixel, a whole day. Single entries beside their kin would then be
too easy. So modes along which entries are observed all or none are found, and whole fibres along them are held out.

Example:
    >>> import torch
    >>> from tnkit.completion import Observations
    >>> from tnkit.completion.holdout import whole_modes
    >>> mask = torch.tensor([[True, True], [False, False], [True, True]])
    >>> whole_modes(Observations.from_dense(torch.ones(3, 2), mask))
    (1,)
"""

from __future__ import annotations

import torch
from torch import Tensor

from tnkit.completion.observations import Observations

__all__ = ["split", "whole_modes"]

#: Fewer fibres than this: single entries are held out; fewer entries: nothing is.
LEAST = 20


def whole_modes(obs: Observations) -> tuple[int, ...]:
    """Modes along which every fibre is observed wholly or not at all; none where nothing is missing."""
    if obs.complete:
        return ()
    found: list[int] = []
    for mode in range(obs.ndim):
        n = obs.shape[mode]
        if n > 1 and obs.n % n == 0 and int(_fibre(obs, (mode,)).max()) + 1 == obs.n // n:
            found.append(mode)
    return tuple(found)


def split(obs: Observations, share: float, rng: torch.Generator) -> Tensor | None:
    """True for the entries that are held out, or None where there are too few.

    Args:
        obs: all observed entries.
        share: of the entries (or fibres) to hold out.
        rng: chooses them.
    """
    modes = whole_modes(obs)
    unit = _fibre(obs, modes) if modes else torch.arange(obs.n, device=obs.values.device)
    if modes and int(unit.max()) + 1 < LEAST:
        unit = torch.arange(obs.n, device=obs.values.device)  # too few fibres to tell: single entries after all
    units = int(unit.max()) + 1
    if share <= 0 or units < LEAST:
        return None
    order = torch.randperm(units, generator=rng, device=rng.device).to(obs.values.device)
    chosen = torch.zeros(units, dtype=torch.bool, device=obs.values.device)
    chosen[order[: max(1, round(share * units))]] = True
    held = _spared(obs, chosen[unit])
    if not bool(held.any()):
        return None
    weighted = obs.weights is None or bool((obs.weights[held] > 0).any() & (obs.weights[~held] > 0).any())
    return held if weighted else None


def _spared(obs: Observations, held: Tensor) -> Tensor:
    """The same without the slices that would lose all of their entries: nothing could be learnt of them."""
    for mode, n in enumerate(obs.shape if obs.ndim > 1 else ()):  # of a vector each entry is a slice
        slices = obs.indices[:, mode]
        whole = torch.bincount(slices, minlength=n)
        lost = torch.bincount(slices[held], minlength=n)
        held = held & ~(lost == whole)[slices]
    return held


def _fibre(obs: Observations, modes: tuple[int, ...]) -> Tensor:
    """(N,) a number for each entry, equal where entries differ in `modes` alone; from 0 without gaps."""
    key = obs.indices.new_zeros(obs.n)
    for mode, n in enumerate(obs.shape):
        if mode not in modes:
            key = torch.unique(key * n + obs.indices[:, mode], return_inverse=True)[1]
    return key
