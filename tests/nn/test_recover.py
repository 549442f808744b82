"""recover: towards the teacher, and never to a worse state than the one that came in."""

import time
from collections.abc import Callable

import pytest
import torch
from torch import nn

import tnkit as tk
from tnkit.errors import DataError, OptionError
from tnkit.nn.recover import blocks_of


@pytest.fixture
def teacher() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 48), nn.GELU(), nn.Linear(48, 24), nn.Dropout(0.5)).eval()


@pytest.fixture
def batches() -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(64, 24) for _ in range(8)]


def small_of(teacher: nn.Module, batches: list[torch.Tensor]) -> nn.Module:
    """Fitted to each layer alone: what a sequential pass over the same batches has learned cannot be learned again."""
    return tk.nn.compress(teacher, tk.Budget(params=0.4), calib=batches, sequential=0, measure=False)[0]


def mean_error(model: nn.Module, teacher: nn.Module, x: torch.Tensor) -> float:
    with torch.no_grad():
        return float((model(x) - teacher(x)).square().sum() / teacher(x).square().sum())


def test_outputs_come_nearer_to_the_teacher(teacher: nn.Module, batches: list[torch.Tensor]) -> None:
    small = small_of(teacher, batches)
    state = {name: value.clone() for name, value in small.state_dict().items()}
    better, report = tk.nn.recover(small, teacher, batches, max_steps=200)
    assert report.error_after < report.error_before
    torch.manual_seed(2)
    x = torch.randn(256, 24)
    assert mean_error(better, teacher, x) < mean_error(small, teacher, x)
    assert all(torch.equal(value, state[name]) for name, value in small.state_dict().items())
    assert report.gained
    assert str(report).startswith("recovered")
    assert "->" in str(report)


def test_training_that_harms_is_undone(teacher: nn.Module, batches: list[torch.Tensor]) -> None:
    small = small_of(teacher, batches)
    again, report = tk.nn.recover(small, teacher, batches, match_sweeps=0, max_steps=5, learning_rate=1e3)
    assert report.error_after == report.error_before
    assert len(report.history) > 1
    assert not report.gained
    assert str(report).startswith("nothing gained")
    assert torch.equal(again(batches[0]), small(batches[0]))


def test_modes_and_gradients_are_as_they_were(teacher: nn.Module, batches: list[torch.Tensor]) -> None:
    small = small_of(teacher, batches).train()
    next(small.parameters()).requires_grad_(False)
    wanted = [p.requires_grad for p in small.parameters()]
    same, _ = tk.nn.recover(small, teacher, batches, max_steps=2, inplace=True)
    assert same is small
    assert small.training
    assert [p.requires_grad for p in small.parameters()] == wanted
    assert all(p.grad is None for p in small.parameters())


def test_blocks_are_the_outermost_lists_of_one_kind() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    batches = [torch.randn(4, 5, 16) for _ in range(3)]
    small, _ = tk.nn.compress(model, tk.Budget(params=0.5), calib=batches, measure=False)
    assert blocks_of(small) == ["layers.0", "layers.1"]
    assert blocks_of(model) == []
    _, report = tk.nn.recover(small, model, batches, max_steps=3, block_weight=1.0)
    assert report.error_after <= report.error_before


def test_nothing_to_recover(teacher: nn.Module, batches: list[torch.Tensor]) -> None:
    with pytest.raises(OptionError, match="compressed"):
        tk.nn.recover(teacher, teacher, batches)
    small = small_of(teacher, batches)
    with pytest.raises(DataError, match="no batch"):
        tk.nn.recover(small, teacher, [])
    with pytest.raises(OptionError, match="max_steps"):
        tk.nn.recover(small, teacher, batches, max_steps=-1)


def test_matching_alone_brings_outputs_nearer(teacher: nn.Module, batches: list[torch.Tensor]) -> None:
    small = small_of(teacher, batches)
    better, report = tk.nn.recover(small, teacher, batches, match_sweeps=3, max_steps=0)
    assert report.steps == 0
    assert report.error_after < report.error_before
    assert len(report.history) >= 2
    torch.manual_seed(2)
    x = torch.randn(256, 24)
    assert mean_error(better, teacher, x) < mean_error(small, teacher, x)


