"""Versions of the structure in files of compressed models: older ones are read, or refused with what to do.

Version 1 is of two kinds: at first a layer's configuration was flat, and low-rank linear layers are read from that;
later it held the form, as version 2 does.

Example:
    >>> from tnkit.nn.versions import VERSION, upgraded
    >>> upgraded({"layers": {}, "aliases": {}}, VERSION, "a file")
    {'layers': {}, 'aliases': {}, 'opened': []}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tnkit.errors import FileFormatError

__all__ = ["VERSION", "upgraded"]

#: What is written now. It grows with every change of what `FactoredModule.config` gives for a layer that was there.
VERSION = 2


def upgraded(structure: Mapping[str, Any], version: Any, where: str) -> dict[str, Any]:
    """The structure as this version has it.

    Args:
        structure: layers by name, names of open ones and aliases; version 1 knows no open ones.
        version: that it was written with.
        where: the words for the file in messages.

    Raises:
        FileFormatError: a version that is not known, or an early layer that is not read any more.
    """
    if version not in range(1, VERSION + 1):
        raise FileFormatError(
            f"{where} has version {version}; this tnkit reads versions 1 to {VERSION}. Use the tnkit that wrote it, "
            "or a newer one."
        )
    layers = structure["layers"]
    if version == 1:
        layers = {name: _from_flat(name, what, where) for name, what in layers.items()}
    return {**structure, "layers": layers, "opened": structure.get("opened", [])}


def _from_flat(name: str, what: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """A layer of version 1: the form from the sizes, rank and pivots of a flat configuration."""
    config = what["config"]
    if "form" in config:
        return what
    if what["kind"] != "FactoredLinear":
        raise FileFormatError(
            f"{where} holds {name!r} as version 1 of {what['kind']}, which this tnkit does not read. Compress the "
            "model again, or materialize it with the tnkit that wrote it and save that."
        )
    form = {
        "kind": "low_rank",
        "m": config["out_features"],
        "n": config["in_features"],
        "rank": config["rank"],
        "pivots": config["pivots"],
    }
    return {"kind": what["kind"], "config": {"form": form, "bias": config["bias"], "execution": config["execution"]}}
