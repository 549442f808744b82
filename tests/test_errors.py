"""Bad input at the front doors: an exception that says what to do, before any work, and nothing half-written."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tnkit as tk
from tnkit import errors
from tnkit.array_files import read_array, write_array
from tnkit.registry import FORMATS, METHODS

X = np.random.default_rng(0).random((4, 8, 8, 4))


def with_value(value: float) -> np.ndarray:
    x = X.copy()
    x[1, 2, 3, 0] = value
    return x


def matrix() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(8, 8))


# (what is done, the kind of error, what its message says)
CASES: dict[str, tuple[Callable[[], Any], type[Exception], tuple[str, ...]]] = {
    # --- the array
    "NaN": (lambda: tk.decompose(with_value(np.nan), "tt", rank=2), tk.DataError, ("1 NaN", "complete")),
    "infinite": (lambda: tk.decompose(with_value(np.inf), "tt", eps=0.1), tk.DataError, ("infinite",)),
    "empty": (lambda: tk.decompose(np.zeros((3, 0, 2)), "tt", rank=2), tk.DataError, ("empty", "(3, 0, 2)")),
    "0-d": (lambda: tk.decompose(np.float64(1), "tt", rank=2), tk.DataError, ("0-d",)),
    "text": (lambda: tk.decompose(np.array(["a"]), "tt", rank=1), tk.DTypeError, ("not numeric",)),
    "objects": (lambda: tk.decompose(np.array([None]), "tt", rank=1), tk.DTypeError, ("not numeric",)),
    "ragged lists": (lambda: tk.decompose([[1, 2], [3]], "tt", rank=1), tk.DataError, ("equal lengths",)),
    "sparse": (lambda: tk.search(torch.eye(3).to_sparse(), eps=0.1), tk.DTypeError, ("to_dense",)),
    "None": (lambda: tk.decompose(None, "tt", rank=1), tk.TnkitError, ("x",)),
    "NaN, auto": (lambda: tk.decompose(with_value(np.nan), eps=0.1), tk.DataError, ("NaN",)),
    # --- what is asked
    "nothing asked": (lambda: tk.decompose(X, "tt"), tk.OptionError, ("rank=", "eps=", "budget=")),
    "rank 0": (lambda: tk.decompose(X, "tt", rank=0), tk.RankError, ("0", "1 or more")),
    "rank -1": (lambda: tk.decompose(X, "cp", rank=-1), tk.RankError, ("-1",)),
    "rank too large": (lambda: tk.decompose(X, "tt", rank=(4, 40, 4)), tk.RankError, ("40", "32", "(4, 8, 8, 4)")),
    "too many ranks": (lambda: tk.decompose(X, "tucker", rank=(2, 2)), tk.RankError, ("2", "4")),
    "unknown bond": (lambda: tk.decompose(X, "tt", rank={"q": 2}), tk.RankError, ("'q'", "r1")),
    "rank of text": (lambda: tk.decompose(X, "tt", rank="big"), tk.RankError, ("'big'",)),
    "rank 2.5": (lambda: tk.decompose(X, "tt", rank=(2.5, 2, 2)), tk.RankError, ("2.5",)),
    "rank with auto": (lambda: tk.decompose(X, rank=3), tk.OptionError, ("auto",)),
    "eps < 0": (lambda: tk.decompose(X, "tt", eps=-0.1), tk.OptionError, ("eps=-0.1", "0 or more")),
    "eps NaN": (lambda: tk.decompose(X, "tt", eps=float("nan")), tk.OptionError, ("eps",)),
    "eps of text": (lambda: tk.decompose(X, "tt", eps="1%"), tk.OptionError, ("eps='1%'",)),
    "budget 0": (lambda: tk.decompose(X, "tt", budget=0), tk.BudgetError, ("0",)),
    "budget of nothing": (lambda: tk.decompose(X, "tt", budget=3), tk.BudgetError, ("24",)),
    "budget of layers": (
        lambda: tk.decompose(X, "tt", budget=tk.Budget(latency_ms=1.0)),
        tk.BudgetError,
        ("latency_ms",),
    ),
    "time limit": (lambda: tk.decompose(X, "tt", rank=2, time_limit_s=0), tk.OptionError, ("time_limit_s",)),
    "rng": (lambda: tk.decompose(X, "cp", rank=2, rng="seed"), tk.TnkitError, ("rng",)),
    # --- formats, methods, equations
    "unknown format": (lambda: tk.decompose(X, "tuker", rank=2), tk.UnknownNameError, ("'tuker'", "'tucker'")),
    "format of a number": (lambda: tk.decompose(X, 3, rank=2), tk.OptionError, ("3",)),
    "unknown method": (lambda: tk.decompose(X, "tucker", rank=2, method="hoi"), tk.UnknownNameError, ("'hooi'",)),
    "method of another format": (
        lambda: tk.decompose(X, "tt", rank=2, method="hooi"),
        tk.OptionError,
        ("hooi", "tt"),
    ),
    "equation of other order": (
        lambda: tk.decompose(X, "ia,ajb,bk->ijk", rank=2),
        tk.EquationError,
        ("3 open labels", "4 modes"),
    ),
    "equation without arrow's end": (lambda: tk.decompose(X, "ia,aj->", rank=2), tk.EquationError, ("0 open",)),
    "equation of unknown label": (lambda: tk.decompose(X, "ia,aj->ijkl", rank=2), tk.EquationError, ("k",)),
    "not an equation": (lambda: tk.decompose(X, "i a j->ij->", rank=2), tk.EquationError, ("->",)),
    "one rank of two bonds": (
        lambda: tk.decompose(X[0], "ia,ajb,bk->ijk", rank={"c": 2}),
        tk.RankError,
        ("'c'", "a, b"),
    ),
    "a TT matrix of other sizes": (
        lambda: tk.decompose(np.ones((6, 6)), tk.TTMatrixSpec(rows=(2, 2), columns=(2, 3)), rank=1),
        tk.TnkitError,
        ("6",),
    ),
    # --- completion
    "mask of another shape": (
        lambda: tk.complete(X, "tt", mask=np.ones((4, 8, 8), bool), rank=2),
        tk.MaskError,
        ("(4, 8, 8)", "(4, 8, 8, 4)"),
    ),
    "nothing observed": (
        lambda: tk.complete(X, "tt", mask=np.zeros(X.shape, bool), rank=2),
        tk.MaskError,
        ("observed",),
    ),
    "all NaN": (lambda: tk.complete(np.full((3, 4), np.nan), "lowrank", rank=1), tk.MaskError, ("observed",)),
    "infinite where observed": (
        lambda: tk.complete(with_value(np.inf), "tt", mask=np.ones(X.shape, bool), rank=2),
        tk.DataError,
        ("infinite",),
    ),
    "mask of floats": (lambda: tk.complete(X, "tt", mask=np.full(X.shape, 0.5), rank=2), tk.MaskError, ("mask",)),
    "index out of range": (
        lambda: tk.complete(tk.Observations([[0, 9]], [1.0], (3, 4)), "lowrank", rank=1),
        tk.TnkitError,
        ("9", "4"),
    ),
    "values of another number": (
        lambda: tk.complete(tk.Observations([[0, 0], [1, 1]], [1.0], (3, 4)), "lowrank", rank=1),
        tk.TnkitError,
        ("2", "1"),
    ),
    "completion rank 0": (lambda: tk.complete(with_value(np.nan), "tt", rank=0), tk.RankError, ("0",)),
    "completion format": (lambda: tk.complete(with_value(np.nan), "tx", rank=1), tk.UnknownNameError, ("'tx'",)),
    # --- values
    "shapes that differ": (
        lambda: tk.decompose(X, "tt", rank=1).tensor + tk.decompose(X[0], "tt", rank=1).tensor,
        tk.ShapeError,
        ("(4, 8, 8, 4)", "(8, 8, 4)"),
    ),
    "error of another shape": (
        lambda: tk.error(X[0], tk.decompose(X, "tt", rank=1).tensor),
        tk.ShapeError,
        ("(8, 8, 4)",),
    ),
    "index outside": (lambda: tk.decompose(X, "tt", rank=1).tensor.at([[9, 0, 0, 0]]), tk.TnkitError, ("9",)),
    # --- layers
    "no budget": (lambda: tk.nn.compress(matrix(), None), tk.OptionError, ("Budget(params=0.5)",)),
    "one batch as calib": (
        lambda: tk.nn.compress(matrix(), tk.Budget(params=0.5), calib=torch.ones(2, 8)),
        tk.OptionError,
        ("calib=[batch]",),
    ),
    "batch that does not fit": (
        lambda: tk.nn.compress(matrix(), tk.Budget(params=0.5), calib=[torch.ones(2, 9)]),
        tk.DataError,
        ("(2, 9)",),
    ),
    "rule of no layer": (
        lambda: tk.nn.compress(matrix(), tk.Budget(params=0.5), rules={"1": None}),
        tk.UnknownNameError,
        ("'1'",),
    ),
    "nothing to compress": (
        lambda: tk.nn.compress(torch.nn.ReLU(), tk.Budget(params=0.5)),
        tk.OptionError,
        ("compress",),
    ),
    "layer without a view": (
        lambda: tk.nn.compress_layer(torch.nn.ReLU(), tk.nn.LowRankLayer(rank=1)),
        tk.OptionError,
        ("ReLU",),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_message_says_what_and_what_to_do(case: str) -> None:
    do, kind, words = CASES[case]
    with pytest.raises(kind) as caught:
        do()
    message = str(caught.value)
    assert isinstance(caught.value, tk.TnkitError)
    assert len(message) > 25
    assert "\n" not in message.strip() or len(message.splitlines()) < 8
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("name", [n for n in FORMATS if n != "auto"])
@pytest.mark.parametrize("bad", ["NaN", "empty", "0-d", "eps", "rank"])
def test_every_format_refuses_before_any_work(name: str, bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(self: Any, problem: Any) -> Any:
        raise AssertionError("the work was begun")

    for method in METHODS.items().values():
        monkeypatch.setattr(method, "fit", fit)
    x = {"NaN": with_value(np.nan), "empty": np.zeros((0, 4, 4)), "0-d": np.array(1.0)}.get(bad, X)
    asked: dict[str, Any] = {"eps": {"eps": -1.0}, "rank": {"rank": 0, "eps": 0.5}}.get(bad, {"eps": 0.5})
    if bad == "rank" and not FORMATS.get(name).layout(X.shape).bonds:
        pytest.skip("no rank to choose")
    with pytest.raises(tk.TnkitError):
        tk.decompose(x, name, **asked)


def test_the_callers_array_is_never_changed_by_an_error() -> None:
    x = with_value(np.nan)
    before = x.copy()
    with pytest.raises(tk.DataError):
        tk.decompose(x, "tt", rank=2)
    assert np.array_equal(x, before, equal_nan=True)


def test_kinds_are_what_a_python_user_expects() -> None:
    kinds = [e for e in vars(errors).values() if inspect.isclass(e) and issubclass(e, tk.TnkitError)]
    assert len(kinds) > 10
    for kind in kinds:
        if kind is not tk.TnkitError:
            builtin = [
                b for b in kind.__mro__ if b.__module__ == "builtins" and b not in (Exception, BaseException, object)
            ]
            assert builtin, kind
    assert str(tk.UnknownNameError("no quotes")) == "no quotes"


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def good(tmp_path: Path) -> bytes:
    tk.save(tk.decompose(X, "tt", rank=2).tensor, tmp_path / "good.safetensors")
    return (tmp_path / "good.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["x.safetensors", "x.npy", "x.npz", "x.png"])
@pytest.mark.parametrize("content", [b"", b"\x00" * 7, b"hello, this is no tensor", b"\xff" * 100])
def test_a_file_that_is_no_tensor(tmp_path: Path, name: str, content: bytes) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    for read in (read_array, tk.load) if name.endswith(".safetensors") else (read_array,):
        with pytest.raises(tk.FileFormatError, match=name.replace(".", r"\.")):
            read(file)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.999])
def test_a_half_written_safetensors_file(tmp_path: Path, good: bytes, share: float) -> None:
    file = tmp_path / "half.safetensors"
    file.write_bytes(good[: int(share * len(good))])
    for read in (tk.load, read_array):
        with pytest.raises(tk.FileFormatError, match="half"):
            read(file)
    with pytest.raises(tk.FileFormatError):
        tk.nn.load(file, base=matrix())


def test_plain_tensors_are_no_format(tmp_path: Path) -> None:
    write_array(tmp_path / "plain.safetensors", X)
    with pytest.raises(tk.FileFormatError, match="read_array"):
        tk.load(tmp_path / "plain.safetensors")


def test_a_failed_save_leaves_what_was_there(tmp_path: Path, good: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tnkit.files.save_file", broken)
    with pytest.raises(tk.FileFormatError, match="No space left"):
        tk.save(tk.decompose(X, "tt", rank=1).tensor, tmp_path / "good.safetensors")
    assert (tmp_path / "good.safetensors").read_bytes() == good
    assert [p.name for p in tmp_path.iterdir()] == ["good.safetensors"]


def test_a_dense_tensor_beyond_all_memory_is_refused() -> None:
    huge = tk.random_format("tt", (10_000,) * 6, rank=1)
    with pytest.raises(tk.MemoryLimitError, match="GiB"):
        huge.to_dense()
