"""The graph: what is read, what it says, and what is refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tnkit as tk
from tnkit.network import DFT, Part, Topology
from tnkit.network.constants import constant_of


def test_parsing():
    tt = Topology.parse("ia,ajb,bk->ijk")
    assert tt.inputs == (("i", "a"), ("a", "j", "b"), ("b", "k"))
    assert tt.output == ("i", "j", "k")
    assert tt.internal == ("a", "b")
    assert tt.labels == ("i", "a", "j", "b", "k")
    assert tt.parameters == (0, 1, 2)
    assert str(tt) == "ia,ajb,bk->ijk"
    long = Topology.parse("row bond_1, bond_1 col -> row col")
    assert long.inputs == (("row", "bond_1"), ("bond_1", "col"))
    assert str(long) == "row bond_1, bond_1 col -> row col"
    assert Topology.parse(" ia , aj -> ij ") == Topology.parse("ia,aj->ij")
    assert Topology.parse("ij->").output == ()


@pytest.mark.parametrize(
    ("equation", "words"),
    [
        ("ia,aj", "needs one '->'"),
        ("ia->aj->ij", "needs one '->'"),
        (17, "needs one '->'"),
        ("ia,aj->ijk", "Output label 'k' .* stands on no tensor. Known labels: a, i, j"),
        ("ia,aj->ijkl", "Output labels 'k', 'l' .* stand on no tensor"),
        ("iia->ia", "Label 'i' stands twice on tensor 'i i a'. A diagonal needs a tensor of its own"),
        ("ia,aj->iij", "Label 'i' stands twice on output"),
        ("...a,aj->...j", "has '.'; labels are letters, digits"),
        ("i*a,aj->ij", r"has '\*'"),
    ],
)
def test_equations_that_cannot_be_read(equation, words):
    with pytest.raises(tk.EquationError, match=words):
        Topology.parse(equation)


def test_no_tensors_and_wrong_constants():
    with pytest.raises(tk.EquationError, match=r"at least one tensor"):
        Topology((), ())
    with pytest.raises(tk.EquationError, match=r"2 nodes but 1 entries in constants"):
        Topology((("a",), ("a",)), (), (None,))


def test_sizes():
    tt = Topology.parse("ia,aj->ij")
    assert tt.sizes([(2, 3), (3, 4)]) == {"i": 2, "a": 3, "j": 4}
    assert tt.shapes({"i": 2, "a": 3, "j": 4}) == ((2, 3), (3, 4))
    for shapes, words in (
        ([(2, 3)], "has 2 tensors, but 1 were given"),
        ([(2, 3, 1), (3, 4)], r"Tensor 0 of ia,aj->ij carries 2 labels \(i a\), but has 3 axes"),
        ([(2, 3), (5, 4)], "Label 'a' .* has size 3 on one tensor and 5 on tensor 1"),
    ):
        with pytest.raises(tk.EquationError, match=words):
            tt.sizes(shapes)


def test_constants_have_sizes_too():
    topology = Topology((("s", "r"), ("f", "s")), ("f", "r"), (None, DFT(4)))
    assert topology.parameters == (0,)
    assert topology.sizes([(4, 2)]) == {"s": 4, "r": 2, "f": 4}
    with pytest.raises(tk.EquationError, match=r"Label 's'"):
        topology.sizes([(5, 2)])


def test_components_and_neighbours():
    topology = Topology.parse("ia,aj,kb,bl->ijkl")
    assert topology.components() == (frozenset({0, 1}), frozenset({2, 3}))
    assert len(topology.components(without=["a"])) == 3
    assert len(topology.components(through=[])) == 4
    assert Topology.parse("ir,jr,kr->ijk").nodes_of("r") == (0, 1, 2)
    assert len(Topology.parse("ir,jr,kr->ijk").components()) == 1


def test_new_names_and_outputs():
    tt = Topology.parse("ia,aj->ij")
    assert str(tt.relabel({"a": "x"})) == "ix,xj->ij"
    assert tt.with_output(("j",)).output == ("j",)
    with pytest.raises(tk.EquationError):
        tt.with_output(("z",))


labels = st.text("abcdefgh", min_size=1, max_size=2)


@given(st.lists(st.lists(labels, min_size=0, max_size=4, unique=True), min_size=1, max_size=5), st.data())
def test_keys_hold_everything(inputs, data):
    known = sorted({label for ls in inputs for label in ls})
    output = data.draw(st.lists(st.sampled_from(known), unique=True)) if known else []
    constants = [data.draw(st.sampled_from([None, DFT(3)])) if len(ls) == 2 else None for ls in inputs]
    topology = Topology(tuple(map(tuple, inputs)), tuple(output), tuple(constants))
    assert Topology.from_key(topology.key()) == topology
    assert hash(Topology.from_key(topology.key())) == hash(topology)


def test_constants():
    for n in (1, 2, 5, 8):
        matrix = DFT(n).tensor(torch.float64, torch.device("cpu"))
        torch.testing.assert_close(matrix, torch.fft.fft(torch.eye(n, dtype=torch.complex128)))
        inverse = DFT(n, inverse=True).tensor(torch.float64, torch.device("cpu"))
        torch.testing.assert_close(matrix @ inverse, torch.eye(n, dtype=torch.complex128))
        assert DFT(n).tensor(torch.float32, torch.device("cpu")).dtype == torch.complex64
        assert DFT(n).shape == (n, n)
    part = Part(DFT(5), (2, (0, 4)))
    assert part.shape == (2,)
    whole = DFT(5).tensor(torch.float64, torch.device("cpu"))
    assert torch.equal(part.tensor(torch.float64, torch.device("cpu")), whole[2, [0, 4]])
    assert constant_of(part.key()) == part
    assert constant_of(None) is None
    with pytest.raises(ValueError, match=r"is the key of no constant"):
        constant_of(("other", None, ()))
