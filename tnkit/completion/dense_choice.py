"""The automatic choice among methods that fit no format: photographs and maps, spectral cubes, panels.

- A smooth real array with two long modes and few channels is an image: patch groups, which start from T-CTV or the
  biharmonic surface and keep it where patches do not help.
- An array of that form that is less smooth is tried as one, too, beside the best format.
- With many channels it is a cube: patch groups from low rank along the channels, where they are nearer to held-out
  entries than the short fit of the best format.
- A smaller real array of three or four modes that is smooth along one of them is a panel (sensor × day × hour): the
  truncated nuclear norm and the learnt tubal one are run, patch groups too where there are two long smooth modes, and
  the best one counts where it beats the best format.
  All are shown the same entries; the others are held out in the manner in which entries are missing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from tnkit.completion.als import CompletionALS
from tnkit.completion.base import CompletionFit, CompletionMethod, CompletionProblem
from tnkit.completion.halrtc import TruncatedNuclear
from tnkit.completion.holdout_alike import split_alike
from tnkit.completion.observations import Observations
from tnkit.completion.patches import PatchGroups
from tnkit.completion.similarity import smoothness
from tnkit.completion.starts import make_starts
from tnkit.completion.tnn import TubalNuclear
from tnkit.rng import generator
from tnkit.solvers import INTERRUPTED, TIME_LIMIT

__all__ = ["DenseChoice", "better_than_formats", "looks_like_a_cube", "looks_like_a_panel", "looks_like_an_image"]

#: Neighbours in a smooth array differ by less than this share of what entries at random do (mean squares).
SMOOTH = 0.5
#: … and by less than this where there is any likeness at all.
ALIKE = 0.9
#: Entries of the largest image, cube and panel.
IMAGE, CUBE, PANEL = 2**22, 2**23, 2**21
#: A short fit of a format with a smaller held-out error than this is left to formats.
EXACT = 1e-3
#: Share of the entries of a panel by which methods are compared.
HELD = 0.1
#: Seconds that the best format gets for the comparison on a panel.
FORMAT_S = 20.0


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
    """The same form, if neighbours along the first two modes are at all alike."""
    return _real(obs, IMAGE) and prod(obs.shape[2:]) <= 8 and _planes(obs, 1024, ALIKE)


def looks_like_a_cube(obs: Observations) -> bool:
    """Whether it is smooth along the first two modes, of 16 to 512 each, with more than 32 channels."""
    return obs.ndim == 3 and _real(obs, CUBE) and prod(obs.shape[2:]) > 32 and _planes(obs, 512)


def looks_like_a_panel(obs: Observations) -> bool:
    """Whether it has three or four modes of 4 and more, and is smooth along one of them."""
    if not (3 <= obs.ndim <= 4 and _real(obs, PANEL) and min(obs.shape) >= 4 and obs.fraction >= 0.02):
        return False
    return any(smoothness(obs, mode) < SMOOTH for mode in range(obs.ndim))


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
    if looks_like_a_panel(obs):
        return _panel(problem, format_method, seed)
    if could_be_an_image(obs):
        return _best_of(problem, format_method, [PatchGroups(holdout=HELD)], "much like an image", seed)
    return None


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
    methods: list[CompletionMethod] = [
        TruncatedNuclear(thetas=(0.0, 0.1, 0.2), factor=1.15, holdout=HELD),
        TubalNuclear(transform="learnt", factor=1.2, holdout=HELD),
    ]
    if _planes(problem.observations, 512, ALIKE):
        methods.append(PatchGroups(holdout=HELD))
    return _best_of(problem, format_method, methods, "a panel", seed)


def _best_of(
    problem: CompletionProblem, format_method: CompletionMethod, methods: list[CompletionMethod], what: str, seed: int
) -> DenseChoice | None:
    """The best of some methods by held-out entries, if it beats the best format on entries that neither was shown."""
    obs, device = problem.observations, problem.observations.values.device
    held = split_alike(obs, HELD, generator(seed, device))
    if held is None:
        return None
    found: list[tuple[CompletionMethod, CompletionFit]] = []
    for method in methods:
        fit = method.fit(replace(problem, rng=generator(seed, device)))  # the same entries are held out in each
        if fit.heldout_error is not None:
            found.append((method, fit))
        if fit.status is INTERRUPTED or problem.control.out_of_time:
            break
    if not found:
        return None
    method, best = min(found, key=lambda pair: pair[1].heldout_error or 0.0)
    told = ", ".join(f"{m.name} {f.heldout_error:.2g}" for m, f in found)
    if best.status not in (INTERRUPTED, TIME_LIMIT):
        rival = _format_error(problem, format_method, obs.take(~held), obs.take(held))
        told = f"{told}, the best format {rival:.2g}"
        if rival <= (best.heldout_error or 0.0):
            return None
    return DenseChoice(method, f"{what}; held-out errors: {told}", best)


def _format_error(
    problem: CompletionProblem, method: CompletionMethod, known: Observations, aside: Observations
) -> float:
    """What the format leaves on entries that it was not shown."""
    assert problem.layout is not None
    limited = problem.control.within(FORMAT_S)
    method = replace(method, refine=False) if isinstance(method, CompletionALS) else method
    fit = method.fit(replace(problem, observations=known, ranks=None, control=limited))
    if fit.tensors is None:
        return float("inf")
    got = problem.layout.build(fit.tensors).at(aside.indices)
    return float((got - aside.values).norm() / aside.values.norm().clamp_min(1e-30))


def _real(obs: Observations, largest: int) -> bool:
    """Real, without weights, of 2 to 4 modes, and no larger than this."""
    return not obs.values.is_complex() and obs.weights is None and 2 <= obs.ndim <= 4 and prod(obs.shape) <= largest


def _planes(obs: Observations, longest: int, most: float = SMOOTH) -> bool:
    """Two long first modes, smooth along both."""
    sizes = obs.shape[:2]
    return min(sizes) >= 16 and max(sizes) <= longest and all(smoothness(obs, mode) < most for mode in (0, 1))
