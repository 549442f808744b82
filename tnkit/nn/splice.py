"""Splice: other texts from those that there are, for learning from a model that answers anything.

A row of tokens becomes a crop of itself, or its head joined to the tail of another row of its batch. Most words are
those of the data and stand beside their neighbours, some are any others; a teacher says what such texts mean. So a few
hundred texts do not run out before a student has learned from them.

References:
    Wei & Zou, EDA, arXiv 1901.11196 (small changes of texts); Jiao et al., TinyBERT, arXiv 1909.10351, section 3.2
    (texts made up for distillation).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tnkit.nn.batches import attention_mask

__all__ = ["is_text", "spliced"]

#: Crops keep at least this share of a row; half of the rows are crops; so many words are any of the vocabulary.
LEAST, CROPS, CHANGED = 0.3, 0.5, 0.2
#: What a batch may hold beside its mask, one value for each token.
TOKENS = ("input_ids", "token_type_ids")


def is_text(batch: Any) -> bool:
    """Whether a batch is a Mapping of tokens (input_ids, attention_mask, token_type_ids) and nothing else.

    Example:
        >>> import torch
        >>> is_text({"input_ids": torch.ones(2, 5, dtype=torch.long), "attention_mask": torch.ones(2, 5)})
        True
        >>> is_text(torch.ones(2, 5, dtype=torch.long))
        False
    """
    mask = attention_mask(batch)
    if mask is None or "input_ids" not in batch or not set(batch) <= {*TOKENS, "attention_mask"}:
        return False
    return len(mask) > 0 and all(batch[name].shape == mask.shape for name in TOKENS if name in batch)


def spliced(batch: Mapping[str, Tensor], rng: torch.Generator, words: int = 0) -> dict[str, Tensor]:
    """A batch of as many rows, each a crop of one of the batch or two of them joined, and some of its words any others.

    Args:
        batch: for which `is_text` holds; what is not counted by its mask does not matter.
        rng: of what is cut where, on the CPU.
        words: each token becomes with a chance of one in five any of those below this; 0 leaves them as they are.

    Returns:
        The same keys; rows of at most the batch's length, filled up where they were. A first or last token that all
        rows have in common (such as those that mark beginning and end) stays first or last.

    Example:
        >>> import torch
        >>> ids = torch.tensor([[1, 11, 12, 13, 14, 2], [1, 21, 22, 23, 2, 0]])
        >>> batch = {"input_ids": ids, "attention_mask": (ids > 0).long()}
        >>> spliced(batch, torch.Generator().manual_seed(0))["input_ids"]
        tensor([[ 1, 11, 21, 22, 23,  2],
                [ 1, 21, 14,  2,  0,  0]])
    """
    mask = batch["attention_mask"].bool()
    names = [name for name in TOKENS if name in batch]
    rows = [torch.stack([batch[name][k][mask[k]] for name in names]) for k in range(len(mask))]  # (names, length)
    full = [row for row in rows if row.shape[1]]
    head = _common([row[0, 0] for row in full])
    tail = _common([row[0, -1] for row in full]) if all(row.shape[1] > head for row in full) else 0
    inner = [row[:, head : row.shape[1] - tail] for row in rows]
    most = mask.shape[1] - head - tail
    made = []
    for k, (row, middle) in enumerate(zip(rows, inner, strict=True)):
        other = inner[(k + 1 + int(torch.randint(max(len(rows) - 1, 1), (), generator=rng))) % len(rows)]
        text = _mixed(middle, other, rng)[:, :most].clone()
        if words:
            hit = torch.rand(text.shape[1], generator=rng) < CHANGED
            text[0, hit] = torch.randint(words, (int(hit.sum()),), generator=rng).to(text)
        made.append(torch.cat([row[:, :head], text, row[:, row.shape[1] - tail :]], dim=1))
    return _batch(batch, names, made)


def _common(tokens: list[Tensor]) -> int:
    """1 if there are several, and all are the same."""
    return int(len(tokens) > 1 and all(bool(t == tokens[0]) for t in tokens))


def _mixed(row: Tensor, other: Tensor, rng: torch.Generator) -> Tensor:
    """A crop of the first, or its head and the other's tail; at least one token of each that has any."""
    kind, at, where = torch.rand(3, generator=rng).tolist()
    n, m = row.shape[1], other.shape[1]
    if kind < CROPS:
        size = max(1, round((LEAST + (1.0 - LEAST) * at) * n))
        start = int(where * (n - size + 1))
        return row[:, start : start + size]
    return torch.cat([row[:, : 1 + int(at * (n - 1))], other[:, int(where * m) :]], dim=1)


def _batch(batch: Mapping[str, Tensor], names: list[str], rows: list[Tensor]) -> dict[str, Tensor]:
    """Rows (names, length) filled up on the side where the batch was, in the order of its keys."""
    mask = batch["attention_mask"]
    length = max(1, max(row.shape[1] for row in rows))
    at_left = bool((mask[:, 0] == 0).any()) and not bool((mask[:, -1] == 0).any())
    made = {name: batch[name].new_full((len(rows), length), _filling(batch[name], mask)) for name in names}
    counts = mask.new_zeros((len(rows), length))
    for k, row in enumerate(rows):
        place = slice(length - row.shape[1], length) if at_left else slice(0, row.shape[1])
        counts[k, place] = 1
        for name, values in zip(names, row, strict=True):
            made[name][k, place] = values
    return {name: counts if name == "attention_mask" else made[name] for name in batch}


def _filling(values: Tensor, mask: Tensor) -> int:
    """What stands where nothing counts."""
    spare = values[mask == 0]
    return int(spare[0]) if len(spare) else 0
