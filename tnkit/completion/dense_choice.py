"""The automatic choice among methods that fit no format: photographs and maps, spectral cubes, panels.

- A smooth real array with two long modes and few channels is an image: patch groups, which start from T-CTV or the
  biharmonic surface and keep it where patches do not help.
- An array of that form that is less smooth is tried as one, too, beside the best format.
- With many channels it is a cube: patch groups from low rank along the channels, where they are nearer to held-out
  entries than the short fit of the best format.
- A smaller real array of up to five modes is a table or a panel (sensor × day × hour): a separable Gaussian, truncated
  and learnt tubal nuclear norms, the best format, and patch groups where there are two long modes with alike
  neighbours. Their blend is taken (`tnkit.completion.mixture`), unless the format alone is as good.
  All are shown the same entries; the others are held out in the manner in which entries are missing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from tnkit.completion.base import CompletionFit, CompletionMethod, CompletionProblem
from tnkit.completion.holdout_alike import split_alike
from tnkit.completion.mixture import Blend, affordable, blend_of, usual_members
from tnkit.completion.observations import Observations
from tnkit.completion.patches import PatchGroups
from tnkit.completion.similarity import order, smoothness
from tnkit.completion.starts import make_starts
from tnkit.rng import generator
from tnkit.solvers import INTERRUPTED, TIME_LIMIT

__all__ = ["DenseChoice", "better_than_formats", "looks_like_a_cube", "looks_like_a_panel", "looks_like_an_image"]

#: Neighbours in a smooth array differ by less than this share of what entries at random do (mean squares).
SMOOTH = 0.5
#: … and by less than this share of what others of the same row or column do, where their order says anything at all.
ALIKE = 0.9
#: Entries of the largest image, cube and panel.
IMAGE, CUBE, PANEL = 2**22, 2**23, 2**21
#: A short fit of a format with a smaller held-out error than this is left to formats.
EXACT = 1e-3
#: Share of the entries of a panel by which methods are compared.
HELD = 0.1
#: The longest mode of a panel; the fewest observed entries.
LONGEST, FEW = 20_000, 30
#: The best format is taken where the blend's held-out error is not smaller than its own over this.
AS_GOOD = 1.02


@dataclass(frozen=True, slots=True, eq=False)
class DenseChoice:
    """A method for dense arrays, why, and its fit."""

    method: CompletionMethod
    why: str
    fit: CompletionFit


def looks_like_an_image(obs: Observations) -> bool:
    """Whether it is smooth along the first two modes, of 16 to 1024 each, with at most 8 channels."""
    return _real(obs, IMAGE) and prod(obs.shape[2:]) <= 8 and _planes(obs, 1024)


def could_be_an_image(obs: Observations) -> bool:
    """The same form, if the order of positions along the first two modes says anything at all."""
    return _real(obs, IMAGE) and prod(obs.shape[2:]) <= 8 and _ordered(obs, 1024)


def looks_like_a_cube(obs: Observations) -> bool:
    """Whether it is smooth along the first two modes, of 16 to 512 each, with more than 32 channels."""
    return obs.ndim == 3 and _real(obs, CUBE) and prod(obs.shape[2:]) > 32 and _planes(obs, 512)


def looks_like_a_panel(obs: Observations) -> bool:
    """Whether it is a series, a table or a panel: up to five modes, of a size that dense methods can take."""
    real = not obs.values.is_complex() and obs.weights is None and 1 <= obs.ndim <= 5
    return real and max(obs.shape) <= LONGEST and prod(obs.shape) <= PANEL and obs.n >= FEW and obs.fraction >= 0.01


def better_than_formats(
    problem: CompletionProblem, format_method: CompletionMethod, trial: CompletionFit | None, seed: int = 0
) -> DenseChoice | None:
    """A method without a format that beats the best format on held-out entries, with its fit; None if there is none.

    Args:
        problem: with the layout of the best format.
        format_method: that would fit it.
        trial: the short fit of it.
        seed: of what is held out, the same for all that are compared.
    """
    obs = problem.observations
    heldout = None if trial is None else trial.heldout_error
    if obs.complete or problem.control.out_of_time or (heldout is not None and heldout < EXACT):
        return None
    if trial is not None and trial.status in (INTERRUPTED, TIME_LIMIT):
        return None
    if heldout is not None and looks_like_a_cube(obs):
        return _cube(problem, heldout, seed)
    if could_be_an_image(obs) and not looks_like_a_panel(obs):
        return _best_of(problem, format_method, [PatchGroups(holdout=HELD)], "much like an image", seed)
    return _panel(problem, format_method, seed) if looks_like_a_panel(obs) else None


def _cube(problem: CompletionProblem, heldout: float, seed: int) -> DenseChoice | None:
    obs, method = problem.observations, PatchGroups(max_steps=6, holdout=0.05)
    held = split_alike(obs, method.holdout, generator(seed, obs.values.device))
    if held is None:
        return None
    start = make_starts("channels", obs.take(~held), obs.take(held), problem.control)
    if start.heldout is None or start.heldout > 3 * heldout or start.stopped is not None:
        return None
    method = replace(method, start=start.names[0])
    fit = method.fit(replace(problem, rng=generator(seed, obs.values.device)))
    if fit.heldout_error is None or fit.heldout_error >= heldout:
        return None
    why = (
        f"a smooth cube; held-out errors: patches {fit.heldout_error:.2g}, the best format by a short fit {heldout:.2g}"
    )
    return DenseChoice(method, why, fit)


def _panel(problem: CompletionProblem, format_method: CompletionMethod, seed: int) -> DenseChoice | None:
    obs = problem.observations
    members = affordable(usual_members(obs.ndim), obs)
    if obs.ndim >= 2 and _ordered(obs, 512):
        members.append(PatchGroups(holdout=HELD))
    return _best_of(problem, format_method, members, "a panel" if obs.ndim > 2 else "a table", seed)


def _best_of(
    problem: CompletionProblem, format_method: CompletionMethod, methods: list[CompletionMethod], what: str, seed: int
) -> DenseChoice | None:
    """The blend of some methods and the best format, unless the format is as good alone."""
    members = [*methods, format_method] if problem.layout is not None and len(problem.layout.shape) > 1 else methods
    found = blend_of(problem, members, HELD, seed)
    if found is None:
        return None
    ended = found.fit.status in (INTERRUPTED, TIME_LIMIT)
    alone = members[-1] is format_method and found.errors[-1] <= AS_GOOD * (found.fit.heldout_error or 0.0)
    if alone and not ended:
        return None
    told = ", ".join(f"{m.name} {e:.2g}" for m, e in zip(members, found.errors, strict=True))
    counting = [(m, w) for m, w in zip(members, found.weights, strict=True) if w > 0]
    if len(counting) == 1 and counting[0][0] is not format_method:
        return DenseChoice(counting[0][0], f"{what}; held-out errors: {told}", found.fit)
    mixed = " + ".join(f"{w:.2g} {m.name}" for m, w in counting)
    why = f"{what}; held-out errors: {told}; blend ({mixed}) {found.fit.heldout_error:.2g}"
    return DenseChoice(Blend(tuple(m for m in members if not m.formats)), why, found.fit)


def _real(obs: Observations, largest: int) -> bool:
    """Real, without weights, of 2 to 4 modes, and no larger than this."""
    return not obs.values.is_complex() and obs.weights is None and 2 <= obs.ndim <= 4 and prod(obs.shape) <= largest


def _planes(obs: Observations, longest: int) -> bool:
    """Two long first modes, smooth along both."""
    return _long(obs, longest) and all(smoothness(obs, mode) < SMOOTH for mode in (0, 1))


def _ordered(obs: Observations, longest: int) -> bool:
    """Two long first modes, neighbours along which are more alike than others of the same fibre, not by chance.

    Of positions in any order the ratio has mean 1 and variance 1/n (von Neumann 1941, doi:10.1214/aoms/1177731677).
    """
    return _long(obs, longest) and all(order(obs, k) < min(ALIKE, 1 - obs.shape[k] ** -0.5) for k in (0, 1))


def _long(obs: Observations, longest: int) -> bool:
    sizes = obs.shape[:2]
    return min(sizes) >= 16 and max(sizes) <= longest
