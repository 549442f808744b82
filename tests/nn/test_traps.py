"""What other libraries were seen to get wrong, each by name."""

import time
from math import prod
from typing import Any

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5EncoderModel

from tnkit.nn import (
    Budget,
    ChannelSVD,
    CPLayer,
    FactoredConv1D,
    FactoredLinear,
    LowRankLayer,
    NetworkLayer,
    SpatialSVD,
    Tucker2,
    compress,
    compress_layer,
    weighted_lowrank,
)
from tnkit.tensorize import factors_for

CONVOLUTIONS = [
    Tucker2(max_error=1e-6),
    ChannelSVD(max_error=1e-7),
    SpatialSVD(max_error=1e-7),
    NetworkLayer("tt", rank=1000),
]


def exact(conv: nn.Module, x: torch.Tensor, tol: float = 1e-4) -> None:
    for spec in CONVOLUTIONS:
        module = compress_layer(conv, spec).module
        module.execution = "factored"
        assert module(x).shape == conv(x).shape
        assert float((module(x) - conv(x)).detach().float().norm()) <= tol * float(conv(x).detach().float().norm())


def test_an_asymmetric_stride_is_not_dropped() -> None:
    exact(nn.Conv2d(4, 6, 3, stride=(1, 2)), torch.randn(2, 4, 9, 9))


def test_the_padding_mode_is_not_ignored() -> None:
    for mode in ("reflect", "circular", "replicate"):
        exact(nn.Conv2d(4, 6, 3, padding=(2, 1), padding_mode=mode), torch.randn(2, 4, 9, 9))


def test_groups_padding_same_and_transposed_convolutions_do_not_crash() -> None:
    exact(nn.Conv2d(4, 6, 3, groups=2), torch.randn(2, 4, 9, 9))
    exact(nn.Conv2d(4, 6, 3, padding="same"), torch.randn(2, 4, 9, 9))
    exact(nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1, groups=2), torch.randn(2, 4, 5, 5))


def test_bfloat16_does_not_crash() -> None:
    exact(nn.Conv2d(4, 6, 3, dtype=torch.bfloat16), torch.randn(2, 4, 9, 9, dtype=torch.bfloat16), 0.05)


def test_prime_sizes_do_not_crash() -> None:
    layer, x = nn.Linear(101, 97), torch.randn(3, 101)
    for spec in (NetworkLayer("ttm", rank=4), NetworkLayer("btt", rank=2), NetworkLayer("kron", rank=3)):
        module = compress_layer(layer, spec).module
        assert module(x).shape == (3, 97)
        assert module.n_factor_params() < 101 * 97


def test_a_vocabulary_is_not_split_into_lopsided_factors() -> None:
    assert max(factors_for(30522, 3)) <= 2 * 30522 ** (1 / 3)
    module = compress_layer(nn.Embedding(30522, 8), NetworkLayer("ttm", rank=2)).module
    rows = module.form.modes[: module.form.n_rows]
    assert prod(rows) >= 30522
    assert max(rows) <= 2 * 30522 ** (1 / len(rows))
    assert module(torch.tensor([0, 30521])).shape == (2, 8)


def test_half_removed_means_half_of_the_parameters() -> None:
    dense = 64 * 64
    for spec in (LowRankLayer(keep=0.5), NetworkLayer("btt", keep=0.5), NetworkLayer("blast", keep=0.5)):
        module = compress_layer(nn.Linear(64, 64), spec).module
        assert sum(p.numel() for n, p in module.named_parameters() if n != "bias") <= 0.5 * dense
        assert module.n_factor_params() > 0.4 * dense
    conv = compress_layer(nn.Conv2d(16, 16, 3), Tucker2(keep=0.5)).module
    assert 0.4 * 16 * 16 * 9 < conv.n_factor_params() <= 0.5 * 16 * 16 * 9


def test_nothing_removed_costs_nothing() -> None:
    """CP and spatial splits that average instead of decomposing had an error of 0.9 with nothing removed."""
    conv, x = nn.Conv2d(4, 5, 3), torch.randn(1, 4, 6, 6)
    exact(conv, x)
    with torch.no_grad():
        conv.weight.copy_(torch.einsum("or,ir,hr,wr->oihw", *(torch.randn(n, 2) for n in (5, 4, 3, 3))))
    module = compress_layer(conv, CPLayer(rank=2)).module
    assert torch.allclose(module(x), conv(x), atol=1e-3)


def test_v_is_not_taken_for_its_transpose() -> None:
    for m, n in ((5, 9), (9, 5), (7, 7)):
        w = torch.randn(m, n, dtype=torch.float64)
        left, right, _ = weighted_lowrank(w, min(m, n))
        assert torch.allclose(left @ right, w)


