"""cotengra as a finder of contraction orders."""

import pytest
import torch

import tnkit as tk
import tnkit.interop.cotengra  # registers the provider
from tnkit.interop.cotengra import CotengraPaths
from tnkit.network import Topology, contract, plan
from tnkit.registry import PROVIDERS

EQUATIONS = {
    "ia,ajb,bk->ijk": {},
    "ir,jr,kr,r->ijk": {},
    "iar,ijr,jbr->iajb": {},
    "a->a": {},
    "ab,bc->ac": {},
    "ab,cd->abcd": {},
    "abc,ade,bdf,cef->": {},
    "xay,ybz,zcw,wdx,ae,be,ce,de->e": {},
}


@pytest.mark.parametrize("equation", EQUATIONS)
def test_values(equation):
    topology = Topology.parse(equation)
    sizes = {label: 2 + k % 3 for k, label in enumerate(topology.labels)}
    gen = torch.Generator().manual_seed(0)
    nodes = [torch.randn(shape, generator=gen, dtype=torch.float64) for shape in topology.shapes(sizes)]
    found = contract(topology, nodes, optimize="cotengra")
    torch.testing.assert_close(found, contract(topology, nodes))


def test_the_same_path_every_time_and_no_worse_than_greedy():
    d = 14
    inputs = tuple((f"r{k}", f"s{k}", f"r{k + 1}") for k in range(d)) * 2
    renamed = tuple(tuple(label.replace("r", "q") for label in labels) for labels in inputs[d:])
    topology = Topology(inputs[:d] + renamed, ("r0", "q0", f"r{d}", f"q{d}"))
    shapes = topology.shapes({label: 6 if label[0] in "rq" else 3 for label in topology.labels})
    found = plan(topology, shapes, "cotengra")
    greedy = plan(topology, shapes, "greedy")
    assert found.flops <= greedy.flops
    terms = [frozenset(labels) for labels in topology.inputs]
    sizes = topology.sizes(shapes)
    paths = [CotengraPaths()(terms, frozenset(topology.output), sizes) for _ in range(2)]
    assert paths[0] == paths[1]


def test_it_is_a_provider():
    assert "path:cotengra" in PROVIDERS
    assert isinstance(PROVIDERS.get("path:cotengra")(), CotengraPaths)
    assert issubclass(tk.MissingExtraError, ImportError)
