"""Trade ranks between the cuts of a network by true errors, where the sum of the tails overstates what is lost.

What two cuts discard overlaps: noise that one has removed is not there for the other. So around a truncation the
error is taken as it is along every single rank: with the other cuts truncated, the spectrum of the one that is left
gives the error for all its ranks at once. The ranks are chosen by these spectra, the new point is truncated and
measured, and the best that keeps the error stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor

from tnkit.formats.trees import Tree
from tnkit.linalg import choose_ranks

__all__ = ["conditional_spectra", "nearby_ranks", "reach", "traded_ranks", "work"]

Ranks = tuple[int, ...]


def work(nodes: Sequence[Tensor]) -> float:
    """Flops of one truncation, roughly: every node times its largest side."""
    return sum(2.0 * t.numel() * min(max(t.shape), t.numel() // max(t.shape)) for t in nodes if t.numel())


def reach(rank: int) -> int:
    """How far from a rank its error is looked at in one round."""
    return max(rank // 3, 6)


def conditional_spectra(
    tree: Tree, nodes: Sequence[Tensor], bonds: Sequence[str], groups: Sequence[Sequence[int]], ranks: Ranks, root: int
) -> list[Tensor]:
    """For each cut its squared singular values where all others are truncated.

    Args:
        tree: of the network.
        nodes: orthogonalised to `tree.first_leaf(root)`.
        bonds: their labels.
        groups: positions of the bonds that are one cut.
        ranks: of all bonds.
        root: the centre of the truncations.

    Cost:
        one truncation for each cut.
    """
    spectra: list[Tensor] = []
    limits = dict(zip(bonds, ranks, strict=True))
    for group in groups:
        others = {label: r for label, r in limits.items() if label not in {bonds[b] for b in group}}
        done, _ = tree.truncate(nodes, others, root)
        found = tree.spectra(done, root)
        label = bonds[group[0]]
        spectra.append(found[label].cpu() if label in found else torch.ones(1, dtype=torch.float64))
    return spectra


def traded_ranks(
    spectra: Sequence[Tensor],
    ranks: Ranks,
    now2: float,
    error2: float,
    cost: Callable[[Ranks], int],
    caps: Sequence[int],
) -> Ranks:
    """The cheapest ranks at which the errors along single ranks, added up, stay within the allowed one.

    Args:
        spectra: of each cut, the others truncated to `ranks`.
        ranks: of the cuts.
        now2: the squared error at `ranks`.
        error2: the squared error that is allowed.
        cost: of ranks.
        caps: of the cuts.
    """
    near = [slice(max(r - reach(r), 1), r + reach(r)) for r in ranks]
    least = [int(part.start) for part in near]
    windows = [s2[: min(part.stop, cap)] for s2, part, cap in zip(spectra, near, caps, strict=True)]
    beyond = [float(s2[len(w) :].sum()) for s2, w in zip(spectra, windows, strict=True)]
    kept = [float(s2[r:].sum()) for s2, r in zip(spectra, ranks, strict=True)]
    # error(r') ≈ now + Σ (tail(r'_k) − tail(r_k))
    allowed = error2 - now2 + sum(kept) - sum(beyond)
    if allowed <= 0:
        return ranks
    steps = [w[low - 1 :] for w, low in zip(windows, least, strict=True)]

    def inner(chosen: Ranks) -> int:
        return cost(tuple(low - 1 + r for low, r in zip(least, chosen, strict=True)))

    found = choose_ranks(steps, inner, max_error2=allowed)
    return tuple(low - 1 + r for low, r in zip(least, found, strict=True))


def nearby_ranks(
    spectra: Sequence[Tensor],
    ranks: Ranks,
    now2: float,
    error2: float,
    cost: Callable[[Ranks], int],
    caps: Sequence[int],
    *,
    most: int = 4000,
) -> list[Ranks]:
    """All cheaper ranks within a few steps whose error, by the same sum, is not clearly too large; the cheapest first.

    Args:
        spectra: of each cut, the others truncated to `ranks`.
        ranks: of the cuts.
        now2: the squared error at `ranks`.
        error2: the squared error that is allowed.
        cost: of ranks.
        caps: of the cuts.
        most: how many are looked at; it sets the number of steps.
    """
    free = [k for k, s2 in enumerate(spectra) if len(s2) > 1]
    steps = min(max(int((most ** (1 / max(len(free), 1)) - 1) / 2), 0), 6)
    here = cost(ranks)
    found = []
    tails = [torch.cat([s2.flip(0).cumsum(0).flip(0), s2.new_zeros(1)]).tolist() for s2 in spectra]
    sides = [
        range(max(r - steps, 1), min(r + steps, cap, len(s2)) + 1) if k in free else (r,)
        for k, (r, cap, s2) in enumerate(zip(ranks, caps, spectra, strict=True))
    ]
    base = now2 - sum(tail[min(r, len(tail) - 1)] for tail, r in zip(tails, ranks, strict=True))
    for near in product(*sides):
        guess = base + sum(tail[min(r, len(tail) - 1)] for tail, r in zip(tails, near, strict=True))
        if guess <= 1.002 * error2 and (price := cost(near)) < here:
            found.append((price, guess, near))
    return [near for _, _, near in sorted(found)]
