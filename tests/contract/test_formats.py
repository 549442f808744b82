"""Every registered format passes the public checks, and the checks see what is wrong."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnkit as tk
from tnkit.formats import FORMAT_CLASSES, Network, operations
from tnkit.network import Topology
from tnkit.registry import FORMATS
from tnkit.testing import FORMAT_CHECKS, check_format
from tnkit.testing.strategies import dtypes, formats, shapes

EQUATIONS = ("ia,ajb,bk->ijk", "ir,jr,kr->ijk", "iabc,ajde,bdkf,cefl->ijkl", "ix,xj,xk->ijk", "ia,ja->ji", "ij,jk->ijk")


@pytest.mark.parametrize("name", FORMATS.names())
@settings(max_examples=6)
@given(data=st.data())
def test_checks_of_random_formats(name, data):
    check_format(data.draw(formats(name, shape=shapes(max_entries=300), dtype=dtypes())), compiled=False)


@pytest.mark.parametrize("equation", EQUATIONS)
def test_checks_of_networks(equation):
    topology = Topology.parse(equation)
    shape = tuple(3 + k % 2 for k in range(len(topology.output)))
    check_format(tk.random_format(equation, shape, rank=2, rng=0), compiled=equation == "ix,xj,xk->ijk")


def test_checks_of_a_network_with_constants():
    value = tk.random_format("tubal", (3, 4, 5), rank=2, rng=0)[:, 1:, 1:4:2]
    assert isinstance(value, Network)
    check_format(value)


@pytest.mark.parametrize("name", FORMATS.names())
def test_compile_and_export(name):
    shape = (4, 6, 3) if name in ("btt", "kron") else (5, 4, 3)
    value = tk.random_format(name, shape, rank=2, rng=0)
    FORMAT_CHECKS["compile"](value)
    FORMAT_CHECKS["export"](value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", FORMATS.names())
def test_half_types_are_computed_in_single_precision(name, dtype):
    value = tk.random_format(name, (4, 3, 5), rank=2, dtype=torch.float32, rng=0).to(dtype)
    assert torch.equal(value.to_dense(), value.to(torch.float32).to_dense().to(dtype))
    check_format(value, compiled=False)


class TestCompiled:
    """`torch.compile` sees structure, not only shapes."""

    def setup_method(self):
        torch.compiler.reset()

    def test_equal_shapes_of_different_structure(self):
        compiled = torch.compile(lambda value: value.to_dense(), fullgraph=True, backend="eager")
        nodes = [torch.randn(3, 3), torch.randn(3, 3)]
        for equation in ("ia,aj->ij", "ai,ja->ij", "ia,aj->ji"):
            value = Network.from_equation(equation, nodes)
            assert torch.equal(compiled(value), value.to_dense())
        for tree in ("linear", "balanced", ((0, 2), (1, 3))):
            value = tk.random_format(tk.HTSpec(tree), (3, 3, 3, 3), rank=2, rng=0)
            torch.testing.assert_close(compiled(value), value.to_dense())

    def test_sizes_that_change(self):
        compiled = torch.compile(lambda a, b: tk.TT((a, b)).to_dense(), fullgraph=True, backend="eager", dynamic=True)
        for n in (4, 5, 6):
            a, b = torch.randn(1, n, 2), torch.randn(2, n, 1)
            torch.testing.assert_close(compiled(a, b), tk.TT((a, b)).to_dense())

    def test_norms_and_inner_products(self):
        compiled = torch.compile(lambda a, b: a.norm() + a.inner(b), fullgraph=True, backend="eager")
        for name in ("tt", "cp", "tubal", "blast"):
            a, b = (tk.random_format(name, (4, 5, 3), rank=2, rng=k) for k in range(2))
            torch.testing.assert_close(compiled(a, b), a.norm() + a.inner(b))

    def test_plans_and_gradients(self):
        topology = Topology.parse("ia,ajb,bk->ijk")
        plan = tk.plan(topology, ((4, 2), (2, 5, 3), (3, 6)))
        nodes = [torch.randn(s, requires_grad=True) for s in plan.shapes]
        compiled = torch.compile(plan.run, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(nodes), plan.run(nodes))
        slopes = [torch.autograd.grad(f(nodes).square().sum(), nodes) for f in (compiled, plan.run)]
        for a, b in zip(*slopes, strict=True):
            torch.testing.assert_close(a, b)


def test_every_class_is_final_and_frozen():
    for name in FORMAT_CLASSES:
        cls = FORMAT_CLASSES.get(name)
        assert cls.__name__ == name
        assert dataclasses.is_dataclass(cls)
        assert not hasattr(cls, "__dict__") or "__dict__" not in cls.__slots__
        assert cls.__subclasses__() == [], f"{name} is not final"
    value = tk.random_format("tt", (3, 4), rank=2, rng=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.cores = ()


class TestTheChecksThemselves:
    """A format with a fault fails, and the message says where."""

    value = tk.random_format("tt", (3, 4, 5), rank=2, rng=0)

    def expect(self, monkeypatch, check, operation, wrong):
        monkeypatch.setattr(operation, "_table", {})
        monkeypatch.setattr(operation, "_generic", wrong)
        with pytest.raises(AssertionError, match=rf"check '{check}' of TT"):
            check_format(self.value, compiled=False)

    def test_wrong_entries(self, monkeypatch):
        self.expect(monkeypatch, "entries", operations.at, lambda v, i: torch.zeros(len(i), dtype=v.dtype))

    def test_a_wrong_sum(self, monkeypatch):
        self.expect(monkeypatch, "sums", operations.sum, lambda v, modes=None: v.to_dense().sum() * 1.001)

    def test_a_wrong_norm(self, monkeypatch):
        self.expect(monkeypatch, "products", operations.norm, lambda v: 2 * v.to_dense().norm())

    def test_a_wrong_product(self, monkeypatch):
        self.expect(monkeypatch, "arithmetic", operations.multiply, lambda a, b: a)
