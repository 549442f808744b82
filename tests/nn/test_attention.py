"""Attention and what is built of it: the packed in-projection is in scope, and every option stays what it was."""

import copy
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tnkit.nn import Budget, FactoredLinear, LowRankLayer, NetworkLayer, compress, load, materialize, restore_, save
from tnkit.nn.opening import OpenAttention, opened_layers

EXACT = {"": LowRankLayer(rank=12, pivoted=True)}


def close(a: torch.Tensor, b: torch.Tensor, tol: float = 1e-5) -> bool:
    return float((a - b).detach().norm()) <= tol * max(float(b.detach().norm()), 1e-3)


def attention(**options: object) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    made = nn.MultiheadAttention(12, 3, **options).double().eval()
    with torch.no_grad():
        for name, p in made.named_parameters():
            if "bias" in name:
                p.normal_()
    return made


def opened(layer: nn.MultiheadAttention) -> OpenAttention:
    found = opened_layers(layer)[""]
    assert isinstance(found, OpenAttention)
    return found


@settings(max_examples=60)
@given(
    batch_first=st.booleans(),
    bias=st.booleans(),
    bias_kv=st.booleans(),
    zero=st.booleans(),
    widths=st.sampled_from([(None, None), (5, 7), (12, 12)]),
    batched=st.booleans(),
    mask=st.sampled_from(["none", "float", "bool", "heads"]),
    padding=st.sampled_from(["none", "bool", "float"]),
    need_weights=st.booleans(),
    average=st.booleans(),
)
def test_an_open_layer_computes_what_the_closed_one_does(
    batch_first: bool,
    bias: bool,
    bias_kv: bool,
    zero: bool,
    widths: tuple[int | None, int | None],
    batched: bool,
    mask: str,
    padding: str,
    need_weights: bool,
    average: bool,
) -> None:
    layer = attention(
        batch_first=batch_first, bias=bias, add_bias_kv=bias_kv, add_zero_attn=zero, kdim=widths[0], vdim=widths[1]
    )
    b, steps, keys = 2, 4, 5

    def data(n: int, width: int) -> torch.Tensor:
        shape = (n, width) if not batched else (b, n, width) if batch_first else (n, b, width)
        return torch.randn(shape, dtype=torch.float64)

    given_mask = torch.rand(steps, keys) > 0.7
    given_mask[:, 0] = False
    options: dict[str, object] = {"need_weights": need_weights, "average_attn_weights": average}
    if mask != "none":
        full = given_mask if mask == "bool" else torch.randn(steps, keys, dtype=torch.float64)
        options["attn_mask"] = full.repeat(3 * (b if batched else 1), 1, 1) if mask == "heads" else full
    if padding != "none":
        hidden = torch.tensor([[False, False, True, False, True]] * b)
        hidden = hidden if batched else hidden[0]
        options["key_padding_mask"] = hidden if padding == "bool" else torch.randn(hidden.shape, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch does not like masks of two kinds
        inputs = data(steps, 12), data(keys, widths[0] or 12), data(keys, widths[1] or 12)
        want, want_weights = layer(*inputs, **options)
    got, got_weights = opened(layer)(*inputs, **options)
    assert got.shape == want.shape
    assert torch.allclose(got, want, atol=1e-9)
    assert (got_weights is None) == (want_weights is None)
    if want_weights is not None:
        assert torch.allclose(got_weights, want_weights, atol=1e-9)


def test_causal() -> None:
    layer, x = attention(batch_first=True), torch.randn(2, 6, 12, dtype=torch.float64)
    mask = nn.Transformer.generate_square_subsequent_mask(6, dtype=torch.float64)
    for need in (True, False):
        want = layer(x, x, x, attn_mask=mask, is_causal=True, need_weights=need)[0]
        assert torch.allclose(opened(layer)(x, x, x, attn_mask=mask, is_causal=True, need_weights=need)[0], want)
    with pytest.raises(RuntimeError, match="attn_mask"):
        opened(layer)(x, x, x, is_causal=True)


def test_the_face_of_the_layer() -> None:
    layer = attention()
    face = opened(layer)
    assert isinstance(face, nn.MultiheadAttention)
    assert torch.equal(face.in_proj_weight, layer.in_proj_weight)
    assert torch.equal(face.in_proj_bias, layer.in_proj_bias)
    assert face.q_proj_weight is None
    assert face.q_proj.weight.data_ptr() == layer.in_proj_weight.data_ptr()  # no second copy of the weights
    other = attention(kdim=5, vdim=7, bias=False)
    face = opened(other)
    assert face.in_proj_weight is None
    assert face.in_proj_bias is None
    assert torch.equal(face.k_proj_weight, other.k_proj_weight)


@pytest.mark.parametrize("widths", [(None, None), (5, 7)])
@pytest.mark.parametrize("inplace", [True, False])
def test_the_in_projection_is_in_scope(widths: tuple[int | None, int | None], inplace: bool) -> None:
    model = nn.ModuleDict({"attn": attention(kdim=widths[0], vdim=widths[1])})
    dense = sum(p.numel() for p in model.parameters())
    original = copy.deepcopy(model)
    small, report = compress(model, Budget(params=0.6), inplace=inplace)
    assert sum(p.numel() for p in small.parameters()) == report.params_after <= 0.6 * dense
    assert report.params_before == report.scope_params_before == dense
    assert {r.name for r in report.layers} == {f"attn.{n}" for n in ("q_proj", "k_proj", "v_proj", "out_proj")}
    assert isinstance(small["attn"].q_proj, FactoredLinear)
    if inplace:
        assert small is model
    else:
        assert type(model["attn"]) is nn.MultiheadAttention
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), original.parameters(), strict=True))
    back = materialize(small)["attn"]
    assert type(back) is nn.MultiheadAttention
    x = torch.randn(4, 2, 12, dtype=torch.float64)
    k, v = (torch.randn(5, 2, w or 12, dtype=torch.float64) for w in widths)
    assert torch.allclose(back(x, k, v)[0], small["attn"](x, k, v)[0])


