"""Mixtures of experts whose matrices are stacked in two parameters, with each matrix as a linear layer.

Large mixtures keep `gate_up_proj` (E, 2F, D) and `down_proj` (E, D, F), and tokens go through
`down(act(gate x) * up x)` of the experts that the router has chosen. Which modules are such is told by what they
compute, not by names of classes: a small copy with random matrices must give what the open layer gives.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from torch import Tensor, nn

from tnkit.nn.forms.steps import is_traced
from tnkit.nn.layers.module import FactoredModule
from tnkit.nn.opening.base import OPENINGS, Memo, Opening, dense_linear, detached

__all__ = ["ExpertsOpening", "OpenExperts"]

#: Names of the stacked matrices, and of the arguments.
STACKED = ("gate_up_proj", "down_proj")
ARGUMENTS = ["self", "hidden_states", "top_k_index", "top_k_weights"]
#: Distinct sizes of a small copy are multiples of this.
SMALL = 8


class OpenExperts(nn.Module):
    """Linear layers `gate_up_0`, `down_0`, `gate_up_1` …, each of which may be compressed.

    Which tokens a layer is given depends on the router, so that two models need not agree in their number or order.
    While torch traces, compiles or exports, every expert sees every token and what was not chosen counts nothing.

    Attributes:
        num_experts: E.
        act_fn: of the gate.
    """

    def __init__(self, closed: nn.Module, parts: dict[str, nn.Module]) -> None:
        """From the closed layer's options and its matrices."""
        super().__init__()
        self.num_experts = int(closed.num_experts)  # type: ignore[arg-type]
        self.act_fn = closed.act_fn
        shell = _shallow(closed)
        shell._parameters = dict.fromkeys(STACKED)
        self._shell = (shell,)  # in a tuple it is no part of this module
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """What the chosen experts (N, k) give for tokens (N, D), weighed (N, k)."""
        if is_traced(hidden_states):
            return self._of_all(hidden_states, top_k_index, top_k_weights)
        total = torch.zeros_like(hidden_states)
        for k in top_k_index.unique().tolist():
            if 0 <= k < self.num_experts:
                token, place = torch.where(top_k_index == k)
                y = self._expert(k, hidden_states[token]) * top_k_weights[token, place, None]
                total = total.index_add(0, token, y.to(total.dtype))
        return total

    def _expert(self, k: int, x: Tensor) -> Tensor:
        act: Any = self.act_fn
        gate, up = getattr(self, f"gate_up_{k}")(x).chunk(2, dim=-1)
        y: Tensor = getattr(self, f"down_{k}")(act(gate) * up)
        return y

    def _of_all(self, x: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for k in range(self.num_experts):
            share = (weights * (index == k).to(weights)).sum(-1, keepdim=True)
            total = total + (self._expert(k, x) * share).to(total.dtype)
        return total


class ExpertsOpening(Opening):
    """Stacked experts, however their class is called."""

    dense = nn.Module
    open = OpenExperts

    def fits(self, layer: nn.Module) -> bool:
        """Whether it holds the two stacks and nothing else, and a small copy of it computes as the open layer."""
        stacks = [layer._parameters.get(name) for name in STACKED]
        if isinstance(layer, OpenExperts) or set(layer._parameters) != set(STACKED) or layer._buffers:
            return False
        if any(type(p) is not nn.Parameter or p.ndim != 3 for p in stacks) or not callable(
            getattr(layer, "act_fn", None)
        ):
            return False
        up, down = (tuple(p.shape) for p in stacks if p is not None)
        alike = up[0] == down[0] == getattr(layer, "num_experts", None) and up[1] == 2 * down[2] and up[2] == down[1]
        return alike and list(inspect.signature(type(layer).forward).parameters) == ARGUMENTS and _computes_so(layer)

    def opened(self, layer: Any, memo: Memo) -> nn.Module:
        """Two linear layers for each expert, over the stacks' memory."""
        parts: dict[str, nn.Module] = {}
        for k in range(layer.num_experts):
            for name, stack in (("gate_up", layer.gate_up_proj), ("down", layer.down_proj)):
                key = (id(stack), k)
                if key not in memo:
                    memo[key] = nn.Parameter(stack.detach()[k], stack.requires_grad)
                parts[f"{name}_{k}"] = dense_linear(memo[key], None)
        return OpenExperts(layer, parts)

    def closed(self, layer: OpenExperts) -> nn.Module:
        """The class that it was, with dense stacks."""
        made = _shallow(layer._shell[0])
        for name, part in zip(STACKED, ("gate_up", "down"), strict=True):
            parts = [getattr(layer, f"{part}_{k}") for k in range(layer.num_experts)]
            stack = torch.stack([_weight(p) for p in parts])
            made._parameters[name] = detached(stack, layer)
        return made.train(layer.training)


def _weight(part: nn.Module) -> Tensor:
    assert isinstance(part, nn.Linear | FactoredModule)
    return part.weight.detach()


def _shallow(layer: nn.Module) -> nn.Module:
    """Another module over the same parts, whose tables are its own."""
    made = copy.copy(layer)
    for table in ("_parameters", "_buffers", "_modules"):
        made.__dict__[table] = dict(layer.__dict__[table])
    return made


def _computes_so(layer: nn.Module) -> bool:
    """Whether a copy with small random matrices gives what the open one gives."""
    count, double, width = (int(n) for n in layer._parameters["gate_up_proj"].shape)  # type: ignore[union-attr]
    half = double // 2
    small = {n: SMALL * (k + 1) for k, n in enumerate(dict.fromkeys((width, half)))} | {count: count}
    if small.get(double, 2 * small[half]) != 2 * small[half]:
        return False  # sizes that stand for two things; too small to matter
    small[double] = 2 * small[half]
    made = _shallow(layer)
    for name, value in vars(layer).items():
        if type(value) is int and value in small:
            made.__dict__[name] = small[value]
    with torch.no_grad(), torch.device("cpu"):  # models are loaded where another device is the default
        rng, few = torch.Generator().manual_seed(0), small[count]
        shapes = ((few, 2 * small[half], small[width]), (few, small[width], small[half]))
        for name, shape in zip(STACKED, shapes, strict=True):
            values = torch.randn(shape, generator=rng, dtype=torch.float32) / shape[2] ** 0.5
            made._parameters[name] = nn.Parameter(values)
        x = torch.randn(6, small[width], generator=rng, dtype=torch.float32)
        index = torch.stack([torch.randperm(few, generator=rng)[:2] for _ in range(6)])
        weights = torch.rand(index.shape, generator=rng, dtype=torch.float32)
        try:
            wanted = made(x, index, weights)
        except Exception:  # whatever it does, it is not that
            return False
        found = ExpertsOpening().opened(made, {})(x, index, weights)
    return isinstance(wanted, Tensor) and wanted.shape == found.shape and torch.allclose(wanted, found, atol=1e-4)


OPENINGS.register("experts", ExpertsOpening())
