"""Sums and products of networks, on the graph."""

import pytest
import torch

from tnkit.errors import ShapeError
from tnkit.formats import EquationSpec, random_format
from tnkit.network import Topology, block_sum, block_topology, contract, hadamard, kron_nodes, select

EQUATIONS = (
    "ia,ajb,bk->ijk",
    "pia,ajb,bkp->ijk",
    "abc,ia,jb,kc->ijk",
    "r,ir,jr,kr->ijk",
    "tabc,tia,tjb,tkc->ijk",
    "iar,ijr,jbr->iajb",
    "rap,rbq->abpq",
    "i,j->ij",
    "ij->ij",
    "ix,xj,k->ijk",
    "ij,jk->ijk",
)


def pair(equation):
    topology = Topology.parse(equation)
    shape = tuple(3 + k % 2 for k in range(len(topology.output)))
    return topology, *(random_format(EquationSpec(topology), shape, 2, rng=seed).tensors() for seed in (0, 1))


@pytest.mark.parametrize("equation", EQUATIONS)
def test_sums(equation):
    topology, a, b = pair(equation)
    linked, nodes = block_sum(topology, a, b)
    assert linked == block_topology(topology)
    torch.testing.assert_close(contract(linked, nodes), contract(topology, a) + contract(topology, b))


@pytest.mark.parametrize("equation", EQUATIONS)
def test_products(equation):
    topology, a, b = pair(equation)
    product = contract(topology, hadamard(topology, a, b))
    torch.testing.assert_close(product, contract(topology, a) * contract(topology, b))


def test_ranks_add_and_multiply():
    topology, a, b = pair("ia,ajb,bk->ijk")
    assert [tuple(t.shape) for t in block_sum(topology, a, b)[1]] == [(3, 4), (4, 4, 4), (4, 3)]
    assert [tuple(t.shape) for t in hadamard(topology, a, b)] == [(3, 4), (4, 4, 4), (4, 3)]


def test_one_hyperedge_is_enough():
    topology, a, b = pair("tabc,tia,tjb,tkc->ijk")
    nodes = block_sum(topology, a, b)[1]
    assert tuple(nodes[0].shape) == (4, 2, 2, 2)


def test_parts_that_hang_together_by_nothing_get_a_link():
    topology, a, b = pair("i,j->ij")
    linked, nodes = block_sum(topology, a, b)
    assert linked != topology
    assert [tuple(t.shape) for t in nodes] == [(3, 2), (4, 2)]


def test_open_sizes_must_be_equal():
    topology, a, b = pair("ia,ajb,bk->ijk")
    with pytest.raises(ShapeError, match=r"Cannot add: mode 'i' has size 2 in one and 3 in the other"):
        block_sum(topology, (a[0][:2], *a[1:]), b)


def test_mixed_dtypes_take_the_wider():
    topology, a, b = pair("ia,ajb,bk->ijk")
    nodes = block_sum(topology, a, [t.cfloat() for t in b])[1]
    assert nodes[0].dtype == torch.complex128


def test_kronecker_of_nodes():
    x, y = torch.randn(2, 3), torch.randn(4, 3)
    found = kron_nodes(x, y, (True, False))
    want = torch.einsum("ab,cb->acb", x, y).reshape(8, 3)
    torch.testing.assert_close(found, want)


def test_selection():
    t = torch.arange(24.0).reshape(2, 3, 4)
    assert torch.equal(select(t, (1, (0, 2), (0, 1, 2, 3))), t[1][[0, 2]])
    assert select(t, ((0, 1), (0, 1, 2), (0, 1, 2, 3))).data_ptr() == t.data_ptr()