def test_matching_that_harms_is_undone(teacher: nn.Module, batches: list[torch.Tensor]) -> None:
    small = small_of(teacher, batches)
    strangers = [100.0 * torch.ones(64, 24)]  # one input says nothing of the others
    same, report = tk.nn.recover(small, teacher, strangers, validation=batches, max_steps=0)
    assert report.error_after == report.error_before
    assert torch.equal(same(batches[0]), small(batches[0]))


def test_a_teacher_is_asked_once_for_each_batch(teacher: nn.Module, batches: list[torch.Tensor]) -> None:
    small, asked = small_of(teacher, batches), []
    handle = teacher.register_forward_hook(lambda *_: asked.append(1))
    tk.nn.recover(small, teacher, batches, match_sweeps=0, max_steps=30)
    handle.remove()
    assert len(asked) == len(batches)


def test_nothing_asked_of_recovery(teacher: nn.Module, batches: list[torch.Tensor]) -> None:
    with pytest.raises(OptionError, match="match_sweeps"):
        tk.nn.recover(small_of(teacher, batches), teacher, batches, match_sweeps=0, max_steps=0)


def test_a_rate_that_is_too_high_is_lowered(teacher: nn.Module, batches: list[torch.Tensor]) -> None:
    small = small_of(teacher, batches)
    _, report = tk.nn.recover(small, teacher, batches, match_sweeps=0, max_steps=300, learning_rate=1.0)
    assert max(error for _, error in report.history) > 2 * report.error_before
    assert report.error_after < report.error_before


@pytest.mark.parametrize("spec", [tk.nn.LowRankLayer(), tk.nn.NetworkLayer("btt")], ids=str)
def test_defaults_gain_where_inputs_are_uneven(spec: tk.nn.LayerSpec) -> None:
    torch.manual_seed(0)
    mix = torch.linalg.qr(torch.randn(32, 32))[0] * torch.logspace(1, -1, 32)
    model = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 32)).eval()
    batches = [torch.randn(32, 32) @ mix.T for _ in range(120)]
    rules = dict.fromkeys(["0", "2", "4"], spec)
    small, _ = tk.nn.compress(model, tk.Budget(params=0.5), batches[:24], rules, measure=False)
    better, report = tk.nn.recover(small, model, batches[24:], max_steps=400)
    assert report.error_after < 0.97 * report.error_before
    x = torch.randn(500, 32) @ mix.T
    assert mean_error(better, model, x) < 0.97 * mean_error(small, model, x)


def test_a_learning_rate_is_absolute(teacher: nn.Module, batches: list[torch.Tensor]) -> None:
    small = small_of(teacher, batches)
    with torch.no_grad():
        small[0].left.mul_(1e-3)
    state = {name: value.clone() for name, value in small.named_parameters()}
    options = {"validation": batches, "match_sweeps": 0, "max_steps": 1, "inplace": True}
    tk.nn.recover(small, teacher, batches, learning_rate=1e-4, **options)
    changes = {
        name: float((value.detach() - state[name].detach()).abs().max()) for name, value in small.named_parameters()
    }
    assert changes["0.left"] == pytest.approx(changes["2.right"], rel=1e-2)


class _Slow(nn.Module):
    """Says when it is called; a function is not copied with a model."""

    def __init__(self, inner: nn.Module, called: Callable[[], None]) -> None:
        super().__init__()
        self.inner, self.called = inner, called

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.called()
        return self.inner(x)


@pytest.mark.parametrize("limit", [20.0, 60.0, 300.0])
def test_the_time_limit_is_of_the_whole_call(limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Matching, training and validating end in time, by a clock that only the models move."""
    now = [0.0]

    def called() -> None:
        now[0] += 0.25

    torch.manual_seed(0)
    dense = _Slow(nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16)), called)
    batches = [torch.randn(8, 16) for _ in range(40)]
    small, _ = tk.nn.compress(dense, tk.Budget(params=0.5), batches[:4], measure=False)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    now[0] = 0.0
    _, report = tk.nn.recover(small, dense, batches, max_steps=10**6, time_limit_s=limit)
    assert now[0] == report.elapsed_s <= limit
    assert report.elapsed_s > 0.8 * limit
    assert report.steps > 0
    assert report.history[-1][0] == report.steps  # the last state was validated, too
