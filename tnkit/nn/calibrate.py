"""Calibration: stream batches through a model and keep second moments of the layers' inputs, never activations.

Layers that are fed the same tensor (query, key and value) share one Gram matrix; padded tokens are left out.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from tnkit.errors import DataError, OptionError
from tnkit.nn.batches import attention_mask, evaluating, require_batches, run_batch
from tnkit.nn.hooks import hooked
from tnkit.nn.opening import opened, owners, projection_input
from tnkit.nn.outputs import Outputs
from tnkit.nn.scope import Rules, find_scope
from tnkit.nn.sensitivity import Sensitivity, Site
from tnkit.nn.stats import InputStats

__all__ = ["Calibration", "Seen", "calibrate", "collect"]


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What one layer was given.

    Attributes:
        stats: moments of its rows, or None.
        shape: of its first input; () if not known.
        dtype: of its first input.
        gradients: moments of the gradients of the model's outputs with respect to the layer's, or None.
        table: how often each row is looked up, or None.
        columns: moments of the gradients with respect to the rows that are looked up, or None.
    """

    stats: InputStats | None
    shape: tuple[int, ...]
    dtype: torch.dtype
    gradients: InputStats | None = None
    table: InputStats | None = None
    columns: InputStats | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """What was seen, by layer name; layers that were never called are missing.

    Attributes:
        seen: by name.
        first_batch: kept for measurements.
        n_batches: how many there were.
        note: why there are no gradients though they were asked for, or "".
    """

    seen: dict[str, Seen]
    first_batch: Any
    n_batches: int
    note: str = ""


@dataclass(slots=True)
class _Event:
    """One tensor that was seen in this batch, and the layers that took it."""

    stats: InputStats
    names: list[str]
    source: weakref.ref[Tensor]
    version: int


@dataclass(slots=True)
class _Recorder:
    sites: Mapping[str, Site]
    mask: Tensor | None = None
    aside: bool = False
    events: dict[tuple[Hashable, int], _Event] = field(default_factory=dict)
    totals: dict[tuple[str, ...], InputStats] = field(default_factory=dict)
    inputs: dict[str, tuple[tuple[int, ...], torch.dtype]] = field(default_factory=dict)

    def see(self, name: str, x: Tensor) -> None:
        site = self.sites[name]
        self.inputs.setdefault(name, (tuple(x.shape) if not x.is_nested else tuple(x.unbind()[0].shape), x.dtype))
        if not site.moments:
            return
        key = (site.recipe.rows_key(site.layer), id(x))
        event = self.events.get(key)
        version = 0 if x.is_inference() else x._version
        if event is not None and event.source() is x and event.version == version:
            event.names.append(name)
            return
        if event is not None:
            self._fold(key)
        pieces = x.unbind() if x.is_nested else (x,)
        stats = None
        for piece in pieces:
            mask = self.mask if self.mask is None or self.mask.device == piece.device else self.mask.to(piece.device)
            one = site.recipe.observe(site.layer, piece, mask)
            if one is not None:
                stats = one if stats is None else stats + one
        if stats is not None:
            self.events[key] = _Event(stats, [name], weakref.ref(x), version)

    def _fold(self, key: tuple[Hashable, int]) -> None:
        event = self.events.pop(key)
        names, stats = tuple(event.names), event.stats
        if self.aside:
            stats = replace(stats, aside=stats)
        self.totals[names] = self.totals[names] + stats if names in self.totals else stats

    def fold_dead(self) -> None:
        """Add up what belongs to tensors that are gone: no further layer can take them."""
        for key in [k for k, event in self.events.items() if event.source() is None]:
            self._fold(key)

    def end_batch(self) -> None:
        for key in list(self.events):
            self._fold(key)

    def seen(self) -> dict[str, Seen]:
        found: dict[str, InputStats] = {}
        for names, stats in self.totals.items():
            for name in dict.fromkeys(names):
                found[name] = found[name] + stats if name in found else stats
        return {n: Seen(found[n].require_finite(n) if n in found else None, *what) for n, what in self.inputs.items()}


