"""The exceptions: each is tnkit's and a builtin, and says what to do."""

import inspect
import pickle

import pytest

import tnkit as tk
from tnkit import errors

BUILTIN = {
    "ShapeError": ValueError,
    "RankError": ValueError,
    "DataError": ValueError,
    "OptionError": ValueError,
    "EquationError": ValueError,
    "BudgetError": ValueError,
    "MaskError": ValueError,
    "DTypeError": TypeError,
    "UnknownNameError": KeyError,
    "FileFormatError": ValueError,
    "MissingExtraError": ImportError,
    "MemoryLimitError": MemoryError,
}


@pytest.mark.parametrize(("name", "builtin"), BUILTIN.items())
def test_kinds(name, builtin):
    kind = getattr(errors, name)
    assert issubclass(kind, tk.TnkitError)
    assert issubclass(kind, builtin)
    assert getattr(tk, name) is kind
    raised = kind("x has 3 modes. Use 2.")
    assert str(raised) == "x has 3 modes. Use 2."
    assert str(pickle.loads(pickle.dumps(raised))) == str(raised)


def test_all_of_them_are_tested():
    kinds = {name for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, tk.TnkitError)}
    assert kinds == {*BUILTIN, "TnkitError"}
    assert issubclass(tk.TnkitWarning, UserWarning)
