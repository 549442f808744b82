"""Lesson: how far a student is from a teacher, in its outputs and on the way in those of its blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tnkit.errors import DataError
from tnkit.nn.batches import attention_mask, evaluating, output_tensors, run_batch
from tnkit.nn.hooks import hooked

__all__ = ["Lesson"]

#: What the teacher says is kept for the next time its batch comes, up to this many bytes in all.
REMEMBER = 2**30


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """A student, a teacher, where they are compared, and what the teacher said of batches that come again."""

    student: nn.Module
    teacher: nn.Module
    blocks: list[str]
    block_weight: float
    said: dict[int, tuple[list[Tensor], dict[str, Tensor]]] = field(default_factory=dict)

    def wanted(self, batch: Any) -> tuple[list[Tensor], dict[str, Tensor]]:
        """The teacher's outputs, and those of its blocks; `batch` is one of a list that outlives this."""
        known = self.said.get(id(batch))
        if known is not None:
            return known
        with evaluating(self.teacher), _watched(self.teacher, self.blocks) as theirs:
            found = output_tensors(run_batch(self.teacher, batch, "recover")), theirs
        for (
            name,
            said,
        ) in theirs.items():  # to a part in 256, and half the room; the outputs themselves stay as they are
            theirs[name] = said.to(torch.bfloat16) if said.dtype == torch.float32 else said
        kept = sum(_n_bytes(*said) for said in self.said.values())
        if kept + _n_bytes(*found) <= REMEMBER:
            self.said[id(batch)] = found
        return found

    def loss(self, batch: Any) -> Tensor:
        """Error of the outputs, and the mean one of the blocks' outputs; with gradients, without dropout."""
        mask = attention_mask(batch)
        target, theirs = self.wanted(batch)
        with evaluating(self.student), torch.enable_grad(), _watched(self.student, self.blocks) as mine:
            loss = _output_error(run_batch(self.student, batch, "recover"), target, mask)
            parts = [_relative(mine[n], theirs[n], mask) for n in self.blocks if n in mine and n in theirs]
            return loss + self.block_weight * torch.stack(parts).mean() if parts else loss

    def error(self, batches: list[Any]) -> float:
        """Mean error of the outputs."""
        errors = []
        with evaluating(self.student):
            for batch in batches:
                mine, (theirs, _) = run_batch(self.student, batch, "recover"), self.wanted(batch)
                errors.append(float(_output_error(mine, theirs, attention_mask(batch))))
        return sum(errors) / len(errors)


def _n_bytes(outputs: list[Tensor], blocks: dict[str, Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in (*outputs, *blocks.values()))


@contextmanager
def _watched(model: nn.Module, names: list[str]) -> Iterator[dict[str, Tensor]]:
    """The first output tensor of these modules, by name, filled as they are called."""
    seen: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            tensors = output_tensors(output)
            if tensors:
                seen[name] = tensors[0]

        return hook

    handles = [model.get_submodule(name).register_forward_hook(watch(name)) for name in names]
    with hooked(handles):
        yield seen


def _relative(mine: Tensor, theirs: Tensor, mask: Tensor | None) -> Tensor:
    """Squared error as a share of the square of the teacher's, over the tokens that the mask counts."""
    wrong, whole = (mine.float() - theirs.float()).square(), theirs.float().square()
    if mask is not None and mine.ndim >= 3 and mask.shape == mine.shape[:2]:
        counts = mask.to(wrong).reshape(*mask.shape, *(1,) * (mine.ndim - 2))
        wrong, whole = wrong * counts, whole * counts
    return wrong.sum() / whole.sum().clamp_min(1e-12)


def _output_error(mine: Any, theirs: list[Tensor], mask: Tensor | None) -> Tensor:
    pairs = [(a, b) for a, b in zip(output_tensors(mine), theirs, strict=False) if a.shape == b.shape]
    if not pairs:
        raise DataError(
            "recover: the models give no floating-point outputs of equal shape. "
            "Give the model that this one was compressed from as teacher."
        )
    return torch.stack([_relative(a, b, mask) for a, b in pairs]).mean()
