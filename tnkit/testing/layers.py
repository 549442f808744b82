"""Checks that any layer type in any specification passes, yours as well: plain asserts that say what was seen.

Example:
    >>> import torch
    >>> from tnkit import nn as tnn
    >>> from tnkit.testing import check_layer
    >>> check_layer(torch.nn.Linear(6, 5), tnn.LowRankLayer(rank=2), torch.ones(3, 6), compiled=False)
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tnkit.arrays import HALF
from tnkit.nn import FactoredModule, LayerResult, LayerSpec, compress_layer, load, materialize, save

__all__ = ["LAYER_CHECKS", "check_layer"]

Checked = Callable[[nn.Module, LayerResult, tuple[Any, ...]], None]


def check_layer(layer: nn.Module, spec: LayerSpec, *args: Any, compiled: bool = True) -> None:
    """Run every check of `LAYER_CHECKS` on a layer in a specification.

    Args:
        layer: a dense layer with one weight.
        spec: with a rank, keep or max_error.
        args: of its forward.
        compiled: whether `torch.compile` and `torch.export` are tried too, which takes seconds.

    Raises:
        AssertionError: a check fails; the message says which, and what was seen.
    """
    result = compress_layer(layer, spec)
    result.module.execution = "factored"
    for name, check in LAYER_CHECKS.items():
        if compiled or name not in ("compile", "export"):
            try:
                check(layer, result, args)
            except AssertionError as error:
                raise AssertionError(f"check {name!r} of {type(layer).__name__} in {spec!r}: {error}") from error


def _tolerance(module: FactoredModule[Any]) -> float:
    dtype = next(module.parameters()).dtype
    eps = float(torch.finfo(dtype).eps)
    return 100.0 * (eps if dtype in HALF else eps**0.75)


def _dense(module: nn.Module) -> nn.Module:
    """The dense layer that a compressed one stands for."""
    made: Any = materialize(nn.Sequential(module))
    found: nn.Module = made[0]
    return found


def _close(got: Tensor, want: Tensor, tol: float, what: str) -> None:
    assert got.shape == want.shape, f"{what} has shape {tuple(got.shape)} and not {tuple(want.shape)}"
    assert got.dtype == want.dtype, f"{what} is {got.dtype} and not {want.dtype}"
    a, b = got.detach().double(), want.detach().double()
    wrong, size = float((a - b).norm()), max(float(b.norm()), 1e-6)
    assert wrong <= tol * size, f"{what} is wrong by {wrong / size:.3g}, more than {tol:.3g}"


def check_output(layer: nn.Module, result: LayerResult, args: tuple[Any, ...]) -> None:
    """The factors, the dense weight and the dense layer that is given back compute the same."""
    module, tol = result.module, _tolerance(result.module)
    dense = _dense(module)
    assert not isinstance(dense, FactoredModule), "materialize gives no dense layer"
    want = dense(*args)
    for execution in ("factored", "materialized", "auto"):
        module.execution = execution
        _close(module(*args), want, tol, f"the output, {execution},")
    module.execution = "factored"
    assert layer(*args).shape == want.shape, "the output has another shape than the layer's"


def check_weight(layer: nn.Module, result: LayerResult, args: tuple[Any, ...]) -> None:
    """The module's weight is that of the format, and as far from the layer's as the report says."""
    module, tol = result.module, _tolerance(result.module)
    _close(module.weight, result.format.to_dense().to(module.weight), tol, "weight")
    exact = layer.weight
    assert isinstance(exact, Tensor)
    wrong = float((module.weight - exact).detach().double().norm() / exact.detach().double().norm())
    assert abs(wrong - result.report.rel_error) <= tol + 1e-3 * wrong, f"the error is {wrong:.4g}: {result.report}"


def check_counts(layer: nn.Module, result: LayerResult, args: tuple[Any, ...]) -> None:
    """Reported parameters are those that are there."""
    real = sum(p.numel() for p in result.module.parameters())
    assert result.report.params_after == real, f"{real} parameters, reported {result.report.params_after}"


def check_face(layer: nn.Module, result: LayerResult, args: tuple[Any, ...]) -> None:
    """Every public attribute of the layer is there, and the same."""
    for name, value in layer.__dict__.items():
        if name.startswith("_") or name == "training":
            continue
        assert hasattr(result.module, name), f"there is no {name}"
        assert getattr(result.module, name) == value, f"{name} is {getattr(result.module, name)!r} and not {value!r}"
    assert result.module.weight.shape == layer.weight.shape, "weight has another shape"
    assert (getattr(layer, "bias", None) is None) == (result.module.bias is None), "one has a bias, the other has none"


def check_gradients(layer: nn.Module, result: LayerResult, args: tuple[Any, ...]) -> None:
    """Every parameter gets a finite gradient, by the output and by the weight."""
    module = copy.deepcopy(result.module)
    for value in (module(*args).square().sum(), module.weight.square().sum()):
        module.zero_grad()
        value.backward()
        for name, p in module.named_parameters():
            skipped = name == "bias" or p.numel() == 0
            assert skipped or p.grad is not None, f"{name} has no gradient"
            assert p.grad is None or bool(p.grad.isfinite().all()), f"the gradient of {name} is not finite"


def check_copies(layer: nn.Module, result: LayerResult, args: tuple[Any, ...]) -> None:
    """A deep copy, a state dict and a file give the same numbers."""
    module = result.module
    want = module(*args)
    _close(copy.deepcopy(module)(*args), want, 0.0, "the output of a deep copy")
    fresh = type(module).from_config(module.config(), want.dtype)
    fresh.load_state_dict(module.state_dict())
    _close(fresh(*args), want, 0.0, "the output after load_state_dict")
    with tempfile.TemporaryDirectory() as folder:
        path = save(nn.Sequential(module), Path(folder) / "layer.safetensors")
        again: Any = load(path, base=nn.Sequential(layer))
    _close(again[0](*args), want, 0.0, "the output of what was saved")


def check_export(layer: nn.Module, result: LayerResult, args: tuple[Any, ...]) -> None:
    """torch.export gives the same numbers."""
    exported = torch.export.export(result.module, args).module()
    _close(exported(*args), result.module(*args), _tolerance(result.module), "the exported output")


def check_compile(layer: nn.Module, result: LayerResult, args: tuple[Any, ...]) -> None:
    """torch.compile takes the layer as one graph."""
    torch.compiler.reset()
    compiled = torch.compile(result.module, fullgraph=True, backend="eager")
    _close(compiled(*args), result.module(*args), _tolerance(result.module), "the compiled output")


#: By name; each takes the layer, the result of compressing it, and arguments of its forward.
LAYER_CHECKS: dict[str, Checked] = {
    "output": check_output,
    "weight": check_weight,
    "counts": check_counts,
    "face": check_face,
    "gradients": check_gradients,
    "copies": check_copies,
    "export": check_export,
    "compile": check_compile,
}
