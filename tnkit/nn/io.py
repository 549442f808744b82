"""Compressed models on disk: one safetensors file with the structure as JSON in its metadata. No pickle.

The file holds the whole state of the model; the code of the model itself is not in it, so loading needs a `base`: the
uncompressed model (its weights do not matter), or one that has the same structure already.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tnkit.errors import FileFormatError, OptionError, ShapeError
from tnkit.nn.opening import is_open, opened_layers
from tnkit.nn.resized import set_shapes_
from tnkit.nn.sliced_norm import SlicedNorm
from tnkit.nn.structure import mark_, structure_of
from tnkit.nn.surgery import replaced, swap_
from tnkit.nn.turn import put_turns_
from tnkit.nn.versions import VERSION, upgraded
from tnkit.registry import LAYERS

__all__ = ["hollow_", "load", "save"]

KEY = "tnkit.model"


def save(model: nn.Module, path: str | PathLike[str]) -> Path:
    """Write a model, compressed or not, to a safetensors file.

    It is written under a temporary name and renamed, so that `path` never holds half a file. Shared tensors are written
    once, and stay shared when they are loaded.

    Args:
        model: any module whose state is tensors.
        path: of the file; its folder must exist.

    Returns:
        The path.

    Raises:
        OptionError: the state holds something that is no tensor, or tensors without values.

    Example:
        >>> import os, tempfile, torch
        >>> from tnkit import nn as tnn
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 16))
        >>> small, _ = tnn.compress(model, tnn.Budget(params=0.5))
        >>> path = tnn.save(small, os.path.join(tempfile.mkdtemp(), "small.safetensors"))
        >>> again = tnn.load(path, base=model)
        >>> bool((again(torch.ones(1, 16)) == small(torch.ones(1, 16))).all())
        True
    """
    target = Path(path)
    tensors: dict[str, Tensor] = {}
    parts = structure_of(model)
    for name, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor) or value.is_meta:
            raise OptionError(
                f"save: {name!r} in the state of this {type(model).__name__} is no tensor with values. "
                "Nothing was written. Load the weights first, or drop the extra state."
            )
        if name not in parts["aliases"]:
            tensors[name] = value.detach().cpu().contiguous().clone()
    structure = {"version": VERSION, "model": type(model).__name__, **parts}
    _write(target, tensors, {KEY: json.dumps(structure)})
    return target


def load(path: str | PathLike[str], base: nn.Module) -> nn.Module:
    """Read a model that `save` wrote.

    Args:
        path: of the file.
        base: the uncompressed model, or one of the same structure; its weights do not matter, and it is not changed.

    Returns:
        A copy of `base` with the compressed layers and the whole state of the file, on the devices of `base`.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: it is cut short, or `save` did not write it.
        ShapeError: it was written from a model of another structure than `base`.
    """
    tensors, structure = _read(Path(path))
    model = _with_open_layers(base, structure["opened"], path)
    layers = {name: _empty_layer(name, what, tensors, model, path) for name, what in structure["layers"].items()}
    model = replaced(model, layers)
    set_shapes_(model, structure.get("shapes", {}))
    put_turns_(model, structure.get("turns", {}))
    for alias, owner in structure["aliases"].items():
        tensors[alias] = tensors[owner]
    try:
        model.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise ShapeError(
            f"{path} was written from a {structure['model']} of another structure "
            f"than this base {type(base).__name__}: {error}"
        ) from error
    _tie(model, structure["aliases"])
    return model


def hollow_(model: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
    """Put compressed layers without values into a Hugging Face model whose weights are about to be read.

    Args:
        model: the dense model, on any device, "meta" too; it is changed, and returned.
        structure: what `structure_of` gave for it, for a model that it is the base of, or for its base. Layers that it
            does not have, such as another model's head, are passed over.

    Raises:
        ShapeError: another kind of layer under one of the names, or one that cannot be opened.
    """
    there = opened_layers(model, root=False)
    wanted = {_here(model, name) for name in structure["opened"]}
    strange = sorted(n for n in wanted if n is not None and n not in there and not _is_open_at(model, n))
    if strange:
        raise ShapeError(
            f"config.json says that {', '.join(strange[:3])} of this {type(model).__name__} hold several matrices, "
            "each as a layer of its own, and they cannot be opened here. Load it with the version of transformers "
            "that wrote it."
        )
    if wanted:
        swap_(model, {name: layer for name, layer in there.items() if name in wanted})
    places = {name: _here(model, name) for name in structure["layers"]}
    found = {here: structure["layers"][name] for name, here in places.items() if here is not None}
    swap_(model, {name: _empty_layer(name, what, {}, model, "config.json") for name, what in found.items()})
    shapes = {_here_parameter(model, name): shape for name, shape in structure.get("shapes", {}).items()}
    set_shapes_(model, {name: shape for name, shape in shapes.items() if name is not None})
    turns = {_here(model, name): shape for name, shape in structure.get("turns", {}).items()}
    put_turns_(model, {name: shape for name, shape in turns.items() if name is not None})
    names = {f"{name}.": f"{here}." for name, here in places.items() if here is not None}
    _tie(model, _renamed(structure["aliases"], names))
    return mark_(model)


def _renamed(aliases: Mapping[str, str], prefixes: Mapping[str, str]) -> dict[str, str]:
    """Aliases between layers that are here, by the names that these have here."""

    def here(name: str) -> str | None:
        parent, _, leaf = name.rpartition(".")
        return None if f"{parent}." not in prefixes else prefixes[f"{parent}."] + leaf

    pairs = ((here(alias), here(owner)) for alias, owner in aliases.items())
    return {alias: owner for alias, owner in pairs if alias is not None and owner is not None}


def _here_parameter(model: nn.Module, name: str) -> str | None:
    parent, _, key = name.rpartition(".")
    here = _here(model, parent)
    return None if here is None else f"{here}.{key}" if here else key


def _here(model: nn.Module, name: str) -> str | None:
    """The name of a layer in a model that may be the base of the one it was in, or have that for its base."""
    base = f"{getattr(model, 'base_model_prefix', '')}."
    names = {n for n, _ in model.named_modules(remove_duplicate=False)}
    return next((n for n in (name, name.removeprefix(base), base + name) if n in names), None)


def _write(target: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    os.close(handle)
    try:
        save_file(dict(tensors), temporary, metadata=metadata)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"load: there is no file {path}.")
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (it is no dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise FileFormatError(
            f"load: {path} is no whole safetensors file ({error}). Write it again with tk.nn.save."
        ) from error
    if KEY not in metadata:
        raise FileFormatError(
            f"load: {path} holds no tnkit model (no {KEY!r} in its metadata). Use a file that tk.nn.save wrote."
        )
    try:
        structure = json.loads(metadata[KEY])
        version, *_ = (structure[k] for k in ("version", "model", "layers", "aliases"))
        return tensors, upgraded(structure, version, f"load: {path}")
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, FileFormatError):
            raise
        raise FileFormatError(
            f"load: the structure in {path} cannot be read ({error}). Write it again with tk.nn.save."
        ) from error


def _with_open_layers(base: nn.Module, names: list[str], path: Any) -> nn.Module:
    """The base with these layers open, and no others; itself where there is nothing to open."""
    there = opened_layers(base)
    missing = [name for name in names if name not in there and not _is_open_at(base, name)]
    if missing:
        raise ShapeError(
            f"load: {path} holds parts of the layer {missing[0]!r}, but this base {type(base).__name__} has no layer "
            "of such a kind there. Give the model that was compressed as base."
        )
    wanted = {name: layer for name, layer in there.items() if name in names}
    return replaced(base, wanted) if wanted else base


def _is_open_at(base: nn.Module, name: str) -> bool:
    try:
        return is_open(base.get_submodule(name))
    except AttributeError:
        return False


def _empty_layer(name: str, what: dict[str, Any], tensors: dict[str, Tensor], base: nn.Module, path: Any) -> nn.Module:
    kinds = [(kind.module, kind.fits) for kind in LAYERS.items().values() if kind.module.kind == what["kind"]]
    kinds += [(SlicedNorm, SlicedNorm.fits)] if what["kind"] == SlicedNorm.kind else []
    if not kinds:
        raise FileFormatError(
            f"load: {path} holds a layer {name!r} of kind {what['kind']!r}, which this tnkit does not know."
        )
    try:
        old = base.get_submodule(name)
    except AttributeError:
        old = None
    if old is None or not any(fits(old) for _, fits in kinds):
        seen = "no such layer" if old is None else f"a {type(old).__name__} there"
        raise ShapeError(
            f"load: {path} holds a {what['kind']} for {name!r}, but this base {type(base).__name__} has {seen}. "
            "Give the model that was compressed as base."
        )
    prefix = f"{name}." if name else ""
    floats = [t for n, t in tensors.items() if n.rpartition(".")[0] == name and t.dtype.is_floating_point]
    dtype = floats[0].dtype if floats else torch.get_default_dtype()
    try:
        made: nn.Module = kinds[0][0].from_config(what["config"], dtype)
    except (TypeError, ValueError, KeyError) as error:
        raise FileFormatError(
            f"load: the structure of {prefix or name!r} in {path} cannot be read ({error})."
        ) from error
    return made.to(next(old.parameters(), next(base.parameters())).device)


def _tie(model: nn.Module, aliases: Mapping[str, str]) -> None:
    """Make what was one tensor one tensor again."""
    for alias, owner in aliases.items():
        (to_module, to_name), (from_module, from_name) = _place(model, alias), _place(model, owner)
        shared = getattr(from_module, from_name)
        if getattr(to_module, to_name) is not shared:
            setattr(to_module, to_name, shared)


def _place(model: nn.Module, key: str) -> tuple[nn.Module, str]:
    parent, _, name = key.rpartition(".")
    return model.get_submodule(parent), name
