"""Holding out in the manner in which entries are missing: rows, days and blocks, not single entries beside their kin.

What is missing is cut into connected pieces (along the modes in which entries are not observed all or none). Where the
pieces are large, copies of them are laid elsewhere on what is observed; where they are single entries or fibres, and
where nearly everything is missing, `tnkit.completion.holdout.split` does it. Where positions of a mode differ in kind,
as the columns of a table, copies keep their places along it: what is hard to tell there is seen, and nothing else.

Example:
    >>> import torch
    >>> from tnkit.completion import Observations
    >>> from tnkit.completion.holdout_alike import split_alike
    >>> mask = torch.ones(40, 40, dtype=torch.bool)
    >>> mask[3:11, 5:13] = False
    >>> held = split_alike(Observations.from_dense(torch.ones(40, 40), mask), 0.04, torch.Generator().manual_seed(0))
    >>> int(held.sum())
    64
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from tnkit.completion.holdout import split, whole_modes
from tnkit.completion.observations import Observations

__all__ = ["split_alike"]

_Piece: TypeAlias = tuple[tuple[int, ...], np.ndarray]
#: A piece is large if it has as many units as this, in the mean over what is missing.
LARGE = 12
#: Where more than this share is missing, pieces grow together by chance.
MOST = 0.5
#: Trials of places for copies.
TRIALS = 400


def split_alike(obs: Observations, share: float, rng: torch.Generator, *, kept: int | None = None) -> Tensor | None:
    """True for the entries that are held out, or None where there are too few.

    Args:
        obs: all observed entries.
        share: of the entries to hold out; a little more or less where pieces are large.
        rng: chooses them.
        kept: the mode along which copies of large pieces keep their places (unless there is no room); None: they lie
            anywhere.
    """
    pieces = None if share <= 0 or obs.complete else _pieces(obs)
    if pieces is None:
        return split(obs, share, rng)
    seen, apart, found = pieces
    modes = [mode for mode in range(obs.ndim) if mode not in apart]
    axis = modes.index(kept) if kept in modes and len(modes) == seen.ndim > 1 else None
    held = _copies(seen, found, share, rng, axis)
    if axis is not None and not held.any():
        held = _copies(seen, found, share, rng, None)
    if not held.any() or held.sum() > 0.5 * seen.sum():
        return split(obs, share, rng)
    flags = torch.from_numpy(held).to(obs.values.device)
    chosen: Tensor = flags[tuple(obs.indices[:, mode] for mode in modes)]
    return chosen


def _copies(
    seen: np.ndarray, pieces: Sequence[_Piece], share: float, rng: torch.Generator, axis: int | None
) -> np.ndarray:
    """Where copies of pieces lie on what is seen, at their own places along one axis."""
    held = np.zeros_like(seen)
    wanted = share * int(seen.sum())
    for _ in range(TRIALS):
        if held.sum() >= wanted:
            break
        at, piece = pieces[int(torch.randint(len(pieces), (), generator=rng, device=rng.device))]
        place = tuple(
            slice(first, first + m)
            for first, m in (
                (at[k] if k == axis else int(torch.randint(n - m + 1, (), generator=rng, device=rng.device)), m)
                for k, (n, m) in enumerate(zip(seen.shape, piece.shape, strict=True))
            )
        )
        copied = piece & seen[place]
        if 2 * int(copied.sum()) >= int(piece.sum()) and held.sum() + copied.sum() <= max(
            4 * wanted, 0.25 * seen.sum()
        ):
            held[place] |= copied
    return held


def _pieces(obs: Observations) -> tuple[np.ndarray, tuple[int, ...], list[_Piece]] | None:
    """Where units are observed, the modes left out, and the pieces of what is missing; None if they are small."""
    apart = whole_modes(obs)
    seen = obs.mask()
    for mode in reversed(apart):
        seen = seen.any(mode)
    flags: np.ndarray = seen.cpu().numpy()
    slices = flags.ndim == 1 < obs.ndim  # whole slices of the array are missing
    if flags.ndim == 0 or flags.all() or (1 - flags.mean() > MOST and not slices):
        return None
    if 1 - flags.mean() > MOST:
        return flags, apart, [((0,), np.ones(1, dtype=bool))]
    pieces = _connected(~flags)
    sizes = np.array([piece.sum() for _, piece in pieces], dtype=float)
    if not slices and (sizes**2).sum() / sizes.sum() < LARGE:
        return None
    return flags, apart, pieces


def _connected(flags: np.ndarray) -> list[_Piece]:
    """Each connected piece (by common faces): the first corner of its bounding box, and where it is within it."""
    none = flags.size
    labels = np.where(flags, np.arange(flags.size).reshape(flags.shape), none)
    while True:
        before = labels.copy()
        for axis in range(flags.ndim):
            moved = np.moveaxis(labels, axis, 0)
            np.minimum(moved[1:], moved[:-1], out=moved[1:], where=moved[1:] < none)
            np.minimum(moved[:-1], moved[1:], out=moved[:-1], where=moved[:-1] < none)
        if np.array_equal(before, labels):
            break
    at = np.argwhere(flags)
    number = np.unique(labels[flags], return_inverse=True)[1].reshape(-1)
    order = np.argsort(number, kind="stable")
    pieces: list[_Piece] = []
    for group in np.split(at[order], np.cumsum(np.bincount(number))[:-1]):
        low = group.min(0)
        piece = np.zeros(group.max(0) - low + 1, dtype=bool)
        piece[tuple((group - low).T)] = True
        pieces.append((tuple(int(n) for n in low), piece))
    return pieces
