"""compress: rules, budgets, ties, copies; what it refuses, and that nothing is half done."""

import copy
import json
from collections import UserDict

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from tnkit.errors import BudgetError, DataError, DTypeError, OptionError, RankError, UnknownNameError
from tnkit.nn import (
    Budget,
    ChannelSVD,
    FactoredConv,
    FactoredLinear,
    LowRankLayer,
    Tucker2,
    compress,
    compress_layer,
    materialize,
    restore_,
)


def cnn() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 24, 3, stride=2), nn.ReLU(), nn.Conv2d(24, 24, 1),
        nn.Flatten(), nn.Linear(24 * 9, 30), nn.ReLU(), nn.Linear(30, 10),
    )  # fmt: skip


def images(n: int = 8) -> torch.Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Tied(nn.Module):
    """A head tied to an embedding, and two linear layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(40, 16), nn.Linear(16, 40, bias=False)
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)
        self.head.weight, self.b.weight = self.embed.weight, self.a.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.b(self.a(self.embed(ids)).relu()))


def n_params(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


class TestBudgets:
    @pytest.mark.parametrize("params", [0.9, 0.5, 0.2, 3000])
    @pytest.mark.parametrize("calibrated", [True, False])
    @pytest.mark.parametrize("allocation", ["greedy", "uniform"])
    def test_parameters(self, params: float, calibrated: bool, allocation: str) -> None:
        model = cnn()
        small, report = compress(
            model, Budget(params=params), calib=[images()] if calibrated else None, allocation=allocation, measure=False
        )
        dense = n_params(model)
        limit = params if isinstance(params, int) else params * dense
        assert report.params_before == report.scope_params_before == dense
        assert report.params_after == report.scope_params_after == n_params(small) <= limit
        if allocation == "greedy":
            assert n_params(small) > 0.97 * limit
        assert sum(layer.params_after for layer in report.layers) == n_params(small)
        assert all(layer.params_after <= layer.params_before for layer in report.layers)
        assert small(images()).shape == (8, 10)

    def test_a_bare_number(self) -> None:
        assert compress(cnn(), 0.5)[1].kept <= 0.5

    def test_bytes(self) -> None:
        _, report = compress(cnn(), Budget(bytes=0.4))
        assert report.bytes_after <= 0.4 * report.bytes_before + 8 * 24  # index buffers of the pivots are not counted

    def test_flops(self) -> None:
        _, report = compress(cnn(), Budget(flops=0.5), calib=[images()])
        assert report.flops_after <= 0.5 * report.flops_before
        assert report.flops_after > 0.45 * report.flops_before

    def test_several_at_once(self) -> None:
        _, report = compress(cnn(), Budget(params=0.6, flops=0.4, bytes=0.7), calib=[images()])
        assert report.kept <= 0.6
        assert report.flops_after <= 0.4 * report.flops_before

    def test_error(self) -> None:
        model = cnn()
        _, report = compress(model, Budget(max_error=0.3), calib=[images(64)])
        assert all(layer.rel_error <= 0.3 for layer in report.layers)
        assert report.kept < 1
        _, exact = compress(model, Budget(max_error=0.0), calib=[images(64)])
        assert exact.output_error < 1e-5

    def test_drop_of_a_score(self) -> None:
        model, x = cnn(), images(32)
        wanted = model(x).detach()
        scores = []

        def score(m: nn.Module) -> float:
            assert not m.training
            scores.append(-float((m(x) - wanted).norm() / wanted.norm()))
            return scores[-1]

        _, report = compress(model, Budget(max_drop=0.4), calib=[x], eval_fn=score)
        assert report.score_before == 0
        assert -0.4 <= report.score_after < -0.05
        with pytest.raises(BudgetError, match="max_drop"):
            compress(model, Budget(max_drop=1e-4, params=0.2), calib=[x], eval_fn=score)

    def test_latency(self) -> None:
        model = cnn()
        small, report = compress(model, Budget(latency_ms=1e6), calib=[images()])
        for layer in report.layers:
            if layer.compressed:
                assert layer.ms_after < layer.ms_before
            else:
                assert layer.reason
        assert small(images()).shape == (8, 10)
        with pytest.raises(BudgetError, match="fastest"):
            compress(model, Budget(latency_ms=1e-6), calib=[images()])

    def test_everything_may_stay(self) -> None:
        small, report = compress(cnn(), Budget(params=1.0))
        assert report.kept == 1
        assert not any(layer.compressed for layer in report.layers)
        assert small is not None


class TestRules:
    def test_first_match_wins(self) -> None:
        rules = {"2": ChannelSVD(rank=4), "re:[0-4]": Tucker2(rank=(3, 3)), "*": None}
        small, report = compress(cnn(), None, rules=rules)
        kinds = {layer.name: layer.spec for layer in report.layers}
        assert kinds == {"0": "Tucker2", "2": "ChannelSVD", "4": "Tucker2", "6": "", "8": ""}
        assert isinstance(small[6], nn.Linear)
        assert next(layer for layer in report.layers if layer.name == "6").reason == "excluded by rule '*'"

    def test_a_name_means_all_below(self) -> None:
        model = nn.ModuleDict({"a": nn.Sequential(nn.Linear(9, 9), nn.Linear(9, 9)), "ab": nn.Linear(9, 9)})
        _, report = compress(model, Budget(params=0.5), rules={"a": None})
        assert {layer.name: layer.compressed for layer in report.layers} == {"ab": True, "a.0": False, "a.1": False}

    def test_fixed_layers_count_against_the_budget(self) -> None:
        _, report = compress(cnn(), Budget(params=0.5), rules={"6": LowRankLayer(keep=0.5, pivoted=False)})
        fixed = next(layer for layer in report.layers if layer.name == "6")
        assert 0.4 * 6480 < fixed.params_after <= 0.5 * 6480 + 30
        assert report.kept <= 0.5

    def test_keep_and_error_of_a_layer(self) -> None:
        layer = nn.Linear(40, 30)
        result = compress_layer(layer, LowRankLayer(max_error=0.5))
        assert 0.3 < result.report.rel_error <= 0.5
        with pytest.raises(BudgetError, match=r"max_error=0\.01"):
            compress_layer(layer, LowRankLayer(keep=0.3, max_error=0.01))
        with pytest.raises(BudgetError, match="smallest rank takes"):
            compress_layer(layer, LowRankLayer(keep=0.01))

    def test_a_rank_above_break_even_stays_dense(self) -> None:
        model = nn.Sequential(nn.Linear(10, 10))
        small, report = compress(model, None, rules={"0": LowRankLayer(rank=9, pivoted=False)})
        assert type(small[0]) is nn.Linear
        assert "smaller" in report.layers[0].reason


class TestTies:
    def test_tied_linear_layers_stay_tied_and_a_tied_embedding_stays_dense(self) -> None:
        model = Tied()
        ids = torch.arange(40)[None]
        small, report = compress(model, Budget(params=0.6), calib=[(ids,)])
        assert small.a.left is small.b.left
        assert small.a.right is small.b.right
        assert small.a.bias is not small.b.bias
        assert torch.equal(small.b.bias, model.b.bias)
        assert type(small.head) is nn.Linear
        assert small.head.weight is small.embed.weight
        reasons = {layer.name: layer.reason for layer in report.layers}
        assert "tied to embed" in reasons["head"]
        assert "shared with b" in reasons["a"]
        assert report.params_before == n_params(model)
        assert report.params_after == n_params(small)
        back = materialize(small)
        assert back.a.weight is back.b.weight

    def test_the_gram_matrix_of_tied_layers_is_that_of_both(self) -> None:
        model = Tied()
        ids = torch.arange(40)[None]
        small, _ = compress(model, None, calib=[(ids,)], rules={"a": LowRankLayer(rank=16), "b": LowRankLayer(rank=16)})
        assert type(small.a) is nn.Linear  # rank 16 of 16x16 is not smaller

    def test_one_module_under_two_names(self) -> None:
        layer = nn.Linear(12, 12)
        model = nn.Sequential(layer, nn.ReLU(), layer)
        for inplace in (False, True):
            small, report = compress(model, Budget(params=0.5), calib=[torch.randn(4, 12)], inplace=inplace)
            assert small[0] is small[2]
            assert isinstance(small[0], FactoredLinear)
            assert len(report.layers) == 1


class TestCopies:
    def test_the_given_model_is_left_alone(self) -> None:
        model = cnn().train()
        before = copy.deepcopy(model.state_dict())
        small, _ = compress(model, Budget(params=0.3), calib=[images()])
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
        assert model.training
        assert small.training
        assert not any(isinstance(m, FactoredLinear | FactoredConv) for m in model.modules())
        ours = {p.data_ptr() for p in model.parameters()}
        assert not ours & {p.data_ptr() for p in small.parameters()}

    def test_in_place(self) -> None:
        model = cnn()
        small, report = compress(model, Budget(params=0.3), inplace=True)
        assert small is model
        assert n_params(model) == report.params_after

    def test_a_failure_in_place_changes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = cnn()
        modules = list(model)
        real, calls = nn.Module.__setattr__, []

        def failing(self: nn.Module, name: str, value: object) -> None:
            if self is model and isinstance(value, nn.Module):
                calls.append(name)
                if len(calls) == 2:
                    raise KeyboardInterrupt
            real(self, name, value)

        monkeypatch.setattr(nn.Module, "__setattr__", failing)
        with pytest.raises(KeyboardInterrupt):
            compress(model, Budget(params=0.3), inplace=True)
        assert len(calls) == 2
        assert list(model) == modules

    def test_hooks_go_along(self) -> None:
        model, seen = cnn(), []
        model[6].register_forward_hook(lambda m, args, out: seen.append(type(m).__name__))
        small, _ = compress(model, Budget(params=0.3))
        small(images())
        assert seen == ["FactoredLinear"]

    def test_restore(self) -> None:
        small, _ = compress(cnn(), Budget(params=0.3))
        wanted = small(images())
        dense = materialize(small)
        assert [type(m) for m in dense] == [type(m) for m in cnn()]
        assert torch.allclose(dense(images()), wanted, atol=1e-5)
        assert any(isinstance(m, FactoredLinear) for m in small.modules())
        assert restore_(small) is small
        assert torch.allclose(small(images()), wanted, atol=1e-5)

    def test_the_global_random_state_is_not_touched(self) -> None:
        model = cnn()
        state = torch.get_rng_state()
        small, _ = compress(model, Budget(params=0.3), calib=[images()])
        materialize(small)
        assert torch.equal(state, torch.get_rng_state())

    def test_recompressing_a_compressed_model(self) -> None:
        half, _ = compress(cnn(), Budget(params=0.5))
        quarter, report = compress(half, Budget(params=0.5))
        assert report.params_before == n_params(half)
        assert n_params(quarter) <= 0.5 * n_params(half)

    def test_training_after_compression(self) -> None:
        small, _ = compress(cnn(), Budget(params=0.3), calib=[images()])
        optimizer = torch.optim.SGD(small.parameters(), lr=1e-2)
        losses = []
        for _ in range(5):
            optimizer.zero_grad()
            loss = small(images()).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < losses[0]


class TestReport:
    def test_what_is_in_it(self) -> None:
        model = cnn()
        small, report = compress(model, Budget(params=0.4), calib=[images(), images()])
        assert report.ms_before > 0
        assert report.ms_after > 0
        wrong = (small(images()) - model(images())).detach().norm() / model(images()).detach().norm()
        assert report.output_error == pytest.approx(float(wrong), rel=1e-3)
        macs = 8 * (64 * 16 * 27 + 9 * 24 * 144 + 9 * 24 * 24 + 24 * 9 * 30 + 30 * 10)
        assert report.flops_before == 2 * macs
        for layer in report.layers:
            if layer.compressed:
                assert layer.weighted
                assert layer.ms_before > 0
                assert layer.bytes_after >= 4 * layer.params_after
        assert "Conv2d -> Tucker2" in str(report)
        assert report.to_markdown().startswith("| layer |")
        assert json.loads(report.to_json())["layers"][0]["name"] == "0"

    def test_flops_are_of_the_layers_in_scope(self) -> None:
        _, report = compress(cnn(), Budget(params=0.6), calib=[images()], rules={"8": None})
        assert report.flops_before == sum(r.flops_before for r in report.layers if r.name != "8")
        assert "FLOPs" in str(report)

    def test_without_calibration_it_says_so(self) -> None:
        _, report = compress(cnn(), Budget(params=0.4))
        assert "no calibration data" in str(report)
        assert report.ms_before is None
        assert report.flops_before is None

    def test_mapping_batches(self) -> None:
        class Keyword(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.fc = nn.Linear(12, 12)

            def forward(self, *, x: torch.Tensor) -> dict[str, torch.Tensor]:
                return {"y": self.fc(input=x)}

        _, report = compress(Keyword(), Budget(params=0.5), calib=[UserDict(x=torch.randn(20, 12))])
        assert report.layers[0].weighted
        assert report.output_error > 0

    def test_a_layer_that_no_batch_calls(self) -> None:
        class Part(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.used, self.unused = nn.Linear(12, 12), nn.Linear(12, 12)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.used(x)

        _, report = compress(Part(), Budget(params=0.5), calib=[torch.randn(4, 12)])
        assert "unused" in str(report)
        assert [layer.weighted for layer in report.layers] == [True, False]


class TestRefusals:
    """Every request that cannot be carried out is refused before any work, by an exception that says what to do."""

    def test_no_bound(self) -> None:
        with pytest.raises(OptionError, match="no bound"):
            compress(cnn(), Budget())
        with pytest.raises(OptionError, match="leaves the rank open"):
            compress_layer(nn.Linear(4, 4), LowRankLayer())

    def test_nothing_in_scope(self) -> None:
        with pytest.raises(OptionError, match="no layer"):
            compress(nn.Sequential(nn.ReLU()), Budget(params=0.5))
        with pytest.raises(OptionError, match="excluded"):
            compress(nn.Linear(4, 4), Budget(params=0.5), rules={"": None})

    def test_a_layer_type_without_a_view(self) -> None:
        with pytest.raises(OptionError, match=r"Layer types with a view: .*Linear"):
            compress_layer(nn.Bilinear(3, 3, 3), LowRankLayer(rank=1))
        with pytest.raises(OptionError, match=r"LSTM.*several weights"):
            compress_layer(nn.LSTM(3, 3), LowRankLayer(rank=1))
        with pytest.raises(OptionError, match="Bilinear"):
            compress(nn.Sequential(nn.Bilinear(3, 3, 3), nn.Linear(3, 3)), None, rules={"0": LowRankLayer(rank=1)})

    def test_a_subclass_that_computes_in_its_own_way_stays_dense(self) -> None:
        class Scaled(nn.Linear):
            def forward(self, input: torch.Tensor) -> torch.Tensor:
                return 2 * super().forward(input)

        model = nn.Sequential(Scaled(9, 9), nn.Linear(9, 9), weight_norm(nn.Linear(9, 9)))
        small, report = compress(model, Budget(params=0.5))
        assert [layer.compressed for layer in report.layers] == [True, False, False]
        assert type(small[0]) is Scaled
        with pytest.raises(OptionError, match="own way"):
            compress_layer(Scaled(4, 4), LowRankLayer(rank=1))

    def test_weights_that_are_not_finite(self) -> None:
        model = cnn()
        with torch.no_grad():
            model[6].weight[0, 0] = float("nan")
        with pytest.raises(DataError, match=r"'6'.*1 NaN"):
            compress(model, Budget(params=0.5))
        compress(model, Budget(params=0.5), rules={"6": None})

    def test_weights_without_values(self) -> None:
        with pytest.raises(DataError, match="meta"):
            compress(nn.Linear(4, 4, device="meta"), Budget(params=0.5))
        with pytest.raises(DataError, match="not initialised"):
            compress(nn.Sequential(nn.LazyLinear(4)), Budget(params=0.5))

    def test_weights_that_are_no_floats(self) -> None:
        model = nn.Linear(4, 4)
        model.weight = nn.Parameter(torch.ones(4, 4, dtype=torch.int8), requires_grad=False)
        with pytest.raises(DTypeError, match="int8"):
            compress(model, Budget(params=0.5))

    @pytest.mark.parametrize("budget", [Budget(params=1.5), Budget(params=10**6), Budget(bytes=10**7)])
    def test_a_budget_above_dense(self, budget: Budget) -> None:
        with pytest.raises(BudgetError, match="more than"):
            compress(cnn(), budget)

    @pytest.mark.parametrize("budget", [Budget(params=10), Budget(params=0.001), Budget(bytes=100)])
    def test_a_budget_that_cannot_be_met(self, budget: Budget) -> None:
        calls = []
        with pytest.raises(BudgetError, match="at least"):
            compress(cnn(), budget, calib=(calls.append(1) or images() for _ in range(1)))
        assert not calls  # refused before any work

    def test_rules_that_are_wrong(self) -> None:
        with pytest.raises(UnknownNameError, match="Did you mean 'encoder'"):
            compress(nn.ModuleDict({"encoder": nn.Linear(4, 4)}), 0.5, rules={"encodr": None})
        with pytest.raises(OptionError, match="regular expression"):
            compress(cnn(), 0.5, rules={"re:(": None})
        with pytest.raises(OptionError, match="LowRankLayer"):
            compress(cnn(), 0.5, rules={"0": 8})
        with pytest.raises(OptionError, match=r"ChannelSVD, .*Tucker2"):
            compress(cnn(), 0.5, rules={"0": LowRankLayer(rank=2)})
        with pytest.raises(RankError, match="not admissible"):
            compress(cnn(), 0.5, rules={"8": LowRankLayer(rank=11)})

    def test_options_that_are_missing(self) -> None:
        with pytest.raises(OptionError, match="eval_fn"):
            compress(cnn(), Budget(max_drop=0.1))
        with pytest.raises(OptionError, match="calib"):
            compress(cnn(), Budget(latency_ms=1.0))
        with pytest.raises(OptionError, match="calib"):
            compress(cnn(), Budget(flops=0.5))
        with pytest.raises(OptionError, match="allocation"):
            compress(cnn(), 0.5, allocation="fair")
        with pytest.raises(OptionError, match=r"torch.nn.Module"):
            compress("model", 0.5)
        with pytest.raises(OptionError, match="in place"):
            compress(nn.Linear(9, 9), 0.5, inplace=True)
        with pytest.raises(OptionError, match="one number"):
            compress(cnn(), 0.5, eval_fn=lambda m: None)
        with pytest.raises(OptionError, match="iterable of batches"):
            compress(cnn(), 0.5, calib=images())
        with pytest.raises(DataError, match="no batch"):
            compress(cnn(), 0.5, calib=[])

    @pytest.mark.parametrize(
        "options", [{"keep": 0.0}, {"keep": 1.1}, {"max_error": -0.1}, {"execution": "fast"}, {"rank": 2, "keep": 0.5}]
    )
    def test_specifications(self, options: dict[str, object]) -> None:
        with pytest.raises(OptionError):
            LowRankLayer(**options)
