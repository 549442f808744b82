"""Models with open layers: for a time, for good, and closed again."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from tnkit.nn.hooks import carry_over
from tnkit.nn.opening.base import OPENINGS, Memo, opening_of

__all__ = ["Opened", "closed", "is_open", "opened", "opened_layers"]


@dataclass(slots=True, eq=False)
class Opened:
    """A model whose layers are open for a time.

    Attributes:
        model: the model, or the open layer if the model is itself such a layer.
        layers: open layers by name.
    """

    model: nn.Module
    layers: dict[str, nn.Module]
    _places: dict[str, list[tuple[nn.Module, str, nn.Module]]]

    def keep(self, names: Collection[str]) -> dict[str, nn.Module]:
        """Close every layer in which nothing is to change; those that stay open are returned."""
        for name in list(self.layers):
            inside = f"{name}." if name else ""
            own = {f"{inside}{child}" for child, _ in self.layers[name].named_children()} - {f"{inside}out_proj"}
            if not own & set(names):
                for parent, key, old in self._places.pop(name):
                    parent._modules[key] = old
                del self.layers[name]
        return self.layers

    def close(self) -> None:
        """Put every closed layer back."""
        for places in self._places.values():
            for parent, key, old in places:
                parent._modules[key] = old
        self._places.clear()


def opened_layers(model: nn.Module, *, root: bool = True) -> dict[str, nn.Module]:
    """An open layer for each one in the model that can be opened, over the same memory; the model is not changed."""
    memo: Memo = {}
    found: dict[str, nn.Module] = {}
    for name, layer in model.named_modules():
        kind = opening_of(layer)
        if kind is not None and (name or root):
            found[name] = carry_over(layer, kind.opened(layer, memo))
    return found


@contextmanager
def opened(model: nn.Module, *, root: bool = True) -> Iterator[Opened]:
    """The model with its layers open, for the time of a `with` block.

    Args:
        model: as it was when the block is left.
        root: whether the model itself may be opened, which is then another module.
    """
    layers = opened_layers(model, root=root)
    by_id = {id(model.get_submodule(name)): name for name in layers}
    places: dict[str, list[tuple[nn.Module, str, nn.Module]]] = {name: [] for name in layers}
    state = Opened(layers.get("", model), layers, places)
    try:
        for parent in list(model.modules()):
            for key, child in list(parent._modules.items()):
                if child is not None and id(child) in by_id:
                    name = by_id[id(child)]
                    places[name].append((parent, key, child))
                    parent._modules[key] = layers[name]
        yield state
    finally:
        state.close()


def is_open(layer: nn.Module) -> bool:
    """Whether this is an open layer."""
    return any(isinstance(layer, kind.open) for kind in OPENINGS.items().values())


def closed(layer: nn.Module) -> nn.Module:
    """The closed layer with the weights that an open one stands for."""
    kind = next(kind for kind in OPENINGS.items().values() if isinstance(layer, kind.open))
    return kind.closed(layer)
