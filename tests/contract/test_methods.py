"""Every registered method passes the public checks on every format that it says it fits."""

from dataclasses import fields, is_dataclass, replace

import pytest

from tnkit.formats import as_spec
from tnkit.registry import FORMATS, METHODS
from tnkit.testing import METHOD_CHECKS, check_method

SHAPE = (3, 4, 3)
#: What methods for any topology are tried on: no named format, or one that is fitted by nothing else.
ANY = ("btd", "blast", "ia,ajb,bk->ijk", "ir,jr,kr->ijk")


def pairs():
    for method in METHODS.names():
        formats = METHODS.get(method).formats
        for name in ANY if "*" in formats else formats:
            if (name in FORMATS or "->" in name) and METHODS.get(method)().suits(as_spec(name).layout(SHAPE)):
                yield method, name


def quick(name):
    """The method with few steps; its promises are the same."""
    method = METHODS.get(name)()
    few = {"max_steps": 15, "starts": 1, "restarts": 1}
    return replace(method, **{f.name: few[f.name] for f in fields(method) if f.name in few})


@pytest.mark.parametrize(("method", "name"), list(pairs()))
def test_checks(method, name):
    check_method(quick(method), name, shape=SHAPE)


@pytest.mark.parametrize("name", METHODS.names())
def test_a_method_is_a_plain_config(name):
    method = METHODS.get(name)
    assert method.name == name
    assert is_dataclass(method)
    assert hash(method()) == hash(method())
    assert method() == method()
    assert set(method.accepts) <= {"rank", "eps", "budget"}
    assert method.accepts
    assert method.summary.strip()


def test_the_checks_see_what_is_wrong(monkeypatch):
    """A method that reports a tenth of its error fails, and the message says so."""
    method = METHODS.get("tt_svd")
    honest = method.fit

    def boastful(self, problem):
        fit = honest(self, problem)
        error = None if fit.rel_error is None else fit.rel_error / 10
        return type(fit)(fit.tensors, error, "exact", fit.status, fit.history)

    monkeypatch.setattr(method, "fit", boastful)
    with pytest.raises(AssertionError, match=r"check '.*' of .*(the reported error is|is missed)"):
        check_method("tt_svd", "tt")
    assert set(METHOD_CHECKS) >= {"eps", "rank", "determinism", "scale", "input"}
