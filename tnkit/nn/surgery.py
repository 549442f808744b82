"""Surgery: put layers into a copy of a model, or into the model itself, all of them or none; count what is there."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import Tensor, nn

from tnkit.errors import OptionError
from tnkit.nn.fast_path import settle_
from tnkit.nn.forms import ResizedForm
from tnkit.nn.hooks import carry_over
from tnkit.nn.layers.layer_type import layer_type_of
from tnkit.nn.layers.module import FactoredModule
from tnkit.nn.opening import closed, is_open
from tnkit.nn.structure import mark_

__all__ = ["materialize", "n_bytes", "n_params", "replaced", "restore_", "swap_"]


def n_params(*modules: nn.Module) -> int:
    """Numbers in the parameters of these modules; shared ones once."""
    return sum(p.numel() for p in _unique([p for m in modules for p in m.parameters()]))


def n_bytes(*modules: nn.Module) -> int:
    """Bytes of parameters and buffers; shared ones once."""
    tensors = [t for m in modules for t in (*m.parameters(), *m.buffers())]
    return sum(t.numel() * t.element_size() for t in _unique(tensors))


def _unique(tensors: list[Tensor]) -> list[Tensor]:
    return list({id(t): t for t in tensors}.values())


def replaced(model: nn.Module, layers: Mapping[str, nn.Module]) -> nn.Module:
    """A copy of the model with other layers under these names; what they replace is not copied.

    Raises:
        OptionError: the model cannot be copied.
    """
    memo: dict[int, object] = {}
    for name, new in layers.items():
        old = model.get_submodule(name)
        memo[id(old)] = carry_over(old, new)
    try:
        made: nn.Module = copy.deepcopy(model, memo)
    except (TypeError, RuntimeError, ValueError) as error:
        raise OptionError(
            f"This {type(model).__name__} cannot be copied ({type(error).__name__}: {error}). "
            "Use inplace=True, or remove what deepcopy does not take."
        ) from error
    return mark_(settle_(made))


def swap_(model: nn.Module, layers: Mapping[str, nn.Module]) -> nn.Module:
    """Put layers into the model itself, under every name that the old ones have; if one fails, all are put back.

    Raises:
        OptionError: one of the layers is the model itself.
    """
    if "" in layers:
        raise OptionError(
            f"The model is itself a {type(model).__name__}; it cannot be replaced in place. Use inplace=False."
        )
    by_id = {id(model.get_submodule(name)): carry_over(model.get_submodule(name), new) for name, new in layers.items()}
    done: list[tuple[nn.Module, str, nn.Module]] = []
    try:
        for parent in list(model.modules()):
            for name, child in list(parent._modules.items()):
                if child is not None and id(child) in by_id:
                    done.append((parent, name, child))
                    setattr(parent, name, by_id[id(child)])
    except BaseException:
        for parent, name, child in done:
            parent._modules[name] = child
        raise
    return mark_(settle_(model))


def materialize(model: nn.Module) -> nn.Module:
    """A copy of the model in which every compressed layer is a dense layer again, with the weight it stands for.

    Weights that were tied stay tied. Layers of another size, which `compress_blocks` makes, are dense and stay. The
    model itself is not changed.

    Example:
        >>> import torch
        >>> from tnkit import nn as tnn
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 16))
        >>> small, _ = tnn.compress(model, tnn.Budget(params=0.5))
        >>> tnn.materialize(small)
        Sequential(
          (0): Linear(in_features=16, out_features=16, bias=True)
        )
    """
    return replaced(model, _dense_layers(model))


def restore_(model: nn.Module) -> nn.Module:
    """The same, in the model itself, which is returned."""
    return swap_(model, _dense_layers(model))


def _dense_layers(model: nn.Module) -> dict[str, nn.Module]:
    found: dict[str, nn.Module] = {}
    weights: dict[tuple[int, ...], nn.Module] = {}
    inside: set[nn.Module] = set()
    for name, layer in model.named_modules():
        if is_open(layer):
            found[name] = closed(layer)
            inside.update(layer.modules())
        elif isinstance(layer, FactoredModule) and layer not in inside and not isinstance(layer.form, ResizedForm):
            kind = layer_type_of(layer)
            assert kind is not None
            dense = kind.restore(layer)
            factors = tuple(id(p) for n, p in layer.named_parameters(recurse=False) if n != "bias")
            dense.weight = weights.setdefault(factors, dense).weight
            found[name] = dense
    return found
