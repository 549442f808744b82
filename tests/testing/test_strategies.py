"""The strategies give what they promise."""

from math import prod

import pytest
import torch
from hypothesis import find, given
from hypothesis import strategies as st

import tnkit as tk
from tnkit.registry import FORMATS
from tnkit.testing.strategies import LAYOUTS, arrays, dtypes, format_names, formats, shapes, specs, with_layout


@given(shapes(min_order=2, max_order=5, max_entries=100, max_size=9))
def test_shapes(shape):
    assert 2 <= len(shape) <= 5
    assert prod(shape) <= 100
    assert all(1 <= n <= 9 for n in shape)


def test_shapes_of_every_order_and_sizes_of_one_are_found():
    for order in (1, 7):
        assert len(find(shapes(), lambda s, order=order: len(s) == order)) == order
    assert 1 in find(shapes(), lambda s: 1 in s and len(s) == 4 and prod(s) > 10)


@given(arrays(dtype=dtypes(complex=False), scale=st.sampled_from([1.0, 1e-20])))
def test_arrays(x):
    assert isinstance(x, torch.Tensor)
    assert x.dtype in (torch.float32, torch.float64)
    assert torch.isfinite(x).all()


def test_arrays_of_any_kind_are_found():
    assert not find(arrays(), lambda x: not x.is_contiguous()).is_contiguous()
    assert find(arrays(), lambda x: x.is_complex() and x.ndim == 3).ndim == 3
    assert not find(arrays(), lambda x: x.numel() > 3 and not x.any()).any()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_change_memory_only(layout):
    x = torch.arange(24.0).reshape(2, 3, 4)
    other = with_layout(x, layout)
    assert torch.equal(other, x)
    assert other.is_contiguous() == (layout == "contiguous")


@pytest.mark.parametrize("name", FORMATS.names())
def test_formats_by_name(name):
    assert isinstance(find(formats(name), lambda v: len(v.shape) == 3), tk.Format)


@given(formats(dtype=torch.float32, max_rank=2), specs(), format_names())
def test_formats(value, spec, name):
    assert value.dtype == torch.float32
    assert all(r <= 2 for r in value.ranks)
    assert isinstance(spec, tk.FormatSpec)
    assert name in FORMATS
