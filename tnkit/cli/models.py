"""Models and calibration data for `tnkit compress`: a folder, or a function that makes a module."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tnkit.array_files import ARRAY_SUFFIXES, read_array
from tnkit.errors import DataError, FileFormatError, OptionError, ShapeError
from tnkit.files import read_safetensors, require_file
from tnkit.interop.folders import LocalModel, load_folder

__all__ = ["read_batches", "read_model", "read_texts"]


def read_model(text: str, weights: Path | None) -> LocalModel:
    """The model that is meant by a folder of transformers, or by `module:name`.

    Args:
        text: a folder, or `module:name`, where the name is an `nn.Module` or a function of no arguments that makes one.
        weights: a safetensors file with its state.

    Raises:
        OptionError: it is neither, or `weights` with a folder.
        FileFormatError, ShapeError: weights that cannot be read, or do not fit.
    """
    place = Path(text)
    if place.exists() or ":" not in text:
        if weights is not None:
            raise OptionError("--weights goes with module:name; a model folder brings its own. Leave it out.")
        if place.is_file():
            raise OptionError(
                f"{text}: is a file. A file of weights does not say what the model is: give the folder of a "
                "transformers model, or module:name and the file as --weights."
            )
        return load_folder(place)
    model = _imported(text)
    if weights is not None:
        state, _ = read_safetensors(weights)
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise ShapeError(f"{weights}: does not fit {text}: {error}") from None
    return LocalModel(model.eval(), None)


def _imported(text: str) -> nn.Module:
    module, _, name = text.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise OptionError(
            f"{text}: cannot be imported ({error}). Give a folder, or module:name as in mymodel:build."
        ) from None
    made = found if isinstance(found, nn.Module) else found() if callable(found) else found
    if not isinstance(made, nn.Module):
        raise OptionError(f"{text}: gives a {type(made).__name__}, not an nn.Module.")
    return made


def read_texts(file: Path) -> list[str]:
    """The lines of a UTF-8 file that are not blank.

    Raises:
        FileFormatError: no such file, or no text.
        DataError: no line.
    """
    require_file(file)
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{file}: is no UTF-8 text ({error.reason}). Give one text a line.") from None
    found = [line for line in lines if line]
    if not found:
        raise DataError(f"{file}: holds no text. Give one text a line.")
    return found


def read_batches(file: Path, local: LocalModel, size: int) -> list[Any]:
    """Batches from a file of texts (one a line), or from an array whose first mode runs over examples.

    Raises:
        OptionError: a file of another kind.
        FileFormatError, DataError: one that cannot be read, or is empty.
    """
    if size < 1:
        raise OptionError(f"--batch-size {size}: a batch has 1 example or more.")
    if file.suffix.lower() == ".txt":
        return list(local.batches(read_texts(file), size=size))
    if file.suffix.lower() not in ARRAY_SUFFIXES:
        raise OptionError(f"--calib {file}: give texts as .txt, one a line, or inputs as .npy, .npz or .safetensors.")
    inputs = torch.from_numpy(read_array(file))
    if inputs.ndim < 2 or inputs.shape[0] == 0:
        raise DataError(
            f"{file}: has shape {tuple(inputs.shape)}. The first mode runs over examples; give at least one."
        )
    dtype = next((p.dtype for p in local.model.parameters() if p.is_floating_point()), torch.float32)
    return list((inputs.to(dtype) if inputs.is_floating_point() else inputs).split(size))
