"""Sequential correction: layers fitted again to what the dense ones give, for the inputs that they really get.

In a compressed model a layer sees inputs x' that the layers before it have changed. The linear map of x' that comes
nearest to the dense layer's outputs y is T = C G⁺ with G = Σ (x' − μ)(x' − μ)ᵀ and C = Σ (y − ȳ)(x' − μ)ᵀ; the best
layer of a format is the fit to T in the metric of G and of the outputs' gradients, with the bias ȳ − Ŵ μ. Where a
layer's outputs are added to a stream (see `tnkit.nn.streams`), y is what makes the sum that of the dense model, so that
errors of the stream are mended and do not add up. Of the data only G, C and the means are kept. Layers are corrected
one after the other, each on the inputs that the corrected ones before it give; all at once overshoot. A pass that does
not make held-out batches better is undone, and tried without streams.

References:
    Zhang et al. (2015), arXiv 1505.06798 (asymmetric reconstruction); Wang et al., SVD-LLM, arXiv 2403.07378.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tnkit.nn.batches import attention_mask, evaluating, run_batch
from tnkit.nn.build import Built, as_weight, relative_error
from tnkit.nn.choice import Choice
from tnkit.nn.opening import OpenExperts
from tnkit.nn.outputs import Outputs, felt_outputs
from tnkit.nn.plan import Outcome
from tnkit.nn.stats import InputStats
from tnkit.nn.streams import Place, meetings
from tnkit.nn.surgery import replaced, swap_

__all__ = ["correctable", "corrected", "is_little_work"]

#: Pull of T towards the dense weight, as a share of the mean energy of the inputs.
RIDGE = 1e-3
#: One batch in so many is held out.
HELD_OUT = 8
#: Multiplications of a pass that is little work: about a minute on one core.
LITTLE = 10**12


@dataclass(slots=True)
class _Moments:
    """Of rows h = (x', 1) and y: Σ h hᵀ (g, n + 1, n + 1) and Σ y hᵀ (g, m, n + 1) in float64."""

    gram: Tensor
    cross: Tensor

    @staticmethod
    def of(rows: Tensor, outputs: Tensor) -> _Moments:
        x, y = rows.detach().to(torch.float64), outputs.detach().to(torch.float64)
        h = torch.cat([x, x.new_ones(*x.shape[:2], 1)], dim=2)
        return _Moments(h.mT @ h, y.mT @ h)

    def add(self, other: _Moments) -> None:
        self.gram += other.gram
        self.cross += other.cross


def correctable(choices: Sequence[Choice], rows: Sequence[int], model: nn.Module) -> dict[str, tuple[Choice, int]]:
    """Compressed layers whose rows are the inputs of their outputs one by one, and that stand alone, by name.

    A model that is one layer has none before it to correct for. Of experts two models need not be given the same rows.
    """
    routed = [f"{name}." for name, m in model.named_modules() if isinstance(m, OpenExperts)]
    return {
        c.item.name: (c, row)
        for c, row in zip(choices, rows, strict=True)
        if row >= 0
        and c.item.name
        and not c.item.name.startswith(tuple(routed))
        and not c.item.tied
        and c.item.recipe.reading in ("matrix", "patches")
        and c.metric.inputs is not None
        and c.metric.frequency is None
        and not c.view.transposed
    }


def is_little_work(choices: Sequence[Choice]) -> bool:
    """Whether a pass of correction takes at most about `LITTLE` multiplications."""
    seen = [(c.weight.numel(), c.metric.inputs.count) for c in choices if c.metric.inputs is not None]
    return len(seen) * sum(numel * count for numel, count in seen) <= LITTLE


def corrected(
    model: nn.Module,
    choices: Sequence[Choice],
    found: Outcome,
    batches: Iterable[Any],
    n_batches: int,
    sweeps: int,
    outputs: Outputs = "auto",
) -> Outcome:
    """Layers that do at least as well on held-out batches as those that were found.

    Args:
        model: the dense model; not changed.
        choices: as they were planned.
        found: the layers for them.
        batches: as in `compress`, gone through again and again; every eighth is held out, the last of fewer; a single
            one is both.
        n_batches: how many there are.
        sweeps: passes at the most; one that makes the held-out error larger is undone and is the last.
        outputs: what of the model's outputs counts.

    Cost:
        For each layer and sweep a forward pass of both models, as far as that layer, over the batches, and a fit.
    """
    places = correctable(choices, found.rows, model)
    if not places or sweeps < 1:
        return found

    every = min(HELD_OUT, n_batches)

    def part(*, held_out: bool) -> Iterator[Any]:
        for k, batch in enumerate(batches):
            if n_batches == 1 or (k % every == every - 1) is held_out:
                yield batch

    student = replaced(model, found.layers)
    first = next(part(held_out=False))
    groups, sums = _in_order(student, places, first), meetings(model, places, first)
    best = _error(model, student, part(held_out=True), outputs)
    for _ in range(sweeps):
        for met in (sums, {}) if sums else ({},):
            before = {name: student.get_submodule(name) for name in places}
            layers, reports = dict(found.layers), {r.name: r for r in found.reports}
            for group in groups:
                moments = _moments(model, student, {name: places[name] for name in group}, met, part(held_out=False))
                made = {name: _refitted(*places[name], of) for name, of in moments.items()}
                layers |= {name: built.module for name, built in made.items()}
                for name, built in made.items():
                    reports[name] = replace(reports[name], rel_error=relative_error(places[name][0], built))
                swap_(student, {name: copy.deepcopy(built.module) for name, built in made.items()})
            error = _error(model, student, part(held_out=True), outputs)
            if error < best:  # a NaN is not
                break
            swap_(student, before)
        else:
            break
        best = error
        found = replace(found, layers=layers, reports=tuple(reports[r.name] for r in found.reports), score=None)
    return found


class _Enough(Exception):
    """What comes after the last layer that is looked at is not computed."""


def _in_order(student: nn.Module, places: Mapping[str, Any], batch: Any) -> list[tuple[str, ...]]:
    """The layers in the order of their calls, those together that are given the same tensor one after the other."""
    called: list[tuple[str, Tensor]] = []

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if args and isinstance(args[0], Tensor) and all(name != known for known, _ in called):
                called.append((name, args[0]))

        return hook

    handles = [student.get_submodule(name).register_forward_hook(note(name)) for name in places]
    try:
        with evaluating(student):
            run_batch(student, batch, "compress")
    finally:
        for handle in handles:
            handle.remove()
    groups: list[tuple[str, ...]] = []
    for k, (name, x) in enumerate(called):
        if k and called[k - 1][1] is x:
            groups[-1] = (*groups[-1], name)
        else:
            groups.append((name,))
    return groups


def _error(model: nn.Module, student: nn.Module, batches: Iterable[Any], outputs: Outputs) -> float:
    """Squared error of the outputs that count, as a share of their squares."""
    wrong = whole = 0.0
    with evaluating(model), evaluating(student):
        for batch in batches:
            mask = attention_mask(batch)
            theirs = felt_outputs(model, run_batch(model, batch, "compress"), outputs)
            mine = felt_outputs(student, run_batch(student, batch, "compress"), outputs)
            for a, b in zip(mine, theirs, strict=False):
                kept = mask if mask is not None and b.ndim >= 3 and mask.shape == b.shape[:2] else ...
                wrong += float((a[kept] - b[kept]).double().square().sum())
                whole += float(b[kept].double().square().sum())
    return wrong / max(whole, 1e-300)


def _moments(
    model: nn.Module,
    student: nn.Module,
    places: Mapping[str, tuple[Choice, int]],
    sums: Mapping[str, Place],
    batches: Iterable[Any],
) -> dict[str, _Moments]:
    """Of every layer that both models call with rows of equal number; each must be called once."""
    found: dict[str, _Moments] = {}
    targets: dict[str, Tensor] = {}
    given: dict[str, tuple[Tensor, Tensor]] = {}
    left: set[str] = set()
    mask: Tensor | None = None

    def done(name: str) -> None:
        left.discard(name)
        if not left:
            raise _Enough

    def keep(name: str) -> Callable[[Tensor], None]:
        def see(x: Tensor) -> None:
            targets[name] = x
            done(name)

        return see

    def add(name: str, x: Tensor, wanted: Tensor) -> None:
        item = places[name][0].item
        here = None if mask is None else mask.to(x.device)
        y = item.recipe.kind.output_rows(item.layer, wanted, here)
        start = 0
        for rows in item.recipe.kind.rows(item.layer, item.recipe.reading, x, here):
            one = _Moments.of(rows, y[:, start : start + rows.shape[1]])
            start += rows.shape[1]
            if name in found:
                found[name].add(one)
            else:
                found[name] = one

    def compare(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            fits = name in targets and bool(args) and targets[name].shape == output.shape
            if fits and name in sums:
                given[name] = args[0].clone(), output.clone()
                return
            if fits:
                add(name, args[0], targets.pop(name))
            done(name)

        return hook

    def meet(name: str) -> Callable[[Tensor], None]:
        def see(total: Tensor) -> None:
            if name in given:
                x, y = given.pop(name)
                add(name, x, y + targets.pop(name) - total)
                done(name)

        return see

    def run(which: nn.Module, handles: list[RemovableHandle], batch: Any) -> None:
        left.update(places)
        try:
            run_batch(which, batch, "compress")
        except _Enough:
            pass
        finally:
            for handle in handles:
                handle.remove()

    with evaluating(model), evaluating(student):
        for batch in batches:
            mask = attention_mask(batch)
            targets.clear()
            given.clear()
            run(model, [sums.get(name, Place(name, "output")).watch(model, keep(name)) for name in places], batch)
            handles = [student.get_submodule(name).register_forward_hook(compare(name)) for name in places]
            handles += [sums[name].watch(student, meet(name)) for name in places if name in sums]
            run(student, handles, batch)
    return {name: of for name, of in found.items() if bool(of.gram.isfinite().all() and of.cross.isfinite().all())}


def _refitted(choice: Choice, row: int, moments: _Moments) -> Built:
    """The layer fitted to what it should give."""
    item, view = choice.item, choice.view
    bias = getattr(item.layer, "bias", None)
    dense = view.blocks(choice.weight.to(torch.float64)).flatten(2)  # (g, m, n)
    gram, cross = moments.gram[:, :-1, :-1], moments.cross[:, :, :-1]
    count = float(moments.gram[0, -1, -1])
    mean, target = moments.gram[:, :-1, -1] / count, moments.cross[:, :, -1] / count
    if bias is not None:
        gram = gram - count * mean[:, :, None] * mean[:, None, :]
        cross = cross - count * target[:, :, None] * mean[:, None, :]
    pull = RIDGE * gram.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(1e-300)[:, None, None]
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    wanted = torch.linalg.solve(gram + pull * eye, cross + pull * dense, left=False)  # (g, m, n)
    weight = view.weight(wanted.reshape(view.blocks(choice.weight).shape))
    stats = InputStats(gram, count * mean, round(count))
    rank = tuple(int(r) for r in choice.grid.ranks[row])
    spec, rank = item.spec.narrowed(view, rank)
    metric = replace(choice.metric, inputs=stats)
    fitted = spec.fit(view, weight, rank, metric)
    module = item.recipe.build(item.layer, spec, fitted, replace(metric, inputs=None))
    if bias is not None:
        near = fitted.to_dense().to(dense).reshape(dense.shape)
        shift = target - torch.einsum("gmn,gn->gm", near, mean)
        module.bias = nn.Parameter(shift.flatten().to(bias), bias.requires_grad)
    return Built(row, as_weight(fitted, view.plan), module, spec, rank)
