"""Sequential correction, and what of the outputs counts."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tnkit as tk
from tnkit.errors import OptionError
from tnkit.nn import sequential
from tnkit.nn.outputs import felt_outputs
from tnkit.nn.streams import Place, meetings


def deep(width: int = 32, *, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(layer for _ in range(4) for layer in (nn.Linear(width, width, bias=bias), nn.ReLU())),
        nn.Linear(width, 8, bias=bias),
    )


def batches(width: int = 32, *, count: int = 9) -> list[Tensor]:
    rng = torch.Generator().manual_seed(1)
    mix = torch.randn(width, width, generator=rng) * torch.arange(1, width + 1) ** -0.5
    return [torch.randn(64, width, generator=rng) @ mix + 0.5 for _ in range(count)]


@torch.no_grad()
def error(model: nn.Module, small: nn.Module, of: list[Tensor]) -> float:
    wrong = sum(float((small(b) - model(b)).square().sum()) for b in of)
    return (wrong / sum(float(model(b).square().sum()) for b in of)) ** 0.5


@pytest.mark.parametrize("bias", [True, False])
def test_the_compressed_model_is_nearer_on_other_inputs(bias: bool) -> None:
    model, seen = deep(bias=bias), batches(count=33)
    seen, others = seen[:17], seen[17:]
    plain, _ = tk.nn.compress(model, 0.4, seen, sequential=0, measure=False)
    better, report = tk.nn.compress(model, 0.4, seen, measure=False)
    assert error(model, better, others) < 0.95 * error(model, plain, others)
    assert report.kept <= 0.4


def test_never_worse_on_what_is_held_out() -> None:
    model, seen = deep(), batches(count=16)
    errors = []
    for sweeps in range(4):
        small, _ = tk.nn.compress(model, 0.3, seen, sequential=sweeps, measure=False)
        errors.append(error(model, small, seen[7::8]))
    assert errors == sorted(errors, reverse=True)


def test_nothing_to_correct_at_full_rank() -> None:
    model, seen = deep(), batches()
    rules = {"": tk.nn.LowRankLayer(rank=8), "8": None}
    with torch.no_grad():
        for layer in list(model)[:-1:2]:
            layer.weight.copy_(layer.weight[:, :8] @ layer.weight[:8])
    small, _ = tk.nn.compress(model, None, seen, rules, measure=False)
    assert error(model, small, seen) < 1e-5


@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_that_read_patches(groups: int) -> None:
    torch.manual_seed(0)
    kinds = {"groups": groups, "padding": 1, "stride": 2}
    model = nn.Sequential(nn.Conv2d(4, 8, 3, **kinds), nn.ReLU(), nn.Conv2d(8, 16, 3, **kinds), nn.ReLU())
    seen = [torch.randn(8, 4, 20, 20) + 0.3 for _ in range(16)]
    rules = {"": tk.nn.ChannelSVD(keep=0.5)}
    small, _ = tk.nn.compress(model, None, seen, rules, sequential=0, measure=False)
    better, _ = tk.nn.compress(model, None, seen, rules, measure=False)
    assert error(model, better, seen) < error(model, small, seen)


def test_an_iterator_is_gone_through_once() -> None:
    model, seen = deep(), batches()

    def once() -> Iterator[Tensor]:
        yield from seen

    small, _ = tk.nn.compress(model, 0.4, once(), measure=False)
    plain, _ = tk.nn.compress(model, 0.4, seen, sequential=0, measure=False)
    assert error(small, plain, seen) == 0.0


def test_errors_that_are_bounded_stay_so() -> None:
    _, report = tk.nn.compress(deep(), tk.Budget(max_error=0.2), batches(), measure=False)
    assert all(layer.rel_error <= 0.2 for layer in report.layers)


def test_logits_count_as_probabilities() -> None:
    logits = torch.randn(5, 7, requires_grad=True)
    (psi,) = felt_outputs(nn.Identity(), logits, "logits")
    assert torch.allclose(psi.square().sum(-1), torch.full((5,), 4.0), atol=1e-5)
    step, here = 1e-2 * torch.randn(5, 7), psi.detach()
    (near,) = felt_outputs(nn.Identity(), logits + step, "logits")
    kl = F.kl_div((logits + step).log_softmax(-1), logits.log_softmax(-1), log_target=True, reduction="sum").detach()
    assert float((near.detach() - here).square().sum()) == pytest.approx(2 * float(kl), rel=0.02)
    psi.sum().backward()
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())
    (sure,) = felt_outputs(nn.Identity(), torch.tensor([[500.0, 0.0]], requires_grad=True), "logits")
    assert bool(torch.autograd.grad(sure.sum(), sure)[0].isfinite().all())


def test_scores_of_tokens_are_known_by_their_number() -> None:
    class Scores(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(11, 4), nn.Linear(4, width)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.table(ids))

    ids = torch.arange(11)[None]
    for width, felt in ((11, True), (4, False)):
        model = Scores(width)
        (found,) = felt_outputs(model, model(ids))
        assert torch.allclose(found.square().sum(-1), torch.full((1, 11), 4.0), atol=1e-4) is felt
    (named,) = felt_outputs(nn.Identity(), {"logits": torch.zeros(1, 4)})
    assert torch.equal(named, torch.ones(1, 4))


def test_options_out_of_range() -> None:
    with pytest.raises(OptionError, match="sequential"):
        tk.nn.compress(deep(), 0.5, batches(), sequential=-1)
    with pytest.raises(OptionError, match="outputs"):
        tk.nn.compress(deep(), 0.5, batches(), outputs="scores")  # type: ignore[arg-type]


class Shortcuts(nn.Module):
    """Blocks x + down(relu(up(norm x))), between a layer that no shortcut passes on either side."""

    def __init__(self, width: int = 24, depth: int = 4, *, inplace: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(width, width), nn.Linear(width, 8)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.ups = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(depth))
        self.downs = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(depth))
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for norm, up, down in zip(self.norms, self.ups, self.downs, strict=True):
            y = down(up(norm(x)).relu())
            x = y.add_(x) if self.inplace else x + y
        return self.last(x)


@pytest.mark.parametrize("inplace", [False, True])
def test_places_where_outputs_are_met_in_a_sum(inplace: bool) -> None:
    names = ["first", "last", *(f"{k}.{i}" for k in ("ups", "downs") for i in "0123")]
    found = meetings(model := Shortcuts(inplace=inplace), names, torch.randn(5, 24))
    assert found == {
        **{f"downs.{i}": Place(f"norms.{i + 1}", "input") for i in range(3)},
        "downs.3": Place("last", "input"),
    }
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_no_place_where_outputs_are_scaled_or_only_passed_on() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.drop = nn.Linear(4, 4), nn.Linear(4, 4), nn.Dropout()

        def forward(self, x: Tensor) -> Tensor:
            return self.drop(self.one(x)) * 2 + self.two(x) * x

    assert meetings(Scaled(), ["one", "two"], torch.randn(5, 4)) == {}


@pytest.mark.parametrize("inplace", [False, True])
def test_errors_of_a_stream_are_mended(inplace: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = Shortcuts(inplace=inplace), batches(24, count=33)
    seen, others = seen[:17], seen[17:]
    mended, _ = tk.nn.compress(model, 0.4, seen, measure=False)
    monkeypatch.setattr(sequential, "meetings", lambda *_: {})
    plain, _ = tk.nn.compress(model, 0.4, seen, measure=False)
    assert error(model, mended, others) < 0.97 * error(model, plain, others)