def test_exact_at_full_rank_and_closed_where_nothing_changed() -> None:
    layer = attention()
    small, _ = compress(layer, None, rules=EXACT)
    assert type(small) is nn.MultiheadAttention  # rank 12 of 12 x 12 is no smaller
    small, _ = compress(layer, None, rules={"out_proj": LowRankLayer(rank=3), "": LowRankLayer(rank=12)})
    assert type(small) is nn.MultiheadAttention
    assert isinstance(small.out_proj, FactoredLinear)
    rules = {"re:[qkv]_proj": NetworkLayer("kron", rank=1000, keep=None), "": None}
    x = torch.randn(4, 2, 12, dtype=torch.float64)
    spec = LowRankLayer(rank=11)
    rules = {"q_proj": spec, "": None}
    with torch.no_grad():
        layer.in_proj_weight[:12] = layer.in_proj_weight[:11].T @ layer.in_proj_weight[:11]  # rank 11
    small, _ = compress(layer, None, rules=rules)
    assert isinstance(small, OpenAttention)
    assert torch.allclose(small(x, x, x)[0], layer(x, x, x)[0], atol=1e-9)


def test_layers_with_one_packed_weight_still_share_it() -> None:
    model = nn.ModuleList([attention(), attention()])
    model[1].in_proj_weight = model[0].in_proj_weight
    small, report = compress(model, Budget(params=0.6))
    assert small[0].q_proj.left is small[1].q_proj.left
    assert report.params_before == sum(p.numel() for p in model.parameters())
    assert report.params_after == sum(p.numel() for p in small.parameters())


def test_a_failure_leaves_the_model_closed() -> None:
    model = nn.ModuleDict({"attn": attention()})
    layer = model["attn"]

    def batches() -> object:
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        compress(model, Budget(params=0.5), calib=batches())
    assert model["attn"] is layer


def test_query_key_and_value_share_one_gram_matrix() -> None:
    from tnkit.nn import calibrate

    for batch_first in (True, False):
        model = nn.TransformerEncoderLayer(12, 3, 20, batch_first=batch_first).eval()
        stats = calibrate(model, [torch.randn(4, 5, 12)])
        grams = [stats[f"self_attn.{n}"].gram for n in ("q_proj", "k_proj", "v_proj")]
        assert grams[0] is grams[1] is grams[2]
        assert stats["self_attn.out_proj"].count == 20
        assert type(model.self_attn) is nn.MultiheadAttention


