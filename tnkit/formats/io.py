"""Files: a format as one safetensors file, with its structure as JSON in the metadata. No pickle.

Example:
    >>> import tempfile, torch
    >>> from tnkit.formats import TT, load, save
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(TT.from_cores([torch.ones(1, 2, 3), torch.ones(3, 4, 1)]), folder + "/x.safetensors")
    ...     load(folder + "/x.safetensors").ranks
    (3,)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from tnkit.errors import FileFormatError, OptionError
from tnkit.files import KIND, PathLikeStr, read_safetensors, write_safetensors
from tnkit.formats import operations
from tnkit.formats.base import FORMAT_CLASSES, Format
from tnkit.formats.network import Tensorized
from tnkit.network import DFT, Constant, Part, Topology
from tnkit.tensorize import Tensorization

__all__ = ["from_json", "load", "save", "to_json"]

#: Written to every file; a reader refuses what it does not know.
VERSION = "1"

_REAL = {torch.complex32: torch.float16, torch.complex64: torch.float32, torch.complex128: torch.float64}
_COMPLEX = {str(dtype): dtype for dtype in _REAL}


@operations.save.generic
def save(value: Format, path: PathLikeStr) -> None:
    """Write a format to a safetensors file, bit by bit, all or nothing.

    Args:
        value: any format.
        path: the file, usually named *.safetensors; one that is there is replaced when the new one is whole.

    Raises:
        FileFormatError: `path` is a folder, its folder is not there, no permission, no space. Nothing is half-written.
        OptionError: `value` is no format.

    Example:
        >>> save([1, 2], "x.safetensors")
        Traceback (most recent call last):
        ...
        tnkit.errors.OptionError: save takes a tnkit format (TT, Tucker …), not list. Of a result, save its .tensor.
    """
    if not isinstance(value, Format):
        raise OptionError(
            f"save takes a tnkit format (TT, Tucker …), not {type(value).__name__}. Of a result, save its .tensor."
        )
    tensors: dict[str, Tensor] = {}
    structure = _describe(value, "", tensors)
    metadata = {KIND: "format", "version": VERSION, "structure": json.dumps(structure, allow_nan=False)}
    stored = {name: torch.view_as_real(t.resolve_conj()) if t.is_complex() else t for name, t in tensors.items()}
    write_safetensors(path, stored, metadata)


def load(path: PathLikeStr, *, device: torch.device | str = "cpu") -> Any:
    """Read what `save` wrote.

    Args:
        path: the file.
        device: where its tensors are put.

    Returns:
        The format, with the values, dtypes and structure that were saved, checked as its factory does.

    Raises:
        FileFormatError: no such file, no safetensors file, one that is cut short, another program's, one of a version
            that is not known, or a structure that does not fit the tensors.

    Example:
        >>> load("missing.safetensors")
        Traceback (most recent call last):
        ...
        tnkit.errors.FileFormatError: missing.safetensors: no such file. Check the path.
    """
    tensors, metadata = read_safetensors(path, device)
    if metadata.get(KIND) != "format":
        what = f"a tnkit {metadata[KIND]}" if KIND in metadata else "plain tensors of another program"
        names = ", ".join(list(tensors)[:4])
        raise FileFormatError(
            f"{path}: holds {what} ({names}…), not a tnkit format. "
            "Read arrays with tnkit.array_files.read_array(path, name)."
        )
    if metadata.get("version") != VERSION:
        raise FileFormatError(
            f"{path}: was written in version {metadata.get('version')!r} of the file format, and this tnkit reads "
            f"{VERSION!r}. Install the tnkit that wrote it, or a newer one."
        )
    unused = dict(tensors)
    try:
        value = _rebuild(json.loads(metadata["structure"]), unused)
        if unused:
            raise ValueError(f"tensors that the structure does not name: {', '.join(sorted(unused)[:4])}")
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RuntimeError) as error:
        raise FileFormatError(
            f"{path}: its structure does not fit its tensors ({type(error).__name__}: {error}). "
            "The file was changed after tnkit wrote it; write it again."
        ) from None
    return value


def _describe(value: Format, prefix: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The class and, by field, the names of tensors, another format, or JSON; fills `tensors`."""
    parts: dict[str, Any] = {}
    for field in fields(value):  # type: ignore[arg-type]
        part, name = getattr(value, field.name), f"{prefix}{field.name}"
        if field.metadata.get("static", False):
            parts[field.name] = {"static": to_json(part)}
        elif isinstance(part, Format):
            parts[field.name] = {"format": _describe(part, f"{name}.", tensors)}
        elif isinstance(part, Tensor):
            parts[field.name] = {"tensor": _note(name, part, tensors)}
        else:
            parts[field.name] = {"tensors": [_note(f"{name}.{k}", t, tensors) for k, t in enumerate(part)]}
    return {"class": type(value).__name__, "fields": parts}


def _note(name: str, t: Tensor, tensors: dict[str, Tensor]) -> list[str]:
    tensors[name] = t
    return [name, str(t.dtype)]


