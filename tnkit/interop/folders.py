"""Models of the transformers library, from a folder on this machine: nothing is downloaded.

Example:
    >>> from tnkit.interop.folders import load_folder
    >>> load_folder("no/such/folder")
    Traceback (most recent call last):
    ...
    tnkit.errors.FileFormatError: no/such/folder: no such folder. Give the folder that holds config.json.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tnkit.errors import DataError, FileFormatError, MissingExtraError, TnkitError
from tnkit.formats import Budget
from tnkit.nn import ModelReport, compress_files
from tnkit.nn.io import hollow_
from tnkit.nn.scope import Rules
from tnkit.nn.structure import QUANT_METHOD, mark_
from tnkit.nn.versions import VERSION, upgraded

__all__ = ["LocalModel", "compress_folder", "load_folder", "register", "write_folder"]


@dataclass(frozen=True, slots=True, eq=False)
class LocalModel:
    """A model with what turns text into its inputs.

    Attributes:
        model: in eval mode.
        tokenizer: None where the folder has none.
    """

    model: nn.Module
    tokenizer: Any

    def batches(self, texts: Sequence[str], *, size: int = 32, max_length: int = 128) -> list[dict[str, Tensor]]:
        """Texts as batches of keyword arguments for the model, each padded to its longest text.

        Args:
            texts: one for each row.
            size: texts a batch.
            max_length: tokens at the most; longer texts are cut.

        Raises:
            DataError: no text, or no tokenizer.
        """
        return list(self._batches(texts, size, max_length))

    def _batches(self, texts: Sequence[str], size: int, max_length: int) -> Iterator[dict[str, Tensor]]:
        if self.tokenizer is None:
            raise DataError("The folder of this model has no tokenizer, so texts cannot be read. Give arrays instead.")
        if not texts:
            raise DataError("There is no text. Give at least one line.")
        for k in range(0, len(texts), size):
            rows = list(texts[k : k + size])
            made = self.tokenizer(rows, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
            yield {name: value for name, value in made.items() if isinstance(value, Tensor)}


def load_folder(folder: str | PathLike[str]) -> LocalModel:
    """The model and the tokenizer of a folder that holds config.json and *.safetensors; nothing is downloaded.

    Args:
        folder: on this machine.

    Raises:
        FileFormatError: no such folder, or no model of transformers in it.
        MissingExtraError: transformers is not installed.
    """
    place, transformers = _model_folder(folder)
    with _quiet(transformers, folder):
        config = transformers.AutoConfig.from_pretrained(place, local_files_only=True)
        options = {"local_files_only": True, "use_safetensors": True, "dtype": torch.float32}
        model = _model_class(transformers, config).from_pretrained(place, config=config, **options).eval()
        return LocalModel(model, _tokenizer(transformers, place))


def _model_folder(folder: str | PathLike[str]) -> tuple[Path, Any]:
    """The folder, and transformers."""
    place = Path(folder)
    if not place.is_dir():
        raise FileFormatError(f"{folder}: no such folder. Give the folder that holds config.json.")
    if not (place / "config.json").is_file():
        raise FileFormatError(f"{folder}: has no config.json, so it is no model of transformers. Give another folder.")
    if not list(place.glob("*.safetensors")):
        raise FileFormatError(
            f"{folder}: has no .safetensors file. Other kinds of weights are not read: they need pickle."
        )
    try:
        import transformers
    except ImportError:
        raise MissingExtraError(
            "Reading a model folder needs transformers. Install it with: pip install 'tnkit[hf]'"
        ) from None
    register()
    return place, transformers


@contextmanager
def _quiet(transformers: Any, folder: str | PathLike[str]) -> Iterator[None]:
    """Without progress bars, and with errors as ours."""
    logging: Any = transformers.utils.logging
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        if isinstance(error, TnkitError):
            raise
        first = str(error).strip().partition("\n")[0]
        raise FileFormatError(f"{folder}: cannot be read as a model of transformers ({first}).") from error
    finally:
        if bars:
            logging.enable_progress_bar()


def _model_class(transformers: Any, config: Any) -> Any:
    names = getattr(config, "architectures", None) or []
    known = [getattr(transformers, name) for name in names if hasattr(transformers, name)]
    return known[0] if known else transformers.AutoModel


def _tokenizer(transformers: Any, place: Path) -> Any:
    tokens = any((place / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"))
    return transformers.AutoTokenizer.from_pretrained(place, local_files_only=True) if tokens else None


def compress_folder(
    folder: str | PathLike[str],
    out: str | PathLike[str],
    target: Budget | int | float | None,
    texts: Sequence[str] | None = None,
    rules: Rules | None = None,
    **options: Any,
) -> ModelReport:
    """Compress a model of transformers from folder to folder, a layer at a time; it is never in memory as a whole.

    Args:
        folder: with config.json and *.safetensors.
        out: a folder that is not there yet; `from_pretrained` reads it after `import tnkit.interop.transformers`.
        target: params, bytes or max_error.
        texts: to calibrate on, by the folder's tokenizer; None fits the weights alone.
        rules: as in `tk.nn.compress`.
        options: of `tk.nn.compress_files`, such as max_shard_bytes.

    Raises:
        FileFormatError: no such folder, no model of transformers in it, or an `out` that is there.
        MissingExtraError: transformers is not installed.
        DataError: texts without a tokenizer.
    """
    place, transformers = _model_folder(folder)
    with _quiet(transformers, folder):
        config = transformers.AutoConfig.from_pretrained(place, local_files_only=True)
        with torch.device("meta"):
            model = _model_class(transformers, config)._from_config(config)
        model.eval()
        for module in model.modules():
            _fill_buffers_(model, module)
        tokenizer = _tokenizer(transformers, place)
    batches = None if texts is None else LocalModel(model, tokenizer).batches(texts)
    return compress_files(model, place, out, target, batches, rules, **options)


def _fill_buffers_(model: Any, module: nn.Module) -> None:
    """Give buffers that are in no file, such as tables of rotary angles, the values of a new model."""
    kept = module._non_persistent_buffers_set
    absent = {k: b for k, b in module._buffers.items() if b is not None and b.is_meta and k in kept}
    for key, buffer in absent.items():
        module._buffers[key] = torch.zeros_like(buffer, device="cpu")
    if absent:
        model._init_weights(module)


def write_folder(model: nn.Module, tokenizer: Any, folder: str | PathLike[str]) -> Path:
    """Write a model of transformers, and its tokenizer if there is one, to a new folder: whole or not at all.

    Args:
        model: with `save_pretrained`, compressed or not.
        tokenizer: or None.
        folder: that is not there yet; its parent is.

    Returns:
        The folder.

    Raises:
        FileFormatError: it is there already, it cannot be made, or the model is none of transformers.
    """
    place = Path(folder)
    if place.exists() or not place.parent.is_dir():
        raise FileFormatError(f"{folder}: is there already, or has no parent folder. Give the name of a new folder.")
    save: Any = getattr(model, "save_pretrained", None)
    if save is None:
        raise FileFormatError(f"{folder}: a {type(model).__name__} is no model of transformers. Use tk.nn.save.")
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}.") as whole:
        made = Path(whole, "made")
        save(made)
        if tokenizer is not None:
            tokenizer.save_pretrained(made)
        made.rename(place)
    return place


def register() -> None:
    """Tell transformers how a compressed model is read; without transformers, or the second time, nothing is done."""
    try:
        from transformers.quantizers import auto, base
        from transformers.utils import quantization_config
    except ImportError:
        return
    if QUANT_METHOD in auto.AUTO_QUANTIZER_MAPPING:
        return
    config: Any = quantization_config.QuantizationConfigMixin
    reader: Any = base.HfQuantizer
    steps = {
        "is_serializable": _always,
        "is_trainable": property(_always),
        "_process_model_before_weight_loading": _before_weights,
        "_process_model_after_weight_loading": _after_weights,
    }
    made: Any = type("TnkitConfig", (config,), {"__init__": _take_structure})
    auto.register_quantization_config(QUANT_METHOD)(made)
    made = type("TnkitReader", (reader,), steps)
    auto.register_quantizer(QUANT_METHOD)(made)


def _take_structure(config: Any, structure: dict[str, Any] | None = None, version: int = 1, **rest: Any) -> None:
    """What `tnkit.nn.structure.mark_` wrote, from config.json; early ones named no version."""
    found = {"layers": {}, "opened": [], "aliases": {}} if structure is None else structure
    config.quant_method, config.version = QUANT_METHOD, VERSION
    config.structure = upgraded(found, version, "config.json")


def _always(reader: Any) -> bool:
    """A compressed model holds plain numbers: it can be written and trained."""
    return True


def _before_weights(reader: Any, model: nn.Module, **rest: Any) -> nn.Module:
    return hollow_(model, reader.quantization_config.structure)


def _after_weights(reader: Any, model: Any, **rest: Any) -> Any:
    model.is_quantized = model.config._is_quantized = False  # it may be cast to other types
    return mark_(model)  # with the names that the layers have here
