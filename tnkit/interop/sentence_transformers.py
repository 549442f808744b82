"""sentence-transformers: compress an encoder by texts; its directory is saved and loaded as any other.

With this module imported, `SentenceTransformer(folder)` reads what `save` wrote of a compressed encoder.

Example:
    >>> from tnkit.interop.sentence_transformers import compress_encoder
    >>> compress_encoder("a name", 0.5, ["a text"])
    Traceback (most recent call last):
    ...
    tnkit.errors.OptionError: compress_encoder: model is a str; give a SentenceTransformer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from tnkit.errors import DataError, MissingExtraError, OptionError
from tnkit.formats import Budget
from tnkit.interop.folders import register
from tnkit.nn import ModelReport, compress

try:
    from sentence_transformers import SentenceTransformer
except ImportError as error:
    raise MissingExtraError(
        "sentence-transformers is not installed. Install it with: pip install 'tnkit[hf]'."
    ) from error

__all__ = ["compress_encoder", "encoder_batches", "encoder_of"]

register()


def compress_encoder(
    model: Any,
    target: Budget | int | float | None,
    texts: Sequence[str] | None,
    *,
    batch_size: int = 32,
    **options: Any,
) -> tuple[Any, ModelReport]:
    """Compress the transformer inside a SentenceTransformer; pooling and what follows stay as they are.

    Args:
        model: a SentenceTransformer; it is not changed.
        target: as in `tk.nn.compress`.
        texts: to calibrate on; None fits the weights alone.
        batch_size: texts a batch.
        options: of `tk.nn.compress`, such as rules; names are those inside the transformer.

    Returns:
        (model, report): another SentenceTransformer, for `encode` and `save`.

    Raises:
        OptionError: no SentenceTransformer, or one without a transformer of Hugging Face in it.
        DataError: no text.
    """
    inner = encoder_of(model)
    batches = None if texts is None else list(encoder_batches(model, texts, batch_size))
    small, report = compress(inner, target, batches, **options)
    return copy.deepcopy(model, {id(inner): small}), report


def encoder_of(model: Any) -> nn.Module:
    """The transformer of Hugging Face inside a SentenceTransformer.

    Raises:
        OptionError: there is none.
    """
    if not isinstance(model, SentenceTransformer):
        raise OptionError(f"compress_encoder: model is a {type(model).__name__}; give a SentenceTransformer.")
    parts = (m for m in model.modules() if not isinstance(m, SentenceTransformer))
    found = next((m for m in parts if hasattr(m, "save_pretrained") and hasattr(m, "config")), None)
    if found is None:
        raise OptionError("compress_encoder: this SentenceTransformer holds no transformer of Hugging Face.")
    return found


def encoder_batches(model: Any, texts: Sequence[str], size: int = 32) -> Iterator[dict[str, Tensor]]:
    """Texts as the model's own tokenizer reads them, as batches for its transformer.

    Raises:
        DataError: no text.
    """
    if not texts:
        raise DataError("There is no text. Give at least one.")
    read = model.preprocess if hasattr(model, "preprocess") else model.tokenize
    for k in range(0, len(texts), size):
        made = read(list(texts[k : k + size]))
        yield {name: value for name, value in made.items() if isinstance(value, Tensor)}
