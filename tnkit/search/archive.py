"""The trials of a search as one safetensors file: tensors, and the graphs as JSON. No pickle.

Example:
    >>> import tempfile, torch
    >>> from tnkit.search.graph import chain
    >>> trial = Trial(chain((2, 2), (1,)), (torch.ones(2), torch.ones(2)), 0.5)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_trials(folder + "/s.safetensors", {trial.graph.key: trial}, (2, 2))
    ...     back = read_trials(folder + "/s.safetensors", (2, 2), torch.float32, torch.device("cpu"))
    >>> back[trial.graph.key].error
    0.5
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from torch import Tensor

from tnkit.errors import FileFormatError
from tnkit.files import KIND, PathLikeStr, read_safetensors, write_safetensors
from tnkit.search.graph import Graph
from tnkit.search.objective import Trial

__all__ = ["read_trials", "write_trials"]

_WHAT, _VERSION = "search", "1"


def write_trials(path: PathLikeStr, trials: Mapping[str, Trial], shape: tuple[int, ...], asked: str = "") -> None:
    """Write all trials, all or nothing.

    Args:
        path: the file.
        trials: by the key under which each is known.
        shape: of the array that was searched.
        asked: eps and size in words: fits end where these are met, so that a file serves one question.
    """
    tensors: dict[str, Tensor] = {}
    entries, places = [], dict[int, int]()
    for trial in trials.values():
        if id(trial) in places:
            continue
        place = places[id(trial)] = len(places)
        for k, t in enumerate(trial.tensors):
            tensors[f"{place}.{k}"] = torch.view_as_real(t.resolve_conj()) if t.is_complex() else t
        entry = {"graph": trial.graph.to_json(), "error": trial.error, "seconds": trial.seconds, "by": trial.by}
        entries.append({**entry, "effort": trial.effort, "complex": trial.tensors[0].is_complex()})
    keys = {key: places[id(trial)] for key, trial in trials.items()}
    structure = json.dumps({"shape": list(shape), "asked": asked, "trials": entries, "keys": keys})
    write_safetensors(path, tensors, {KIND: _WHAT, "version": _VERSION, "structure": structure})


def read_trials(
    path: PathLikeStr, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, asked: str = ""
) -> dict[str, Trial]:
    """What `write_trials` wrote, for an array of the same shape and dtype, and the same question.

    Raises:
        FileFormatError: no such file, another kind of file, or a search of another array.
    """
    tensors, metadata = read_safetensors(path, device)
    if metadata.get(KIND) != _WHAT or metadata.get("version") != _VERSION:
        raise FileFormatError(f"{path}: holds no search of tnkit in version {_VERSION}. Give another file, or none.")
    try:
        structure = json.loads(metadata["structure"])
        if tuple(structure["shape"]) != shape:
            raise FileFormatError(f"{path}: is a search over shape {structure['shape']}, not {list(shape)}.")
        if structure["asked"] != asked:
            raise FileFormatError(f"{path}: is a search for {structure['asked']!r}, not {asked!r}. Give another file.")
        found = []
        for place, entry in enumerate(structure["trials"]):
            graph = Graph.from_json(entry["graph"])
            own = [tensors[f"{place}.{k}"] for k in range(len(graph.nodes))]
            own = [torch.view_as_complex(t.clone()) if entry["complex"] else t for t in own]
            if any(t.dtype != dtype for t in own):
                raise FileFormatError(f"{path}: is a search in {own[0].dtype}, not {dtype}.")
            seconds, effort = float(entry["seconds"]), int(entry["effort"])
            found.append(Trial(graph, tuple(own), float(entry["error"]), seconds, entry["by"], effort))
        return {key: found[place] for key, place in structure["keys"].items()}
    except (KeyError, ValueError, TypeError, IndexError, RuntimeError) as error:
        if isinstance(error, FileFormatError):
            raise
        raise FileFormatError(f"{path}: its structure does not fit its tensors ({error}). Search anew.") from None