def _rebuild(structure: Mapping[str, Any], tensors: dict[str, Tensor]) -> Format:
    cls = FORMAT_CLASSES.get(structure["class"])
    given: dict[str, Any] = structure["fields"]
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    if set(given) != set(names):
        raise ValueError(f"a {structure['class']} has the fields {names}, not {sorted(given)}")
    static: dict[str, Any] = {}
    found: list[Tensor] = []
    inner: Format | None = None
    for name in names:
        ((kind, part),) = given[name].items()
        if kind == "static":
            static[name] = from_json(part)
        elif kind == "format":
            inner = _rebuild(part, tensors)
        elif kind in ("tensor", "tensors"):
            found += [_take(entry, tensors) for entry in ([part] if kind == "tensor" else part)]
        else:
            raise ValueError(f"unknown part {kind!r}")
    if inner is not None:
        return Tensorized.over(inner, static["plan"])
    return cls.from_tensors(tuple(found), **static)


def _take(entry: Sequence[str], tensors: dict[str, Tensor]) -> Tensor:
    name, dtype = entry
    t = tensors.pop(name)
    if dtype in _COMPLEX:
        wide = _COMPLEX[dtype]
        if t.dtype != _REAL[wide]:
            raise ValueError(f"tensor {name} is {t.dtype}, not the {_REAL[wide]} that a {dtype} is made of")
        return torch.view_as_complex(t.clone())  # in a file they are aligned for real numbers only
    if str(t.dtype) != dtype:
        raise ValueError(f"tensor {name} is {t.dtype}, not {dtype}")
    return t


# --- static values as JSON --------------------------------------------------------------------------------------------


def to_json(value: Any) -> Any:
    """A static value as what JSON knows: numbers, text, lists and tagged mappings.

    Raises:
        OptionError: a kind of value that has no JSON form here.

    Example:
        >>> to_json(((0, 1), 2)), from_json(to_json(DFT(4)))
        ([[0, 1], 2], DFT(n=4, inverse=False))
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [to_json(v) for v in value]
    for tag, (kind, write, _) in _KINDS.items():
        if type(value) is kind:
            return {tag: write(value)}
    raise OptionError(f"{type(value).__name__} values cannot be stored in a file.")


def from_json(value: Any) -> Any:
    """The value that `to_json` wrote; lists come back as tuples.

    Raises:
        ValueError: an unknown tag, or parts that do not fit.
    """
    if isinstance(value, list):
        return tuple(from_json(v) for v in value)
    if isinstance(value, dict):
        ((tag, part),) = value.items()
        if tag not in _KINDS:
            raise ValueError(f"unknown kind of value {tag!r}")
        return _KINDS[tag][2](part)
    return value


def _topology_to_json(topology: Topology) -> Any:
    constants = [None if c is None else to_json(c) for c in topology.constants]
    return {"inputs": [list(i) for i in topology.inputs], "output": list(topology.output), "constants": constants}


def _topology_from_json(part: Mapping[str, Any]) -> Topology:
    constants = tuple(None if c is None else _constant(c) for c in part["constants"])
    return Topology(tuple(_labels(labels) for labels in part["inputs"]), _labels(part["output"]), constants)


def _labels(part: Any) -> tuple[str, ...]:
    if not isinstance(part, list) or not all(isinstance(label, str) for label in part):
        raise ValueError(f"labels must be a list of text, not {part!r}")
    return tuple(part)


def _constant(part: Any) -> Constant:
    value = from_json(part)
    if not isinstance(value, Constant):
        raise ValueError(f"{part!r} is no constant")
    return value


def _plan_to_json(plan: Tensorization) -> Any:
    return {"shape": list(plan.shape), "moves": [[move.kind, list(move.to)] for move in plan.moves]}


def _plan_from_json(part: Mapping[str, Any]) -> Tensorization:
    plan = Tensorization.start(part["shape"])
    steps = {"pad": Tensorization.pad, "reshape": Tensorization.reshape, "permute": Tensorization.permute}
    for kind, to in part["moves"]:
        plan = steps[kind](plan, to)
    return plan


def _dft_to_json(constant: DFT) -> Any:
    return {"n": constant.n, "inverse": constant.inverse}


def _dft_from_json(part: Mapping[str, Any]) -> DFT:
    if type(part["n"]) is not int or part["n"] < 1:
        raise ValueError(f"a DFT of size {part['n']!r}")
    return DFT(part["n"], bool(part["inverse"]))


def _part_to_json(constant: Part) -> Any:
    return {"whole": to_json(constant.whole), "picks": to_json(constant.picks)}


def _part_from_json(part: Mapping[str, Any]) -> Part:
    return Part(_constant(part["whole"]), from_json(part["picks"]))


_KINDS: dict[str, tuple[type, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "topology": (Topology, _topology_to_json, _topology_from_json),
    "tensorization": (Tensorization, _plan_to_json, _plan_from_json),
    "dft": (DFT, _dft_to_json, _dft_from_json),
    "part": (Part, _part_to_json, _part_from_json),
}
