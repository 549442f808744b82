"""The checked ways in: parts that fit, and messages about those that do not."""

from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tnkit as tk
from tnkit.formats import as_spec
from tnkit.registry import FORMATS
from tnkit.testing.strategies import shapes, specs

O = torch.ones  # noqa: E741


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: tk.TT.from_cores([]), "TT needs at least one core"),
        (
            lambda: tk.TT.from_cores([O(1, 2, 3), O(2, 4, 1)]),
            "Label 'r1' .* has size 3 on one tensor and 2 on tensor 1",
        ),
        (lambda: tk.TT.from_cores([O(2, 2, 3), O(3, 4, 1)]), "first and last rank are 1; they are 2 and 1"),
        (lambda: tk.TT.from_cores([O(1, 2), O(2, 4, 1)]), r"TT core 0 must have 3 axes .* its shape is \(1, 2\)"),
        (lambda: tk.TT.from_cores([O(1, 0, 1)]), "of size 1 or more"),
        (lambda: tk.TT.from_cores([[[[1.0]]]]), "TT core 0 must be a torch tensor, not list"),
        (lambda: tk.TensorRing.from_cores([O(2, 4, 3), O(3, 5, 1)]), "Label 'r0'"),
        (lambda: tk.TensorRing.from_cores([]), "needs at least one core"),
        (lambda: tk.Tucker.from_parts(O(2, 3), [O(4, 2)]), "The Tucker core of 1 factors must have 1 axes"),
        (lambda: tk.Tucker.from_parts(O(2, 3), [O(4, 2), O(5, 2)]), "Equal labels need equal sizes"),
        (lambda: tk.Tucker.from_parts(O(2), []), "needs a core and at least one factor"),
        (lambda: tk.CP.from_parts(O(2), [O(4, 3)]), "Label 'r'"),
        (lambda: tk.CP.from_parts(O(2, 2), [O(4, 2)]), "CP weights must have 1 axes"),
        (lambda: tk.CP.from_parts(O(2), []), "needs weights and at least one factor"),
        (lambda: tk.BlockTerm.from_parts(O(2, 2), [O(3, 4, 2)]), "Label 't'"),
        (lambda: tk.HierarchicalTucker.from_nodes([O(2, 3, 1), O(4, 2)], (0, 1)), "has 3 nodes; 2 tensors were given"),
        (lambda: tk.HierarchicalTucker.from_nodes([O(2, 3, 2), O(4, 2), O(5, 3)], (0, 1)), "must end with rank 1"),
        (lambda: tk.LowRank.from_parts(O(4, 2), O(3, 5)), "Label 'r'"),
        (lambda: tk.BLAST.from_parts(O(2, 3, 4), O(2, 2, 4), O(3, 3, 4)), "Label 'j'"),
        (lambda: tk.TTMatrix.from_cores([O(1, 2, 3, 1)], row_modes=2), "has as many row modes, not 2"),
        (lambda: tk.TTMatrix.from_cores([O(1, 2, 1)], row_modes=3, order="split"), "cannot have 3 row modes"),
        (lambda: tk.TubalSVD.from_parts(O(4, 2, 3), O(2, 5, 4)), "do not fit"),
        (lambda: tk.TubalSVD.from_parts(O(4), O(4)), "needs two tensors"),
        (lambda: tk.Network.from_equation("ia,aj->ij", [O(2, 3)]), "has 2 tensors; 1 were given"),
        (lambda: tk.Network.from_equation("ia,aj->ij", [O(2, 3), O(4, 5)]), "Label 'a'"),
        (
            lambda: tk.Tensorized.over(tk.TT.from_cores([O(1, 6, 1)]), tk.Tensorization.start((2, 2))),
            "does not lead to",
        ),
    ],
)
def test_refused(build, words):
    with pytest.raises(tk.ShapeError, match=words):
        build()


