"""recover: a compressed model learns from the one it was made from; the best validated state is what is kept.

First each layer's last factor is solved again for the inputs that the compressed model really gives it
(`tnkit.nn.matching`). Then the student's factors are trained so that its outputs, and on the way those of its blocks,
are the teacher's. No labels are needed. A part of the batches is held out: what makes these worse is undone.

References:
    Hinton et al., Distilling the knowledge in a neural network, arXiv 1503.02531.
    Jiao et al., TinyBERT, arXiv 1909.10351 (hidden states of blocks).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tnkit.errors import DataError, OptionError
from tnkit.nn.batches import require_batches
from tnkit.nn.layers.module import FactoredModule
from tnkit.nn.lesson import Lesson
from tnkit.nn.matching import Match, matchable, matches
from tnkit.nn.relative_adam import RelativeAdam
from tnkit.nn.splice import is_text, spliced
from tnkit.nn.whitening import Coordinates, whitened

__all__ = ["RecoverReport", "blocks_of", "recover"]

#: A validation above the best one by more than this factor sends training back to the best state, with the rate times
#: `SLOWER`. Steps at the highest rate may make it worse by `NOISE` more: that is gone when the rate has fallen.
WORSE, NOISE, SLOWER = 1.1, 3.0, 0.3
#: Shares of the way to the regression's answer that are tried: all layers change at once, and may overshoot together.
MATCHED = (1.0, 0.5, 0.2)
#: At most about so many batches are held out, matched with in each sweep, and looked at for the inputs' moments.
HELD_OUT, MATCHING, WHITENING = 16, 64, 16
#: Of a limit of time matching takes at most this share; no step begins where there is less left than so many take.
MATCHING_SHARE, SPARE = 1 / 3, 2.0
#: With altered copies, batches of text are at least about so many, as long as there are steps for them.
TEXTS = 256


@dataclass(frozen=True, slots=True)
class RecoverReport:
    """What recovery gained.

    Attributes:
        error_before: mean relative squared error of the outputs on the held-out batches, before.
        error_after: the same of the state that was kept; never larger.
        history: (step, error) at each validation; those of matching stand at step 0.
        steps: training steps that were made.
        elapsed_s: in seconds.
    """

    error_before: float
    error_after: float
    history: tuple[tuple[int, float], ...]
    steps: int
    elapsed_s: float

    @property
    def gained(self) -> bool:
        """Whether a trained state is kept; otherwise the model is as it was."""
        return self.error_after < self.error_before

    def __str__(self) -> str:
        """In one line."""
        spent = f"{self.steps} steps, {self.elapsed_s:.0f} s"
        if not self.gained:
            return (
                f"nothing gained in {spent}: no state was better on the held-out batches than the one before "
                f"(output error {self.error_before:.4g}), which is kept. Try more steps or batches, or another rate."
            )
        share = 1.0 - self.error_after / self.error_before
        return (
            f"recovered: held-out output error {self.error_before:.4g} -> {self.error_after:.4g} "
            f"({share:.1%} less) in {spent}"
        )


def recover(
    model: nn.Module,
    teacher: nn.Module,
    calib: Iterable[Any],
    *,
    validation: Iterable[Any] | None = None,
    match_sweeps: int = 2,
    max_steps: int = 2000,
    time_limit_s: float | None = 600.0,
    rate: float = 3e-3,
    learning_rate: float | None = None,
    block_weight: float = 1.0,
    copies: int | None = None,
    inplace: bool = False,
    rng: int = 0,
) -> tuple[nn.Module, RecoverReport]:
    """Train the factors of a compressed model towards the outputs of the model it was made from.

    Args:
        model: a compressed model.
        teacher: the dense model; it is not changed.
        calib: batches to train on, as in `compress`. Those that `compress` saw gain less than others: the model was
            fitted to them, looks better there than it is, and soon knows them by heart. Give others, unlabelled, where
            there are any; else altered ones (text is altered by itself, see `copies`), and others as `validation`.
        validation: batches that decide which state is kept. They should be none that `compress` saw: on those that it
            was fitted to, every other state looks worse, and hardly any is taken. None holds out every eighth
            batch of `calib`, and fewer where that were more than some sixteen.
        match_sweeps: passes over `calib` (over at most 64 batches) in which linear layers of low rank are matched in
            closed form; 0 for none. All change at once, so several shares of the way are tried; a pass of which none
            makes the held-out error smaller is undone, and is the last.
        max_steps: training steps after that, one batch each; 0 for none.
        time_limit_s: in seconds for the whole call, matching and validation included, or None. The last validation
            begins while there is time for it; matching takes at most a third.
        rate: of steps at its highest, as a share of what is changed: .003 changes each coordinate of a factor by at
            most .3 % of their root mean square in a step. It rises for the first twentieth and falls like a cosine.
            Where a validation is worse than the best by more than what its rate explains (four times at the highest, a
            tenth at the end), training goes on from the best state at a third of it.
        learning_rate: plain Adam at this rate instead: the same absolute steps in all entries of all factors.
        block_weight: of the mean error of the blocks' outputs beside that of the model's; 0 for the model's alone. A
            block says something of every token, so that the same texts teach more; what the teacher says in its blocks
            is kept up to a gigabyte.
        copies: how many altered copies of each batch of text (a Mapping of input_ids and attention_mask) are trained on
            beside it: crops of its rows, and heads of rows joined to the tails of others, with one word in five
            replaced by any other (`tnkit.nn.splice`). Held-out batches stay as they are. None: as many as make about
            256 batches, where there are steps for them; none where there are so many, or the batches are no text.
        inplace: change the model itself.
        rng: seed of the order of the batches, and of what is altered.

    Returns:
        (model, report): with the best validated state, which may be the one it had.

    Raises:
        OptionError: nothing in the model is compressed, or an option out of its range.
        DataError: no batch to train or to validate on, or one that a model does not take.

    The steps are Adam's, in coordinates in which the inputs of linear layers of low rank are white
    (`tnkit.nn.whitening`): in those of the factors themselves a step is too long for the few directions that carry most
    of the energy, or too short for all others.

    Cost:
        A forward and a backward pass of the student for each step, and products with the (n, n) root of each linear
        layer's second moments (a diagonal for more than 1024 inputs); a forward pass of the teacher for each batch,
        again and again where what it says takes more than a gigabyte.

    Example:
        >>> import torch
        >>> from tnkit import nn as tnn
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 32))
        >>> batches = [torch.randn(16, 32) for _ in range(8)]
        >>> small, _ = tnn.compress(model, tnn.Budget(params=0.5), calib=batches)
        >>> better, report = tnn.recover(small, model, batches, max_steps=40)
        >>> report.error_after <= report.error_before
        True
    """
    highest = rate if learning_rate is None else learning_rate
    _check(model, match_sweeps, max_steps, highest, block_weight)
    if copies is not None and copies < 0:
        raise OptionError(f"recover: copies={copies} is negative. Use 0 for none, or a number for each batch.")
    clock = _Clock(time.perf_counter(), math.inf if time_limit_s is None else time_limit_s)
    train, held_out = _split(calib, validation)
    student = model if inplace else copy.deepcopy(model)
    lesson = Lesson(student, teacher, blocks_of(student) if block_weight > 0 else [], block_weight)
    with _only_factors(student) as parameters:
        matched = _match(lesson, train, held_out, match_sweeps, clock)
        adam = _adam(student, parameters, train if max_steps else [], learning_rate is None)
        train = _with_copies(train, copies, max_steps, rng)
        schedule = _Schedule(max_steps, highest, clock, clock.spent())
        report = _train(lesson, adam, parameters, train, held_out, schedule, rng, matched)
    return student, report


def blocks_of(model: nn.Module) -> list[str]:
    """Names of the blocks: the members of the outermost lists of modules of one class that hold compressed layers."""
    found: list[str] = []
    for name, module in model.named_modules():
        members = list(module.named_children()) if isinstance(module, nn.ModuleList | nn.Sequential) else []
        alike = len(members) > 1 and len({type(m) for _, m in members}) == 1
        inside = any(name == b or name.startswith(b + ".") for b in found)
        if alike and not inside and any(isinstance(m, FactoredModule) for m in module.modules()):
            found += [f"{name}.{child}" if name else child for child, _ in members]
    return found


def _check(model: nn.Module, match_sweeps: int, max_steps: int, highest: float, block_weight: float) -> None:
    if not any(isinstance(m, FactoredModule) for m in model.modules()):
        raise OptionError(
            f"recover: no layer of this {type(model).__name__} is compressed. Give what tk.nn.compress returned."
        )
    if match_sweeps < 0 or max_steps < 0 or match_sweeps + max_steps < 1 or highest <= 0 or block_weight < 0:
        raise OptionError(
            f"recover: match_sweeps={match_sweeps}, max_steps={max_steps}, a rate of {highest}, "
            f"block_weight={block_weight}. Use at least one sweep or step, a positive rate, and a "
            "block weight of 0 or more."
        )


def _split(calib: Iterable[Any], validation: Iterable[Any] | None) -> tuple[list[Any], list[Any]]:
    train = list(require_batches(calib, "recover"))
    if validation is not None:
        held_out = list(require_batches(validation, "recover"))
    else:
        every = max(8, len(train) // HELD_OUT)
        held_out = train[::every]
        train = [batch for k, batch in enumerate(train) if k % every] or train
    if not train or not held_out:
        raise DataError("recover: there is no batch to train or to validate on. Give at least one of each.")
    return train, held_out


def _with_copies(train: list[Any], copies: int | None, max_steps: int, rng: int) -> list[Any]:
    """The batches, and altered ones of those that are text."""
    texts = [batch for batch in train if is_text(batch)]
    if copies is None:
        copies = max(0, min(TEXTS, max_steps) // len(train) - 1)
    generator = torch.Generator().manual_seed(rng)
    words = max((int(batch["input_ids"].max()) for batch in texts if batch["input_ids"].numel()), default=-1) + 1
    return [*train, *(spliced(batch, generator, words) for _ in range(copies) for batch in texts)]


@contextmanager
def _only_factors(model: nn.Module) -> Iterator[list[nn.Parameter]]:
    """Factors and biases of the compressed layers, shared ones once; for the time nothing else takes gradients."""
    layers = [m for m in model.modules() if isinstance(m, FactoredModule)]
    chosen = {id(p): p for m in layers for p in m.parameters() if p.dtype.is_floating_point}
    before = [(p, p.requires_grad) for p in model.parameters()]
    try:
        for p, _ in before:
            p.requires_grad_(id(p) in chosen)
        yield list(chosen.values())
    finally:
        for p, was in before:
            p.requires_grad_(was)
            p.grad = None


@dataclass(slots=True)
class _Clock:
    """Seconds since the call, and how long the latest validation took: so much is kept back for the last one."""

    start: float
    limit_s: float
    validation_s: float = 0.0

    def spent(self) -> float:
        return time.perf_counter() - self.start

    def validated(self, lesson: Lesson, held_out: list[Any]) -> float:
        """The held-out error."""
        start = self.spent()
        error = lesson.error(held_out)
        self.validation_s = self.spent() - start
        return error


@dataclass(frozen=True, slots=True)
class _Schedule:
    """How long, and how fast; `began_s` on the clock is where the steps begin."""

    max_steps: int
    highest: float
    clock: _Clock
    began_s: float

    def progress(self, step: int) -> float:
        """The share of the steps or of the time for them that is gone, whichever is more."""
        steps = 1.0 if step >= self.max_steps else step / self.max_steps
        took = self.clock.spent() - self.began_s
        each = took / max(step, 1)
        left = self.clock.limit_s - self.clock.spent() - self.clock.validation_s
        return 1.0 if left <= SPARE * each else max(steps, took / (took + left))

    def share(self, progress: float) -> float:
        """Of the highest rate: it rises for a twentieth, then falls like a cosine."""
        warm = min(1.0, 20.0 * max(progress, 1.0 / self.max_steps))
        return warm * (1.0 + math.cos(math.pi * min(progress, 1.0))) / 2.0


def _some(batches: list[Any], count: int) -> list[Any]:
    """At most `count` of them, evenly spaced."""
    return batches[:: max(1, -(-len(batches) // count))]


def _match(lesson: Lesson, train: list[Any], held_out: list[Any], sweeps: int, clock: _Clock) -> list[float]:
    """The held-out error at first and after each pass of matching that made it smaller."""
    layers = matchable(lesson.student, lesson.teacher)
    errors = [clock.validated(lesson, held_out)]
    for sweep in range(sweeps if layers else 0):
        until = clock.spent() + (MATCHING_SHARE * clock.limit_s - clock.spent()) / (sweeps - sweep)
        until -= len(MATCHED) * clock.validation_s
        if clock.spent() >= until:
            break
        kept = {name: copy.deepcopy(layer.state_dict()) for name, layer in layers.items()}
        found = matches(lesson.student, lesson.teacher, _while_time(_some(train, MATCHING), clock, until))
        tried = {share: _after(lesson, found, share, held_out, clock) for share in MATCHED}
        share = min(tried, key=tried.__getitem__)
        if not tried[share] < errors[-1]:
            for name, layer in layers.items():
                layer.load_state_dict(kept[name])
            break
        for match in found:
            match.put_(share)
        errors.append(tried[share])
    return errors


def _while_time(batches: list[Any], clock: _Clock, until: float) -> Iterator[Any]:
    """In an order that says nothing of their kind: where time ends, any part of them stands for all."""
    for k in torch.randperm(len(batches), generator=torch.Generator().manual_seed(0)).tolist():
        if clock.spent() >= until:
            return
        yield batches[k]


def _after(lesson: Lesson, found: list[Match], share: float, held_out: list[Any], clock: _Clock) -> float:
    """The error where each layer goes this share of the way."""
    for match in found:
        match.put_(share)
    error = clock.validated(lesson, held_out)
    return error if math.isfinite(error) else math.inf


def _adam(student: nn.Module, parameters: list[nn.Parameter], batches: list[Any], relative: bool) -> RelativeAdam:
    """Relative steps in white coordinates, or absolute ones."""
    if relative:
        return RelativeAdam(parameters, whitened(student, _some(batches, WHITENING)))
    return RelativeAdam(parameters, {p: Coordinates(1.0) for p in parameters}, betas=(0.9, 0.999))


def _put(parameters: list[nn.Parameter], values: list[Tensor]) -> None:
    with torch.no_grad():
        for p, value in zip(parameters, values, strict=True):
            p.copy_(value)


def _train(
    lesson: Lesson,
    adam: RelativeAdam,
    parameters: list[nn.Parameter],
    train: list[Any],
    held_out: list[Any],
    schedule: _Schedule,
    rng: int,
    matched: list[float],
) -> RecoverReport:
    """Steps of Adam; whatever ends them, the parameters then hold the best validated state."""
    best = matched[-1]
    kept = [p.detach().clone() for p in parameters]
    history = [(0, error) for error in matched]
    order = torch.Generator().manual_seed(rng)
    queue: list[int] = []
    step, progress, due, pace = 0, schedule.progress(0), 0.02, 1.0
    try:
        while progress < 1.0:
            queue = queue or torch.randperm(len(train), generator=order).tolist()
            for p in parameters:
                p.grad = None
            lesson.loss(train[queue.pop()]).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            adam.step(pace * schedule.highest * schedule.share(progress))
            step += 1
            progress = schedule.progress(step)
            if progress >= due:
                due = progress + (0.03 if progress < 0.08 else 0.1)
                due = due if due < 0.95 else 1.0
                history.append((step, schedule.clock.validated(lesson, held_out)))
                if history[-1][1] < best:  # a NaN is not
                    best, kept = history[-1][1], [p.detach().clone() for p in parameters]
                elif not history[-1][1] < (WORSE + NOISE * pace * schedule.share(progress)) * best:
                    _put(parameters, kept)
                    adam.forget()
                    pace *= SLOWER
    finally:
        _put(parameters, kept)
    return RecoverReport(matched[0], best, tuple(history), step, schedule.clock.spent())
