"""Streams: where a layer's outputs are added to what went past it, as on a shortcut, and a module meets the sum.

A layer at such a place can mend what the layers before it have changed of the stream, which its own outputs do not
show. Places are found by trying, not by names: outputs are moved, and a module whose input or output then moves by just
as much, and is not these outputs themselves, meets them in a sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tnkit.nn.batches import evaluating, run_batch

__all__ = ["Place", "meetings"]

#: Numbers of a tensor that are looked at.
LOOKED_AT = 256
#: A sum may differ from what it should be by this share of the move.
NEAR = 1e-2


@dataclass(frozen=True, slots=True)
class Place:
    """The first tensor that a module is given, or gives.

    Attributes:
        module: its name; "" for the whole model.
        side: which of the two.
    """

    module: str
    side: Literal["input", "output"]

    def watch(self, model: nn.Module, see: Callable[[Tensor], None]) -> RemovableHandle:
        """Call `see` with the tensor whenever there is one."""
        module = model.get_submodule(self.module)

        def before(module: nn.Module, args: tuple[Any, ...]) -> None:
            if args and isinstance(args[0], Tensor):
                see(args[0])

        def after(module: nn.Module, args: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) and output else output
            if isinstance(first, Tensor):
                see(first)

        if self.side == "input":
            return module.register_forward_pre_hook(before)
        return module.register_forward_hook(after)


def meetings(model: nn.Module, names: Iterable[str], batch: Any) -> dict[str, Place]:
    """For each layer the first place where its outputs are met in a sum; layers without one are missing.

    Args:
        model: any module; not changed.
        names: of layers.
        batch: as in `compress`; modules that are called more than once on it are no places.

    Raises:
        DataError: the model does not take the batch.

    Cost:
        A forward pass for each layer, and one more.

    Example:
        >>> import torch
        >>> from tnkit.nn.streams import meetings
        >>> class Shortcut(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.up, self.down = torch.nn.Linear(4, 8), torch.nn.Linear(8, 4)
        ...     def forward(self, x):
        ...         return x + self.down(self.up(x).relu())
        >>> meetings(Shortcut(), ["up", "down"], torch.randn(3, 4))
        {'down': Place(module='', side='output')}
    """
    found: dict[str, Place] = {}
    with evaluating(model):
        still = _look(model, batch, None)[0]
        for name in names:
            moved, layer = _look(model, batch, name)
            if layer is None:
                continue
            own, move = layer
            for place, value in moved.items():
                base = still.get(place)
                if base is None or value is None or not base[0] == value[0] == own[0]:
                    continue
                step = float(move.abs().max())
                by_as_much = float((value[1] - base[1] - move).abs().max()) <= NEAR * step
                if by_as_much and float((base[1] - own[1]).abs().max()) > NEAR * step:
                    found[name] = place
                    break
    return found


_Look = tuple[torch.Size, Tensor]


def _look(
    model: nn.Module, batch: Any, moved: str | None
) -> tuple[dict[Place, _Look | None], tuple[_Look, Tensor] | None]:
    """What modules are given and give, in order, after one layer's outputs were moved, if one is; None: more than once.

    And that layer's own outputs before the move, and the move.
    """
    seen: dict[Place, _Look | None] = {}
    own: list[tuple[_Look, Tensor]] = []

    def note(place: Place) -> Callable[[Tensor], None]:
        def see(x: Tensor) -> None:
            if moved is None or own:
                seen[place] = None if place in seen else (x.shape, _some(x))

        return see

    def push(module: nn.Module, args: Any, output: Any) -> Any:
        if not isinstance(output, Tensor) or not output.is_floating_point() or own:
            return output
        rng = torch.Generator().manual_seed(0)
        signs = torch.randint(0, 2, output.shape, generator=rng).to(output) * 2 - 1
        move = signs * output.std().clamp_min(1e-6)
        own.append(((output.shape, _some(output)), _some(move)))
        return output + move

    sides: tuple[Literal["input", "output"], ...] = ("input", "output")
    handles = [] if moved is None else [model.get_submodule(moved).register_forward_hook(push)]
    for name, _ in model.named_modules():
        handles += [place.watch(model, note(place)) for place in (Place(name, side) for side in sides)]
    try:
        run_batch(model, batch, "compress")
    finally:
        for handle in handles:
            handle.remove()
    return seen, own[0] if own else None


def _some(x: Tensor) -> Tensor:
    """Some of its numbers, the same ones of every tensor of a shape."""
    rng = torch.Generator().manual_seed(x.numel())
    at = torch.randint(max(x.numel(), 1), (LOOKED_AT,), generator=rng).to(x.device)
    return x.detach().reshape(-1)[at].float() if x.numel() else x.detach().reshape(-1).float()
