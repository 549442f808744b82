"""Sensitivity: how much the model's outputs feel an error in a layer's output; no labels and no loss are needed.

For outputs f and signs z drawn at random, the gradient g of ⟨z, f⟩ with respect to a layer's output y has
E[g gᵀ] = E[Jᵀ J], J = ∂f/∂y: the metric in which an error δy of the layer moves the model's outputs, ‖J δy‖². With the
Gram matrix of the inputs it is the Kronecker-factored Gauss-Newton metric of the layer's weight.

References:
    Martens and Grosse, Optimizing neural networks with Kronecker-factored approximate curvature, arXiv 1503.05671.
    Hutchinson (1990), doi:10.1080/03610919008812866 (random signs).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tnkit.errors import DataError
from tnkit.nn.batches import run_batch
from tnkit.nn.layers.recipe import Recipe
from tnkit.nn.opening import owners
from tnkit.nn.outputs import Outputs, felt_outputs
from tnkit.nn.stats import InputStats

__all__ = ["Sensitivity", "Site"]

#: Layers with more outputs, such as the head of a language model, have no matrix of gradients: it would not fit.
WIDEST = 8192
#: Signs are drawn this often where a model gives far fewer outputs than its layers have rows (one vector for a text).
DRAWS = 4


@dataclass(frozen=True, slots=True)
class Site:
    """A layer to be watched.

    Attributes:
        layer: the module.
        recipe: says what its rows are.
        moments: whether the Gram matrix is wanted; the input's shape is noted in any case.
    """

    layer: nn.Module
    recipe: Recipe
    moments: bool = True


class Sensitivity:
    """Adds up E[g gᵀ] over batches, for every layer in one backward pass each.

    Attributes:
        note: why it stopped, or "" while it works.
    """

    def __init__(self, model: nn.Module, sites: Mapping[str, Site], outputs: Outputs = "auto") -> None:
        """Nothing is run yet.

        Args:
            model: whose outputs count.
            sites: layers by name.
            outputs: what of them counts, see `tnkit.nn.outputs`.
        """
        self.note = ""
        self._model, self._sites, self._outputs = model, sites, outputs
        self._signs = torch.Generator().manual_seed(0)
        self._found: dict[str, InputStats] = {}

    def found(self) -> dict[str, InputStats]:
        """Moments of the gradients by layer name; empty if a batch could not be differentiated."""
        return {} if self.note else self._found

    def add(self, batch: Any, mask: Tensor | None) -> None:
        """One batch more. A model that cannot be differentiated is no error: the note says so, and nothing is found."""
        if self.note:
            return
        probes: list[tuple[str, Tensor]] = []

        def watch(name: str) -> Any:
            def hook(module: nn.Module, args: Any, output: Any) -> Any:
                first, rest = (output[0], output[1:]) if isinstance(output, tuple) else (output, None)
                if not isinstance(first, Tensor) or first.is_nested:
                    return output
                probe = torch.zeros_like(first, requires_grad=True)
                probes.append((name, probe))
                return first + probe if rest is None else (first + probe, *rest)

            return hook

        attentions = owners(self._model)  # their output is that of their out_proj
        handles = [
            attentions.get(id(site.layer), site.layer).register_forward_hook(watch(name))
            for name, site in self._sites.items()
        ]
        try:
            with torch.enable_grad():
                said = felt_outputs(self._model, run_batch(self._model, batch), self._outputs)
                outputs = [t for t in said if t.requires_grad]
                if not outputs:
                    raise DataError("no output depends on a layer in scope")
                for left in reversed(range(_draws(outputs, [p for _, p in probes]))):
                    signs = [self._random_signs(t, mask) for t in outputs]
                    gradients = torch.autograd.grad(
                        outputs, [p for _, p in probes], signs, retain_graph=left > 0, allow_unused=True
                    )
                    for (name, _), g in zip(probes, gradients, strict=True):
                        if g is not None and g.shape[-1] <= WIDEST:
                            self._take(name, g, mask)
        except (RuntimeError, DataError) as error:
            self.note = (
                f"the model could not be differentiated ({str(error).splitlines()[0]}), so layers weigh the same"
            )
            return
        finally:
            for handle in handles:
                handle.remove()

    def _random_signs(self, t: Tensor, mask: Tensor | None) -> Tensor:
        signs = torch.randint(0, 2, t.shape, generator=self._signs).to(t) * 2 - 1
        if mask is not None and t.ndim >= 2 and mask.shape == t.shape[:2]:
            signs = signs * mask.to(t).reshape(*mask.shape, *(1,) * (t.ndim - 2))
        return signs

    def _take(self, name: str, g: Tensor, mask: Tensor | None) -> None:
        site = self._sites[name]
        on_device = None if mask is None else mask.to(g.device)
        one = InputStats.of(site.recipe.kind.output_rows(site.layer, g, on_device))
        if bool(torch.isfinite(one.gram).all()):
            self._found[name] = self._found[name] + one if name in self._found else one


def _draws(outputs: list[Tensor], inside: list[Tensor]) -> int:
    """How often signs are drawn: the gradients of one draw are alike where many rows feed one output."""
    vectors = sum(t.shape[:-1].numel() for t in outputs)
    return DRAWS if max(t.shape[:-1].numel() for t in inside) > 2 * vectors else 1
