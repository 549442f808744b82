"""Checks that any format and any method of tnkit passes, yours as well: plain asserts that say what was seen.

Example:
    >>> from tnkit.formats import random_format
    >>> from tnkit.testing import check_format
    >>> check_format(random_format("tt", (3, 4, 2), rank=2, rng=0), compiled=False)
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree

from tnkit.api import decompose
from tnkit.arrays import HALF, machine_eps
from tnkit.decompose import Method
from tnkit.formats import Format, FormatSpec, as_spec, load, save
from tnkit.registry import METHODS
from tnkit.rng import generator, normal

__all__ = ["FORMAT_CHECKS", "METHOD_CHECKS", "check_format", "check_method"]


def check_format(value: Format, *, compiled: bool = True) -> None:
    """Run every check of `FORMAT_CHECKS` on a format.

    Args:
        value: a format of moderate size; its dense tensor is made many times.
        compiled: whether `torch.compile` and `torch.export` are tried too, which takes seconds, and clears what
            `torch.compile` has compiled so far.

    Raises:
        AssertionError: a check fails; the message says which, and what was seen.
    """
    for name, check in FORMAT_CHECKS.items():
        if compiled or name not in ("compile", "export"):
            _named(name, repr(value), lambda check=check: check(value))  # type: ignore[misc]


def check_method(method: Method | str, format: str | FormatSpec, *, shape: tuple[int, ...] = (4, 5, 6)) -> None:
    """Run every check of `METHOD_CHECKS` on a method, fitting a format.

    Args:
        method: a method or its registered name.
        format: a name, a spec or an equation that it fits.
        shape: of the arrays.

    Raises:
        AssertionError: a check fails; the message says which, and what was seen.

    Example:
        >>> check_method("tt_svd", "tt")
    """
    chosen = METHODS.get(method)() if isinstance(method, str) else method
    spec = as_spec(format)
    for name, check in METHOD_CHECKS.items():
        _named(name, f"{chosen} on {spec}", lambda check=check: check(chosen, spec, shape))  # type: ignore[misc]


def _named(name: str, what: str, run: Callable[[], None]) -> None:
    try:
        run()
    except AssertionError as error:
        raise AssertionError(f"check {name!r} of {what}: {error}") from error


def _tolerance(dtype: torch.dtype) -> float:
    return 500.0 * machine_eps(dtype)


def _close(got: Any, want: Tensor, scale: float, what: str) -> None:
    """‖got − want‖ within rounding of `scale`."""
    dense = got.to_dense() if isinstance(got, Format) else torch.as_tensor(got)
    assert tuple(dense.shape) == tuple(want.shape), f"{what} has shape {tuple(dense.shape)}, not {tuple(want.shape)}"
    limit = max(_tolerance(want.dtype), _tolerance(dense.dtype)) * scale
    wide = torch.complex128 if want.is_complex() or dense.is_complex() else torch.float64
    difference = float(torch.linalg.vector_norm(dense.detach().to(wide) - want.detach().to(wide)))
    assert difference <= limit, f"{what} is off by {difference:.3g}, more than {limit:.3g}"


def _size(dense: Tensor) -> float:
    wide = torch.complex128 if dense.is_complex() else torch.float64
    return max(float(torch.linalg.vector_norm(dense.detach().to(wide))), 1e-300)


def _same_bits(a: Format, b: Format, what: str) -> None:
    assert type(a) is type(b), f"{what} gives a {type(b).__name__}"
    assert a.static() == b.static(), f"{what} changes the structure: {b.static()}"
    for k, (s, t) in enumerate(zip(a.tensors(), b.tensors(), strict=True)):
        assert s.dtype == t.dtype, f"{what} gives tensor {k} the dtype {t.dtype}"
        assert s.shape == t.shape, f"{what} gives tensor {k} the shape {tuple(t.shape)}"
        left, right = (u.detach().cpu().resolve_conj().contiguous().flatten().view(torch.uint8) for u in (s, t))
        assert torch.equal(left, right), f"{what} changes tensor {k}"


# --- formats ----------------------------------------------------------------------------------------------------------


def _check_facts(value: Format) -> None:
    dense = value.to_dense()
    assert tuple(dense.shape) == value.shape, f"to_dense() has shape {tuple(dense.shape)}, .shape says {value.shape}"
    assert value.ndim == len(value.shape)
    assert dense.dtype == value.dtype, f"to_dense() is {dense.dtype}, .dtype says {value.dtype}"
    assert dense.device == value.device
    stored = sum(t.numel() * (2 if t.is_complex() else 1) for t in value.tensors())
    assert value.n_params == stored, f".n_params is {value.n_params}, and {stored} real numbers are stored"
    assert len(value.ranks) == len(value.bonds())
    assert type(value).__name__ in repr(value)
    array = np.asarray(value)
    assert array.shape == value.shape
    _close(torch.from_numpy(array), dense, _size(dense), "np.asarray(value)")


def _check_pytree(value: Format) -> None:
    leaves, structure = _pytree.tree_flatten(value)
    assert len(leaves) == len(value.tensors()), f"{len(leaves)} leaves for {len(value.tensors())} tensors"
    _same_bits(value, _pytree.tree_unflatten(leaves, structure), "flatten and unflatten")
    other = _pytree.tree_map(lambda t: object(), value)
    assert type(other) is type(value), "unflattening with other leaves gives another class"
    assert isinstance(repr(other), str)


def _check_moves(value: Format) -> None:
    device = value.device
    _same_bits(value, value.to(device), "to(device)")
    assert value.to(device).tensors()[0].device == device
    wide = torch.complex128 if value.dtype.is_complex else torch.float64
    assert value.to(wide).dtype == wide, f"to({wide}) gives {value.to(wide).dtype}"
    tracked = value.requires_grad()
    assert all(t.requires_grad for t in tracked.tensors())
    _same_bits(value, tracked.detach(), "detach()")
    assert not any(t.requires_grad for t in tracked.detach().tensors())
    copy = value.clone()
    _same_bits(value, copy, "clone()")
    shared = {t.data_ptr() for t in value.tensors()} & {t.data_ptr() for t in copy.tensors()}
    assert not shared, "clone() shares memory"
    _same_bits(value, value.with_tensors(value.tensors()), "with_tensors(tensors())")
    meta = value.to("meta")
    assert meta.shape == value.shape
    assert meta.to_dense().device.type == "meta", "to_dense() of meta tensors makes something on another device"


def _check_entries(value: Format) -> None:
    if value.dtype in HALF:
        return
    dense = value.to_dense()
    gen = generator(1)
    columns = [torch.randint(-n, n, (11,), generator=gen) for n in value.shape]
    indices = torch.stack(columns, 1)
    want = dense[tuple(column.to(dense.device) for column in columns)]
    _close(value.at(indices), want, _size(dense), "at(indices)")
    _close(value.at(indices.numpy()), want, _size(dense), "at(NumPy indices)")
    _close(value[tuple(int(i) for i in indices[0])], want[0], _size(dense), "value[integers]")
    assert value.at(indices[:0]).shape == (0,), "at() of no indices is not empty"


def _check_slices(value: Format) -> None:
    if value.dtype in HALF:
        return
    dense = value.to_dense()
    last = value.shape[-1]
    keys: list[Any] = [..., (..., -1), (slice(0, (value.shape[0] + 1) // 2),), (..., slice(last // 2, None))]
    keys.append(tuple(n // 2 if k % 2 else slice(None, None, 2) for k, n in enumerate(value.shape)))
    for key in keys:
        _close(value[key], dense[key], _size(dense), f"value[{key}]")


def _check_sums(value: Format) -> None:
    if value.dtype in HALF:
        return
    dense = value.to_dense()
    scale = _size(dense) * prod(value.shape) ** 0.5
    _close(value.sum(), dense.sum(), scale, "sum()")
    for mode in range(-1, value.ndim - 1):
        _close(value.sum(mode), dense.sum(mode), scale, f"sum({mode})")
    if value.ndim > 2:
        _close(value.sum((0, -1)), dense.sum((0, -1)), scale, "sum((0, -1))")


def _check_products(value: Format) -> None:
    if value.dtype in HALF:
        return
    dense = value.to_dense()
    size = _size(dense)
    other = value.with_tensors([t.flip(0) for t in value.tensors()])
    twin = other.to_dense()
    want = torch.linalg.vecdot(dense.flatten(), twin.flatten())
    _close(value.inner(other), want, size * _size(twin), "inner(other)")
    _close(value.inner(value), want.new_tensor(size**2), size**2, "inner(itself)")
    squared = float(value.norm()) ** 2
    assert abs(squared - size**2) <= _tolerance(dense.dtype) * size**2, f"norm() is {squared**0.5}, not {size}"


def _check_arithmetic(value: Format) -> None:
    if value.dtype in HALF:
        return
    dense = value.to_dense()
    other = value.with_tensors([t.flip(0) * 0.5 for t in value.tensors()])
    twin = other.to_dense()
    both = _size(dense) + _size(twin)
    _close(value + other, dense + twin, both, "value + other")
    _close(value - other, dense - twin, both, "value - other")
    _close(value - value, torch.zeros_like(dense), 2 * _size(dense), "value - value")
    _close(value * other, dense * twin, _size(dense) * _size(twin), "value * other")
    _close(2.5 * value, 2.5 * dense, 2.5 * _size(dense), "2.5 * value")
    _close(-value / 4, -dense / 4, _size(dense), "-value / 4")
    network = value.to_network() if value.view() is None else None
    if network is not None:
        _close(network, dense, _size(dense), "to_network()")
        _close(value + network, 2 * dense, 2 * _size(dense), "value + network")
        _close(value * network, dense * dense, _size(dense) ** 2, "value * network")
    matrix = normal((value.shape[-1], 2), dense, generator(2, dense.device))
    _close(value @ matrix, dense @ matrix, _size(dense) * _size(matrix), "value @ matrix")


def _check_files(value: Format) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "value.safetensors")
        save(value, path)
        found = load(path, device=value.device)
        assert [p.name for p in Path(folder).iterdir()] == [path.name], "save leaves other files behind"
        _same_bits(value, found, "save and load")


def _check_vmap(value: Format) -> None:
    stacked = _pytree.tree_map(lambda t: torch.stack([t, 2 * t, -t]), value)
    dense: Tensor = torch.vmap(lambda one: one.to_dense())(stacked)
    for k, factor in enumerate((1, 2, -1)):
        want = value.with_tensors([factor * t for t in value.tensors()]).to_dense()
        _close(dense[k], want, _size(want), f"vmap(to_dense)[{k}]")
    if value.dtype not in HALF:
        norms = torch.vmap(lambda one: one.norm())(stacked)
        _close(norms[0], value.norm(), float(value.norm()) + 1e-300, "vmap(norm)[0]")


def _check_grad(value: Format) -> None:
    if value.dtype in HALF:
        return
    weights = normal(value.shape, value.tensors()[0], generator(3, value.device))

    def loss(one: Format) -> Tensor:
        return (one.to_dense() * weights).abs().square().sum()

    slopes = torch.func.grad(loss)(value)
    assert type(slopes) is type(value), f"torch.func.grad gives a {type(slopes).__name__}"
    tracked = value.requires_grad()
    loss(tracked).backward()
    for k, (slope, t) in enumerate(zip(slopes.tensors(), tracked.tensors(), strict=True)):
        assert t.grad is not None, f"no gradient reaches tensor {k}"
        _close(slope, t.grad, _size(t.grad), f"torch.func.grad of tensor {k}")


def _dense_of(value: Format) -> Tensor:
    return value.to_dense()


def _check_compile(value: Format) -> None:
    torch.compiler.reset()
    dense = torch.compile(_dense_of, fullgraph=True, backend="eager")(value)
    _close(dense, value.to_dense(), _size(value.to_dense()), "torch.compile(to_dense)")


class _Dense(torch.nn.Module):
    def forward(self, value: Format) -> Tensor:
        return value.to_dense()


def _check_export(value: Format) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations
        exported = torch.export.export(_Dense(), (value,)).module()
    _close(exported(value), value.to_dense(), _size(value.to_dense()), "torch.export of to_dense")


#: The checks of a format, by name; each takes the format and raises AssertionError.
FORMAT_CHECKS: dict[str, Callable[[Format], None]] = {
    "facts": _check_facts,
    "pytree": _check_pytree,
    "moves": _check_moves,
    "entries": _check_entries,
    "slices": _check_slices,
    "sums": _check_sums,
    "products": _check_products,
    "arithmetic": _check_arithmetic,
    "files": _check_files,
    "vmap": _check_vmap,
    "grad": _check_grad,
    "compile": _check_compile,
    "export": _check_export,
}


# --- methods ----------------------------------------------------------------------------------------------------------


def _example(shape: tuple[int, ...], spec: FormatSpec) -> Tensor:
    """A smooth array with a little noise, whose norm is not 1."""
    grids = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in shape), indexing="ij")
    smooth = 7.0 / (1.0 + torch.stack(grids).sum(0))
    return smooth + 1e-3 * normal(shape, smooth, generator(5))


def _true_error(x: Tensor, value: Format) -> float:
    return float(torch.linalg.vector_norm(x - value.to_dense()) / torch.linalg.vector_norm(x))


def _check_report(x: Tensor, report: Any) -> float:
    """The true error, after the reported one was held against it."""
    true = _true_error(x, report.tensor)
    if report.error_kind == "bound":
        assert report.rel_error >= true * (1 - 1e-9) - 1e-14, f"the bound {report.rel_error:.4g} is below {true:.4g}"
    elif report.error_kind == "exact":
        off = abs(report.rel_error - true)
        assert off <= 0.01 * true + 1e-14, f"the reported error is {report.rel_error:.6g}, the true one {true:.6g}"
    return true


def _check_rank(method: Method, spec: FormatSpec, shape: tuple[int, ...]) -> None:
    x = _example(shape, spec)
    report = decompose(x, spec, rank=2, method=method)
    assert report.tensor.shape == shape
    assert all(r <= 2 for r in report.tensor.ranks), f"rank=2 gives ranks {report.tensor.ranks}"
    assert _check_report(x, report) <= 1.0 + 1e-9, "the result is worse than nothing"


def _check_eps(method: Method, spec: FormatSpec, shape: tuple[int, ...]) -> None:
    x = _example(shape, spec)
    for eps in (0.3, 0.05):
        report = decompose(x, spec, eps=eps, method=method)
        true = _check_report(x, report)
        assert true <= eps * (1 + 1e-9) or not report.status.ok, (
            f"eps={eps} is missed ({true:.4g}), and no status says so"
        )


def _check_budget(method: Method, spec: FormatSpec, shape: tuple[int, ...]) -> None:
    x = _example(shape, spec)
    layout = spec.layout(shape)
    limit = 2 * layout.n_params((1,) * len(layout.bonds))
    report = decompose(x, spec, budget=limit, method=method)
    _check_report(x, report)
    assert report.tensor.n_params <= limit, f"a budget of {limit} numbers gives {report.tensor.n_params}"


def _check_determinism(method: Method, spec: FormatSpec, shape: tuple[int, ...]) -> None:
    x = _example(shape, spec)
    first, second = (decompose(x, spec, rank=2, method=method, rng=4).tensor for _ in range(2))
    _same_bits(first, second, "the same call with the same rng")
    if method.deterministic:
        other = decompose(x, spec, rank=2, method=method, rng=5).tensor
        _same_bits(first, other, "another rng (the method says that it is deterministic)")


def _check_scale(method: Method, spec: FormatSpec, shape: tuple[int, ...]) -> None:
    x = _example(shape, spec)
    plain = decompose(x, spec, eps=0.1, method=method, rng=4)
    scaled = decompose(1024.0 * x, spec, eps=0.1, method=method, rng=4)
    assert plain.tensor.ranks == scaled.tensor.ranks, (
        f"1024·x has ranks {scaled.tensor.ranks}, not {plain.tensor.ranks}"
    )
    want = 1024.0 * plain.tensor.to_dense()
    off = float(torch.linalg.vector_norm(scaled.tensor.to_dense() - want) / torch.linalg.vector_norm(want))
    if plain.history and scaled.history:  # rounding may lead iterations to another minimum, of which eps is asked too
        assert abs(_true_error(x, plain.tensor) - _true_error(1024.0 * x, scaled.tensor)) <= 0.1
    else:
        assert off <= 1e-6, f"the result of 1024·x is off by {off:.3g}"


def _check_input(method: Method, spec: FormatSpec, shape: tuple[int, ...]) -> None:
    x = _example(shape, spec)
    wide = x.new_zeros((*shape, 2))
    wide[..., 0] = x
    strided = wide[..., 0]
    kept = x.clone()
    plain = decompose(x, spec, rank=2, method=method).tensor
    other = decompose(strided, spec, rank=2, method=method).tensor
    assert torch.equal(x, kept), "the caller's tensor was changed"
    assert torch.equal(strided, kept), "the caller's tensor was changed"
    _close(other, plain.to_dense(), 1e6 * _size(kept), "the result from memory that is not contiguous")
    array = x.numpy()
    array.flags.writeable = False
    decompose(array, spec, rank=2, method=method)


#: The checks of a method, by name; each takes the method, a spec and a shape, and raises AssertionError.
METHOD_CHECKS: dict[str, Callable[[Method, FormatSpec, tuple[int, ...]], None]] = {
    "rank": _check_rank,
    "eps": _check_eps,
    "budget": _check_budget,
    "determinism": _check_determinism,
    "scale": _check_scale,
    "input": _check_input,
}
