"""Contraction against numpy.einsum and opt_einsum: hyperedges, many labels, plans and their counts."""

import dataclasses

import numpy as np
import opt_einsum
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tnkit as tk
from tnkit.network import DFT, Topology, contract, environment, gram_topology, plan
from tnkit.network.plan import Step
from tnkit.rng import generator, normal

EQUATIONS = (
    "ia,ajb,bk->ijk",
    "pia,ajb,bkp->ijk",
    "abc,ia,jb,kc->ijk",
    "r,ir,jr,kr->ijk",
    "tabc,tia,tjb,tkc->ijk",
    "jlkp,kjpi->ljki",
    "iar,ijr,jbr->iajb",
    "rap,rbq->abpq",
    "ij->ij",
    "ij->ji",
    "ij->i",
    "ij->",
    "i,j->ij",
    "i,i->i",
    "i,i,i->",
    "ab,bc,ca->",
    "ab,bc,cd,de,ea->",
    "a,ab,b->",
    "abc,abc->abc",
    "x,ix->i",
    "iy->i",
)


def nodes(topology, dtype=torch.float64, seed=0, size=lambda k: 2 + k % 3):
    sizes = {label: size(k) for k, label in enumerate(topology.labels)}
    gen = generator(seed)
    return [normal(shape, torch.empty(0, dtype=dtype), gen) for shape in topology.shapes(sizes)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("equation", EQUATIONS)
def test_against_numpy(equation, dtype):
    topology = Topology.parse(equation)
    tensors = nodes(topology, dtype)
    want = np.einsum(equation, *(t.numpy() for t in tensors))
    for optimize in ("auto", "greedy", "optimal"):
        found = contract(topology, tensors, optimize=optimize)
        np.testing.assert_allclose(found.numpy(), want, atol=1e-12)
        assert found.dtype == dtype


@st.composite
def networks(draw):
    """Random equations with hyperedges, open labels on several nodes, and nodes that hang together by nothing."""
    inputs = draw(st.lists(st.lists(st.sampled_from("abcdefg"), max_size=4, unique=True), min_size=1, max_size=6))
    known = sorted({label for labels in inputs for label in labels})
    output = draw(st.lists(st.sampled_from(known), unique=True)) if known else []
    return Topology(tuple(map(tuple, inputs)), tuple(output))


@given(networks(), st.integers(0, 100))
def test_random_networks_against_numpy(topology, seed):
    tensors = nodes(topology, seed=seed)
    want = np.einsum(str(topology), *(t.numpy() for t in tensors))
    np.testing.assert_allclose(contract(topology, tensors).numpy(), want, atol=1e-10)


def test_more_than_52_labels():
    d = 40
    topology = Topology(tuple((f"r{k}", f"i{k}", f"r{k + 1}") for k in range(d)), ("r0", *(f"i{k}" for k in range(d))))
    assert len(topology.labels) == 81
    tensors = nodes(topology, size=lambda k: 2 if k < 5 else 1)
    found = contract(topology, tensors)
    symbols = {label: opt_einsum.get_symbol(k) for k, label in enumerate(topology.labels)}
    terms = ",".join("".join(symbols[label] for label in labels) for labels in topology.inputs)
    equation = f"{terms}->{''.join(symbols[label] for label in topology.output)}"
    np.testing.assert_allclose(found, opt_einsum.contract(equation, *(t.numpy() for t in tensors)), atol=1e-12)


def test_more_than_52_labels_in_one_contraction_is_said():
    many = tuple(f"x{k}" for k in range(60))
    topology = Topology((many, many), ())
    with pytest.raises(tk.EquationError, match=r"touches more than 52 labels"):
        plan(topology, ((1,) * 60, (1,) * 60))


def test_real_parameters_with_a_complex_constant_give_a_real_tensor():
    topology = Topology((("s",), ("f", "s"), ("t", "f")), ("t",), (None, DFT(5), DFT(5, inverse=True)))
    x = torch.arange(5.0, dtype=torch.float64)
    found = contract(topology, (x,))
    torch.testing.assert_close(found, x)
    assert not found.is_complex()
    assert contract(topology, (x.cdouble(),)).is_complex()


class TestPlan:
    """Counts and the table."""

    @pytest.mark.parametrize("equation", [e for e in EQUATIONS if "," in e])
    def test_flops_against_opt_einsum(self, equation):
        """Their count takes one operation a term for a product and one more for a sum; every step is theirs."""
        topology = Topology.parse(equation)
        shapes = [tuple(t.shape) for t in nodes(topology)]
        found = plan(topology, shapes)
        _, info = opt_einsum.contract_path(equation, *shapes, shapes=True, optimize="auto")
        assert [len(step.operands) for step in found.steps] == [len(taken) for taken in info.path]
        assert found.peak_size == int(info.largest_intermediate)
        sizes = topology.sizes(shapes)
        by_hand = 0
        for (operands, removed, _, _, _), step in zip(info.contraction_list, found.steps, strict=True):
            by_hand += opt_einsum.helpers.flop_count(
                {label for labels in step.inputs for label in labels}, bool(removed), len(operands), sizes
            )
        assert abs(found.flops - by_hand) <= 1e-9 * by_hand

    def test_a_matrix_product_counts_a_multiply_add_twice(self):
        p = plan(Topology.parse("ij,jk->ik"), ((10, 20), (20, 30)))
        assert p.flops == 2 * 10 * 20 * 30
        assert p.peak_size == 300

    def test_it_is_kept(self):
        topology = Topology.parse("ia,ajb,bk->ijk")
        shapes = ((4, 2), (2, 5, 3), (3, 6))
        assert plan(topology, shapes) is plan(topology, [list(s) for s in shapes])
        assert plan(topology, shapes) is not plan(topology, shapes, optimize="greedy")

    def test_the_table(self):
        lines = str(plan(Topology.parse("ia,ajb,bk->ijk"), ((4, 2), (2, 5, 3), (3, 6)))).splitlines()
        assert lines[0].startswith("ia,ajb,bk->ijk: ")
        assert "flops" in lines[0]
        assert lines[1].split() == ["operands", "contraction", "flops", "entries"]
        assert len(lines) == 3 + 2
        assert all(line == line.rstrip() for line in lines)

    def test_it_is_a_plain_value(self):
        p = plan(Topology.parse("ia,aj->ij"), ((4, 2), (2, 5)))
        assert dataclasses.is_dataclass(p)
        with pytest.raises(dataclasses.FrozenInstanceError):
            p.shapes = ()
        assert isinstance(p.steps[0], Step)
        assert p.steps[0].equation == p.equations[0]

    def test_running_is_contracting(self):
        topology = Topology.parse("abc,ia,jb,kc->ijk")
        tensors = nodes(topology)
        found = plan(topology, [t.shape for t in tensors])
        assert torch.equal(found.run(tensors), contract(topology, tensors))

    def test_sizes_that_do_not_fit(self):
        with pytest.raises(tk.EquationError, match=r"Label 'a' .* has size 2 on one tensor and 3"):
            plan(Topology.parse("ia,aj->ij"), ((4, 2), (3, 5)))

    def test_an_optimizer_that_nobody_provides(self):
        with pytest.raises(tk.UnknownNameError, match=r"optimize='nobody'. Known: auto, .*greedy"):
            plan(Topology.parse("ia,aj->ij"), ((4, 2), (2, 5)), optimize="nobody")


class TestEnvironments:
    """The rest of a network, for least squares and gradients."""

    @pytest.mark.parametrize("equation", [e for e in EQUATIONS if "," in e])
    def test_environment_and_node_are_the_whole(self, equation):
        topology = Topology.parse(equation)
        tensors = nodes(topology)
        for k, t in enumerate(tensors):
            env, labels = environment(topology, tensors, k)
            joined = Topology((labels, topology.inputs[k]), topology.output)
            torch.testing.assert_close(contract(joined, (env, t)), contract(topology, tensors))

    @pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
    @pytest.mark.parametrize("equation", ["ia,ajb,bk->ijk", "ir,jr,kr->ijk", "iar,ijr,jbr->iajb", "pia,ajb,bkp->ijk"])
    def test_gram_is_that_of_the_environment(self, equation, dtype):
        topology = Topology.parse(equation)
        tensors = nodes(topology, dtype)
        for k in range(len(tensors)):
            rest = [t for j, t in enumerate(tensors) if j != k]
            graph, batch = gram_topology(topology, k)
            gram = contract(graph, [t.conj() for t in rest] + rest)
            env, labels = environment(topology, tensors, k)
            free = [label for label in topology.inputs[k] if label in labels and label not in batch]
            primed = tuple(f"{label}'" if label in free else label for label in labels)
            by_hand = Topology((primed, labels), (*batch, *(f"{label}'" for label in free), *free))
            torch.testing.assert_close(gram, contract(by_hand, (env.conj(), env)))