class TestEncoder:
    @staticmethod
    def model(**options: object) -> nn.TransformerEncoder:
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, **options)
        return nn.TransformerEncoder(layer, 2).eval()

    def test_half_of_an_encoder_layer_really_goes(self) -> None:
        layer, x = self.model().layers[0], torch.randn(8, 7, 16)
        small, report = compress(layer, Budget(params=0.5), calib=[x])
        dense = sum(p.numel() for p in layer.parameters()) - 4 * 16  # norms
        assert report.scope_params_before == dense
        assert sum(p.numel() for p in small.parameters()) - 4 * 16 <= 0.5 * dense
        assert all(r.weighted for r in report.layers)
        assert close(small(x), layer(x), 0.5)

    @pytest.mark.parametrize("rules", [{"linear*": LowRankLayer(rank=15)}, {"self_attn": LowRankLayer(rank=15)}])
    def test_the_fast_path_is_safe(self, rules: dict[str, LowRankLayer]) -> None:
        layer, x = self.model().layers[0], torch.randn(2, 5, 16)
        small, _ = compress(layer, None, rules={**rules, "": None})
        with torch.no_grad():
            fast = small(x)
            assert close(fast, layer(x), 0.5)
        assert torch.allclose(fast, small(x), atol=1e-5)  # with gradients there is no fast path
        assert small.activation_relu_or_gelu == 0
        back = restore_(small)
        assert back.activation_relu_or_gelu == 1
        with torch.no_grad():
            assert torch.allclose(back(x), fast, atol=1e-5)

    def test_padding_masks_and_nested_tensors(self) -> None:
        model, x = self.model(), torch.randn(3, 6, 16)
        hidden = torch.zeros(3, 6, dtype=torch.bool)
        hidden[0, 4:] = hidden[1, 2:] = True
        small, _ = compress(model, Budget(params=0.97), calib=[x])
        assert any(isinstance(m, OpenAttention) for m in small.modules())
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            want = model(x, src_key_padding_mask=hidden)
            got = small(x, src_key_padding_mask=hidden)
        assert close(got[~hidden], want[~hidden], 0.3)
        assert torch.isfinite(got).all()

    def test_a_decoder_layer_and_a_whole_transformer(self) -> None:
        torch.manual_seed(0)
        model = nn.Transformer(16, 4, 1, 1, 24, batch_first=True).eval()
        batch = torch.randn(2, 5, 16), torch.randn(2, 3, 16)
        small, report = compress(model, Budget(params=0.5), calib=[batch])
        assert report.kept <= 0.5
        assert {"decoder.layers.0.multihead_attn.k_proj", "encoder.layers.0.self_attn.q_proj"} <= {
            r.name for r in report.layers
        }
        assert torch.isfinite(small(*batch)).all()
        small.train()(*batch).sum().backward()
        assert all(p.grad is not None for p in small.decoder.parameters())

    def test_a_subclass_that_attends_in_its_own_way_stays_closed(self) -> None:
        class Own(nn.MultiheadAttention):
            def forward(self, *args: object, **options: object) -> object:
                return super().forward(*args, **options)

        small, report = compress(nn.ModuleDict({"a": Own(12, 3), "b": nn.Linear(12, 12)}), Budget(params=0.9))
        assert type(small["a"]) is Own
        assert {r.name for r in report.layers} == {"a.out_proj", "b"}

    def test_copies_save_and_load(self, tmp_path: object) -> None:
        model, x = self.model(), torch.randn(2, 5, 16)
        small, _ = compress(model, Budget(params=0.5))
        want = small(x)
        assert torch.equal(copy.deepcopy(small)(x), want)
        path = save(small, f"{tmp_path}/m.safetensors")
        for base in (self.model(), small):
            again = load(path, base=base)
            assert torch.allclose(again(x), want, atol=1e-6)
            assert isinstance(again.layers[0].self_attn, OpenAttention)
        exported = torch.export.export(small, (x,))
        assert torch.allclose(exported.module()(x), want, atol=1e-5)
        compiled = torch.compile(small, fullgraph=True, backend="eager")
        assert torch.allclose(compiled(x), want, atol=1e-5)

    def test_recompressing(self) -> None:
        half, _ = compress(self.model(), Budget(params=0.6))
        quarter, report = compress(half, Budget(params=0.6))
        assert report.params_before == sum(p.numel() for p in half.parameters())
        assert report.kept <= 0.6
        assert torch.isfinite(quarter(torch.randn(2, 5, 16))).all()

    def test_hooks_and_modes_go_along(self) -> None:
        layer, seen = self.model().layers[0], []
        layer.self_attn.register_forward_hook(lambda m, args, out: seen.append(type(m).__name__))
        small, _ = compress(layer.train(), Budget(params=0.5))
        small(torch.randn(2, 5, 16))
        assert seen[-1] == "OpenAttention"
        assert small.self_attn.training