def test_no_svd_of_a_huge_unfolding() -> None:
    """The long side of an unfolding is never squared: 256 x (1024 · 9) takes seconds and little memory."""
    conv = nn.Conv2d(512, 64, 3)
    begun = time.perf_counter()
    for spec in (Tucker2(rank=(8, 8)), ChannelSVD(rank=8), NetworkLayer("tucker", rank=8)):
        compress_layer(conv, spec)
    assert time.perf_counter() - begun < 30


def test_the_encoder_layers_fast_path_reads_weights() -> None:
    layer, x = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True).eval(), torch.randn(2, 4, 16)
    for rules in ({"linear*": LowRankLayer(rank=3), "": None}, {"": LowRankLayer(rank=3)}):
        small, _ = compress(layer, None, rules=rules)
        with torch.no_grad():
            fast = small(x)
        assert torch.allclose(fast, small(x), atol=1e-5)


def test_attention_reads_the_weight_of_its_out_projection() -> None:
    layer, x = nn.MultiheadAttention(16, 2), torch.randn(3, 2, 16)
    small, _ = compress(layer, None, rules={"out_proj": LowRankLayer(rank=3), "": None})
    assert isinstance(small.out_proj, FactoredLinear)
    assert type(small) is nn.MultiheadAttention
    assert small(x, x, x)[0].shape == x.shape


def test_t5_reads_the_dtype_of_its_wo() -> None:
    config = T5Config(vocab_size=20, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
    model, ids = T5EncoderModel(config).eval(), torch.arange(6)[None]
    small, report = compress(model, Budget(params=0.5), calib=[{"input_ids": ids}])
    assert isinstance(small.encoder.block[0].layer[1].DenseReluDense.wo, FactoredLinear)
    assert small(input_ids=ids).last_hidden_state.isfinite().all()
    assert report.kept <= 0.5


def test_gpt2_and_its_conv1d_and_tied_head() -> None:
    config = GPT2Config(vocab_size=40, n_positions=16, n_embd=16, n_layer=1, n_head=2)
    model, ids = GPT2LMHeadModel(config).eval(), torch.arange(12)[None]
    small, report = compress(model, Budget(params=0.6), calib=[{"input_ids": ids}])
    assert isinstance(small.transformer.h[0].attn.c_attn, FactoredConv1D)
    assert small.lm_head.weight is small.transformer.wte.weight
    assert report.kept <= 0.6
    assert small(ids).logits.isfinite().all()
    spec: Any = LowRankLayer(rank=16, pivoted=False)
    both, _ = compress(model, None, rules={"transformer.wte": spec, "lm_head": spec, "": None})
    assert torch.allclose(both(ids).logits, model(ids).logits, atol=1e-4)
    tied, _ = compress(
        model, None, rules={"transformer.wte": LowRankLayer(rank=8), "lm_head": LowRankLayer(rank=8), "": None}
    )
    assert tied.lm_head.left is tied.transformer.wte.left


def test_a_singular_gram_matrix_is_no_failure() -> None:
    layer = nn.Linear(12, 9, dtype=torch.float64)
    gram = torch.zeros(12, 12, dtype=torch.float64)
    gram[0, 0] = 1.0
    for spec in (LowRankLayer(rank=9), NetworkLayer("btt", rank=1000), NetworkLayer("ttm", rank=1000)):
        assert torch.allclose(compress_layer(layer, spec, gram=gram).module.weight, layer.weight, atol=1e-6)


def test_an_empty_answer_of_the_budget_is_an_error_that_says_what_is_possible() -> None:
    with pytest.raises(Exception, match="at least"):
        compress_layer(nn.Linear(12, 9), NetworkLayer("kron", keep=0.01))


@pytest.mark.parametrize("kind", [nn.Linear, nn.Conv2d, nn.Embedding])
def test_subclasses_are_handled_and_keep_their_attributes(kind: type[nn.Module]) -> None:
    class Named(kind):  # type: ignore[misc,valid-type]
        """Computes as its base."""

    model = nn.Sequential(Named(12, 12, 3) if kind is nn.Conv2d else Named(12, 12))
    model[0].label = "first"
    small, _ = compress(model, None, rules={"0": NetworkLayer("lowrank", rank=2)})
    assert small[0].label == "first"
    assert small[0].n_factor_params() < 144 * 9


def test_no_layer_has_more_parameters_than_it_had() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Conv2d(3, 3, 1), nn.Embedding(5, 3))
    for spec in (LowRankLayer(rank=8, pivoted=False), NetworkLayer("ttm", rank=1000)):
        small, report = compress(model, None, rules={"0": spec, "2": NetworkLayer("kron", rank=1000), "1": None})
        assert all(r.params_after <= r.params_before for r in report.layers)
        assert type(small[0]) is nn.Linear