def collect(
    model: nn.Module,
    sites: Mapping[str, Site],
    calib: Iterable[Any],
    who: str = "calibrate",
    *,
    gradient_batches: int = 0,
    outputs: Outputs = "auto",
    aside: int = 0,
) -> Calibration:
    """Run the batches and record the sites.

    Args:
        model: any module; it is put in eval mode for the time, and gets its modes back.
        sites: layers by name.
        calib: iterable of batches.
        who: the words for the caller in messages.
        gradient_batches: on how many of the first batches gradients are taken as well; see `tnkit.nn.sensitivity`.
        outputs: what of the outputs the gradients are of; see `tnkit.nn.outputs`.
        aside: one batch of so many is also kept apart; 0 for none.

    Raises:
        OptionError: `calib` is no iterable of batches.
        DataError: no batch, a batch that the model does not take, or inputs with NaN or infinite values.
    """
    recorder, feeling = _Recorder(sites), Sensitivity(model, sites, outputs)
    names = {id(site.layer): name for name, site in sites.items()}
    n_batches, first = 0, None

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.is_grad_enabled():  # the pass for gradients
            return
        x = next((a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), None)
        recorder.fold_dead()
        if x is not None and x.numel():
            recorder.see(names[id(module)], x)

    def attention_hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert isinstance(module, nn.MultiheadAttention)
        if not torch.is_grad_enabled():
            recorder.fold_dead()
            recorder.see(names[id(module.out_proj)], projection_input(module, args, kwargs))

    attentions = owners(model)
    handles = [
        attentions[id(site.layer)].register_forward_pre_hook(attention_hook, with_kwargs=True)
        if id(site.layer) in attentions
        else site.layer.register_forward_pre_hook(hook, with_kwargs=True)
        for site in sites.values()
    ]
    with hooked(handles), evaluating(model):
        for batch in require_batches(calib, who):
            first = batch if n_batches == 0 else first
            recorder.mask = attention_mask(batch)
            recorder.aside = aside > 0 and n_batches % aside == aside - 1
            run_batch(model, batch, who)
            recorder.end_batch()
            if n_batches < gradient_batches:
                feeling.add(batch, recorder.mask)
            n_batches += 1
    if n_batches == 0:
        raise DataError(
            f"{who}: calib holds no batch. Give at least one, or calib=None; an exhausted generator gives none."
        )
    found = feeling.found()
    seen = {name: replace(what, gradients=found.get(name)) for name, what in recorder.seen().items()}
    return Calibration(seen, first, n_batches, feeling.note)


def calibrate(
    model: nn.Module, calib: Iterable[Any], rules: Rules | None = None, *, aside: int = 0
) -> dict[str, InputStats]:
    """Second moments of the inputs of every layer that can be compressed.

    Args:
        model: any module; not changed.
        calib: iterable of batches: a tensor, a tuple of arguments, or a Mapping of keyword arguments each. Tokens whose
            `attention_mask` is 0 in a Mapping are left out.
        rules: as in `compress`; layers excluded there are not watched, and a specification decides what its rows are.
        aside: one batch of so many is also kept apart, for `AnyOf` to choose by; 0 for none. It doubles the memory.

    Returns:
        InputStats by layer name, for `compress_layer(layer, spec, gram=stats[name])`. Layers that no batch called
        are missing.

    Raises:
        OptionError: `calib` is no iterable of batches, a rule matches nothing, or `aside` is negative or 1.
        DataError: no batch, or a batch that the model does not take.

    Example:
        >>> import torch
        >>> from tnkit import nn as tnn
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> stats = tnn.calibrate(model, [torch.ones(5, 3), torch.zeros(2, 3)])
        >>> sorted(stats), stats["0"].count, stats["0"].gram[0, 0].tolist()
        (['0', '2'], 7, [5.0, 5.0, 5.0])
    """
    if aside < 0 or aside == 1:
        raise OptionError(f"calibrate: aside={aside}. Use 0 for none, or 2 or more: one batch of so many.")
    with opened(model) as whole:
        scope = find_scope(whole.model, rules)
        sites = {item.name: Site(item.layer, item.recipe) for item in scope.items}
        seen = collect(whole.model, sites, calib, aside=aside).seen
    return {name: what.stats for name, what in seen.items() if what.stats is not None}
