"""What of a model's outputs counts: numbers as they are, or the probabilities that logits stand for.

Logits are read as ψ = 2√softmax: equal steps of ψ are equal steps in what the model says (the Fisher–Rao metric), and
‖ψ − ψ'‖² is twice the Kullback–Leibler divergence for small steps.

References:
    Amari, Natural gradient works efficiently in learning (1998), doi:10.1162/089976698300017746.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from tnkit.errors import OptionError
from tnkit.nn.batches import output_tensors

__all__ = ["OUTPUTS", "Outputs", "felt_outputs", "require_outputs"]

Outputs: TypeAlias = Literal["auto", "values", "logits"]
OUTPUTS = ("auto", "values", "logits")


def require_outputs(outputs: str, who: str) -> None:
    """Refuse other words.

    Raises:
        OptionError: it is one.
    """
    if outputs not in OUTPUTS:
        raise OptionError(f"{who}: outputs={outputs!r}. Use one of {', '.join(map(repr, OUTPUTS))}.")


def felt_outputs(model: nn.Module, output: Any, outputs: Outputs = "auto") -> list[Tensor]:
    """The floating-point tensors of an output, logits as ψ = 2√softmax along the last axis.

    Args:
        model: that gave it.
        output: a tensor, or whatever holds tensors.
        outputs: "values" takes them as they are, "logits" as logits; "auto" takes as logits what a Mapping calls so,
            and what is as wide as a table of the model has rows (a language model's scores of its tokens).

    Example:
        >>> import torch
        >>> from tnkit.nn.outputs import felt_outputs
        >>> felt_outputs(torch.nn.Identity(), torch.zeros(1, 4), "logits")
        [tensor([[1., 1., 1., 1.]])]
    """
    found = output_tensors(output)
    if outputs == "values":
        return found
    named = output.get("logits") if isinstance(output, Mapping) else None
    if isinstance(named, Tensor) and named.ndim >= 2 and named.shape[-1] > 1:
        return [_psi(named)]
    if outputs == "logits":
        return [_psi(t) for t in found]
    sizes = {m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)}
    return [_psi(t) if t.ndim >= 2 and t.shape[-1] in sizes else t for t in found]


def _psi(logits: Tensor) -> Tensor:
    """2√softmax, with gradients that stay finite where a probability is 0."""
    return 2.0 * torch.exp(0.5 * logits.float().log_softmax(-1))
