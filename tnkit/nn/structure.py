"""Structure: what of a model is compressed, as plain values, for files and for Hugging Face configurations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from tnkit.nn.layers.module import FactoredModule
from tnkit.nn.opening.model import is_open
from tnkit.nn.resized import resized_shapes
from tnkit.nn.sliced_norm import SlicedNorm
from tnkit.nn.turn import turns_of
from tnkit.nn.versions import VERSION

__all__ = ["QUANT_METHOD", "aliases_of", "mark_", "structure_of"]

#: The word in a configuration by which the transformers library finds who reads the model.
QUANT_METHOD = "tnkit"


def structure_of(model: nn.Module) -> dict[str, Any]:
    """Compressed layers by name, names of open ones, and names that stand for a parameter of another name; JSON-able.

    Where there are any, `shapes` holds sizes of parameters that others than the model's configuration say, and `turns`
    those of the products at the entries of blocks.

    Example:
        >>> import torch
        >>> from tnkit.nn.structure import structure_of
        >>> structure_of(torch.nn.Linear(2, 2))
        {'layers': {}, 'opened': [], 'aliases': {}}
    """
    layers = {
        name: {"kind": m.kind, "config": m.config()}
        for name, m in model.named_modules()
        if isinstance(m, FactoredModule | SlicedNorm)
    }
    aliases = aliases_of(model.state_dict(keep_vars=True))
    shapes, turns = resized_shapes(model), turns_of(model)
    found: dict[str, Any] = {
        "layers": layers,
        "opened": [n for n, m in model.named_modules() if is_open(m)],
        "aliases": aliases,
    }
    return {**found, **({"shapes": shapes} if shapes else {}), **({"turns": turns} if turns else {})}


def aliases_of(state: Mapping[str, Any]) -> dict[str, str]:
    """Names in a state that stand for the tensor of an earlier name."""
    owners: dict[int, str] = {}
    found: dict[str, str] = {}
    for name, value in state.items():
        owner = owners.setdefault(id(value), name)
        if owner != name:
            found[name] = owner
    return found


def mark_(model: nn.Module) -> nn.Module:
    """Write the structure into the configuration of a Hugging Face model, so that its `save_pretrained` keeps it.

    Nothing happens to other models, nor to one that is quantised in another way. Where no layer is compressed, the mark
    is taken away.
    """
    config = getattr(model, "config", None)
    if config is None or not hasattr(model, "save_pretrained") or not hasattr(config, "to_dict"):
        return model
    there = getattr(config, "quantization_config", None)
    method = there.get("quant_method") if isinstance(there, Mapping) else getattr(there, "quant_method", None)
    if there is not None and method != QUANT_METHOD:
        return model
    structure = structure_of(model)
    if structure["layers"]:
        config.quantization_config = {"quant_method": QUANT_METHOD, "version": VERSION, "structure": structure}
    elif there is not None:
        del config.quantization_config
    _tell_ties_(model, structure["aliases"])
    return model


def _tell_ties_(model: Any, aliases: Mapping[str, str]) -> None:
    """Write the factors that layers share among the tied weights of a Hugging Face model, in place of dense ones."""
    known = getattr(type(model), "_tied_weights_keys", None)
    factored = {name for name, m in model.named_modules() if isinstance(m, FactoredModule)}

    def is_factor(name: str) -> bool:
        parent, _, leaf = name.rpartition(".")
        return parent in factored and leaf != "bias"

    shared = {alias: owner for alias, owner in aliases.items() if is_factor(alias)}
    if shared and (known is None or isinstance(known, Mapping)):
        model._tied_weights_keys = {a: o for a, o in (known or {}).items() if not is_factor(a)} | shared
    elif "_tied_weights_keys" in vars(model):
        del model._tied_weights_keys
    else:
        return
    model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)
