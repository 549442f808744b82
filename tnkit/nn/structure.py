"""Structure: what of a model is compressed, as plain values, for files and for Hugging Face configurations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from tnkit.nn.layers.module import FactoredModule
from tnkit.nn.opening.model import is_open

__all__ = ["QUANT_METHOD", "mark_", "structure_of"]

#: The word in a configuration by which the transformers library finds who reads the model.
QUANT_METHOD = "tnkit"


def structure_of(model: nn.Module) -> dict[str, Any]:
    """Compressed layers by name, names of open ones, and names that stand for a parameter of another name; JSON-able.

    Example:
        >>> import torch
        >>> from tnkit.nn.structure import structure_of
        >>> structure_of(torch.nn.Linear(2, 2))
        {'layers': {}, 'opened': [], 'aliases': {}}
    """
    layers = {
        name: {"kind": m.kind, "config": m.config()}
        for name, m in model.named_modules()
        if isinstance(m, FactoredModule)
    }
    owners: dict[int, str] = {}
    aliases: dict[str, str] = {}
    for name, value in model.named_parameters(remove_duplicate=False):
        owner = owners.setdefault(id(value), name)
        if owner != name:
            aliases[name] = owner
    return {"layers": layers, "opened": [n for n, m in model.named_modules() if is_open(m)], "aliases": aliases}


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
        config.quantization_config = {"quant_method": QUANT_METHOD, "structure": structure}
    elif there is not None:
        del config.quantization_config
    return model