@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        (lambda: tk.TTMatrix.from_cores([O(1, 2, 3, 1)], order="mixed"), tk.OptionError, "'interleaved' or 'split'"),
        (lambda: tk.HierarchicalTucker.from_nodes([], (0, 1, 2)), tk.OptionError, "is not binary"),
        (lambda: tk.HTSpec("deep").layout((3, 4)), tk.OptionError, "'balanced', 'linear' or nested pairs"),
        (lambda: tk.HTSpec(((0, 1), 1)).layout((3, 4)), tk.OptionError, "each of the modes 0 … 1 once"),
        (lambda: tk.BTDSpec(terms=0).layout((3, 4)), tk.OptionError, "leaves nothing"),
        (lambda: tk.TTMatrixSpec(order="mixed").layout((3, 4)), tk.OptionError, "'interleaved' or 'split'"),
        (lambda: tk.TTMatrixSpec(rows=(3,), columns=(2, 2)).layout((3, 4)), tk.OptionError, "must be equally many"),
        (lambda: tk.TTMatrixSpec(rows=(3, 3), columns=(2, 2)).layout((10, 4)), tk.ShapeError, "do not cover a matrix"),
        (lambda: tk.LowRankSpec(row_modes=5).layout((3, 4)), tk.ShapeError, "does not name modes"),
        (lambda: tk.LowRankSpec(row_modes=(0, 0)).layout((3, 4)), tk.ShapeError, "does not name modes"),
        (lambda: tk.BlockTTSpec(blocks=(0, 2)).layout((3, 4)), tk.OptionError, "must be 1 or more"),
        (lambda: tk.TTSpec().layout(()), tk.ShapeError, "at least 1 mode"),
        (lambda: tk.TTSpec().layout((3, 0)), tk.ShapeError, "size 1 or more"),
        (lambda: tk.EquationSpec("ia,aj->ij").layout((3, 4, 5)), tk.EquationError, "2 open labels .* 3 modes"),
        (lambda: tk.random_format(3.5, (3, 4), rank=2), tk.OptionError, "format=3.5 is not known"),
    ],
)
def test_specs_that_are_refused(build, error, words):
    with pytest.raises(error, match=words):
        build()


@given(spec=specs(), shape=shapes(), data=st.data())
def test_layouts_say_what_is_built(spec, shape, data):
    if getattr(spec, "row_modes", None) == 1 and len(shape) < 2:
        return
    layout = spec.layout(shape)
    ranks = tuple(data.draw(st.integers(1, min(3, cap))) for cap in layout.caps)
    value = tk.random_format(spec, shape, ranks, rng=0)
    assert value.shape == shape
    assert value.ranks == ranks
    assert tuple(tuple(t.shape) for t in value.tensors()) == layout.shapes(ranks)
    assert value.n_params == layout.n_params(ranks)
    assert layout.ranks_of(value.tensors()) == ranks
    assert layout.dense_size == prod(shape)
    assert layout.inner_plan.out_shape == layout.inner_shape
    assert all(cap >= 1 for cap in layout.caps)
    if layout.max_ranks is not None:
        assert all(r <= cap for r, cap in zip(layout.max_ranks, layout.caps, strict=True))
    x = torch.randn(shape)
    assert torch.equal(layout.inner_plan.invert(layout.tensorize(x)), x)


@pytest.mark.parametrize("name", FORMATS.names())
def test_ranks_beyond_the_caps_bring_nothing(name):
    """`rank=` of an int is clipped to the caps, which are enough for every array where the format has max_ranks."""
    layout = as_spec(name).layout((4, 6))
    assert tk.random_format(name, (4, 6), rank=10**6, rng=0).ranks == layout.caps


def test_facts_of_a_format():
    value = tk.random_format("tucker", (40, 50, 60), rank=3, dtype=torch.complex64, rng=0)
    assert value.n_params == 2 * (27 + 3 * 150)
    assert value.nbytes == 8 * (27 + 3 * 150)
    assert value.compression_ratio == pytest.approx(2 * 120_000 / value.n_params)
    assert repr(value) == (
        "Tucker(shape=(40, 50, 60), ranks=(3, 3, 3), 954 numbers, 252x smaller, torch.complex64, cpu)"
    )


def test_a_real_tubal_svd_stores_real_numbers():
    value = tk.random_format("tubal", (4, 5, 6), rank=2, rng=0)
    assert value.n_params == 4 * 2 * 6 + 2 * 5 * 6
    assert not value.to_dense().is_complex()
