"""Budget: one class of limits."""

import pytest
import torch

import tnkit as tk
from tnkit.formats import as_budget


def test_counts_and_fractions():
    assert tk.Budget(params=100).max_params(dense=1000) == 100
    assert tk.Budget(params=0.25).max_params(dense=1000) == 250
    assert tk.Budget(params=1.0).max_params(dense=1000) == 1000
    assert tk.Budget(params=1).max_params(dense=1000) == 1
    assert tk.Budget().max_params(dense=1000) is None
    assert tk.Budget(max_error=0.1).max_params(dense=1000) is None


@pytest.mark.parametrize(
    ("dtype", "count"), [(torch.float32, 25), (torch.float64, 12), (torch.complex64, 25), (torch.complex128, 12)]
)
def test_bytes_are_of_real_numbers(dtype, count):
    assert tk.Budget(bytes=100).max_params(dense=1000, dtype=dtype) == count
    assert tk.Budget(bytes=0.5).max_params(dense=1000, dtype=dtype) == 500


def test_all_limits_hold():
    assert tk.Budget(params=80, bytes=100).max_params(dense=1000, dtype=torch.float32) == 25


def test_what_a_user_may_write():
    assert as_budget(10) == tk.Budget(params=10)
    assert as_budget(0.5) == tk.Budget(params=0.5)
    assert as_budget(None) == tk.Budget()
    kept = tk.Budget(bytes=5)
    assert as_budget(kept) is kept


@pytest.mark.parametrize("field", ["params", "bytes", "flops", "latency_ms"])
@pytest.mark.parametrize("value", [0, -1, -0.5, float("nan")])
def test_limits_that_leave_nothing(field, value):
    with pytest.raises(tk.BudgetError, match=r"leaves nothing. Give a positive number"):
        tk.Budget(**{field: value})


@pytest.mark.parametrize("field", ["params", "bytes", "flops"])
def test_floats_that_were_meant_as_counts(field):
    with pytest.raises(
        tk.BudgetError, match=rf"10000 times the dense {field}. For that many {field} give an int: 10000"
    ):
        tk.Budget(**{field: 1e4})
    with pytest.raises(tk.BudgetError, match=r"give an int: 5000"):
        tk.decompose(torch.ones(4, 4), "tt", budget=5e3)
    assert tk.Budget(**{field: 1.5}) == tk.Budget(**{field: 1.5})
    assert tk.Budget(latency_ms=20.0).latency_ms == 20.0


@pytest.mark.parametrize("value", ["1", True, 1j, [3]])
def test_limits_that_are_no_numbers(value):
    with pytest.raises(tk.BudgetError, match=r"is no number. An int is a count, a float a fraction"):
        tk.Budget(params=value)


@pytest.mark.parametrize("field", ["params", "latency_ms", "max_error"])
def test_infinity_is_no_limit(field):
    with pytest.raises(tk.BudgetError, match=r"is no limit. Leave it out"):
        tk.Budget(**{field: float("inf")})


def test_no_error_and_no_drop_are_limits():
    assert tk.Budget(max_error=0.0).max_error == 0.0
    assert tk.Budget(max_drop=0).max_drop == 0
    with pytest.raises(tk.BudgetError):
        tk.Budget(max_error=-0.1)
