"""LSTM, GRU and RNN from trained weights: each matrix a linear layer, every option as it was."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from tnkit.nn import Budget, FactoredLinear, LowRankLayer, NetworkLayer, calibrate, compress, load, materialize, save
from tnkit.nn.opening import OpenLSTM, opened_layers

KINDS = [
    (nn.LSTM, {}),
    (nn.LSTM, {"proj_size": 3}),
    (nn.GRU, {}),
    (nn.RNN, {"nonlinearity": "tanh"}),
    (nn.RNN, {"nonlinearity": "relu"}),
]


def made(kind: type[nn.RNNBase], **options: object) -> nn.RNNBase:
    torch.manual_seed(0)
    return kind(5, 7, dtype=torch.float64, **options)


def tensors(output: object) -> list[torch.Tensor]:
    return [t for t in torch.utils._pytree.tree_leaves(output) if isinstance(t, torch.Tensor)]


def same(a: object, b: object) -> bool:
    return all(torch.allclose(x, y, atol=1e-9) for x, y in zip(tensors(a), tensors(b), strict=True))


@pytest.mark.parametrize(("kind", "more"), KINDS)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_an_open_layer_computes_what_the_closed_one_does(
    kind: type[nn.RNNBase], more: dict[str, object], layers: int, bidirectional: bool, batch_first: bool, bias: bool
) -> None:
    options = {"num_layers": layers, "bidirectional": bidirectional, "batch_first": batch_first, "bias": bias, **more}
    layer = made(kind, **options)
    face = opened_layers(layer)[""]
    assert isinstance(face, kind)
    x, count = torch.randn(4, 3, 5, dtype=torch.float64), layers * (1 + bidirectional)
    batch = 4 if batch_first else 3
    h = torch.randn(count, batch, more.get("proj_size", 7), dtype=torch.float64)
    c = torch.randn(count, batch, 7, dtype=torch.float64)
    state = (h, c) if kind is nn.LSTM else h
    alone = (h[:, 0], c[:, 0]) if kind is nn.LSTM else h[:, 0]
    for args in ((x,), (x, state), (x[:, 0],), (x[:, 0], alone)):
        want = layer(*args)
        assert same(face(*args), want)
        assert same(face._by_steps(args[0], args[1] if len(args) > 1 else None), want)
    assert all(torch.equal(a, b) for a, b in zip(face._flat_weights, layer._flat_weights, strict=True))
    assert torch.equal(face.weight_ih_l0, layer.weight_ih_l0)


@pytest.mark.parametrize(("kind", "more"), KINDS)
@pytest.mark.parametrize("inplace", [True, False])
def test_half_of_the_parameters(kind: type[nn.RNNBase], more: dict[str, object], inplace: bool) -> None:
    model = nn.ModuleDict({"rnn": made(kind, num_layers=2, bidirectional=True, **more)})
    dense = sum(p.numel() for p in model.parameters())
    small, report = compress(model, Budget(params=0.6), inplace=inplace)
    assert report.params_before == dense
    assert sum(p.numel() for p in small.parameters()) == report.params_after <= 0.6 * dense
    rnn, x = small["rnn"], torch.randn(4, 3, 5, dtype=torch.float64)
    assert same(rnn(x), rnn._by_steps(x, None))
    assert same(kind.forward(rnn, x), rnn._by_steps(x, None))
    back = materialize(small)["rnn"]
    assert type(back) is kind
    assert same(back(x), rnn(x))
    if not inplace:
        assert type(model["rnn"]) is kind
    sum(t.sum() for t in tensors(rnn._by_steps(x, None))).backward()
    assert all(p.grad is not None for p in rnn.parameters())


def test_packed_sequences() -> None:
    model = made(nn.LSTM, bidirectional=True)
    small, _ = compress(model, Budget(params=0.6))
    x = torch.randn(6, 3, 5, dtype=torch.float64)
    packed = pack_padded_sequence(x, torch.tensor([6, 2, 4]), enforce_sorted=False)
    assert same(small(packed)[0].data, materialize(small)(packed)[0].data)


def test_calibration_sees_inputs_and_hidden_states() -> None:
    model, x = nn.Sequential(made(nn.LSTM, batch_first=True)), torch.randn(3, 4, 5, dtype=torch.float64)
    stats = calibrate(model, [x])
    rows = x.reshape(-1, 5)
    assert torch.allclose(stats["0.ih_l0"].gram[0], rows.mT @ rows)
    assert stats["0.hh_l0"].count == 3 * 4
    y, _ = model(x)
    hidden = y[:, :-1].reshape(-1, 7)  # the first step is given zeros
    assert torch.allclose(stats["0.hh_l0"].gram[0], (hidden.mT @ hidden).detach())
    assert type(model[0]) is nn.LSTM
    small, report = compress(model, Budget(params=0.5), calib=[x])
    assert all(r.weighted for r in report.layers)
    assert isinstance(small[0].ih_l0, FactoredLinear)


def test_every_format() -> None:
    model, x = made(nn.GRU), torch.randn(4, 3, 5, dtype=torch.float64)
    for spec in (NetworkLayer("btt", rank=1), NetworkLayer("kron", rank=2), LowRankLayer(rank=2)):
        small, _ = compress(model, None, rules={"": spec})
        assert same(small._by_steps(x, None), materialize(small)(x))


def test_dropout_devices_and_dtypes() -> None:
    torch.manual_seed(0)
    small, _ = compress(nn.GRU(5, 7, num_layers=2, dropout=0.5), Budget(params=0.6))
    x = torch.randn(4, 3, 5)
    small.eval()
    assert torch.equal(small(x)[0], small(x)[0])
    small.train()
    assert not torch.equal(small._by_steps(x, None)[0], small._by_steps(x, None)[0])
    assert small.double()(x.double())[0].dtype == torch.float64


def test_copies_save_load_and_export(tmp_path: object) -> None:
    model, x = nn.Sequential(made(nn.LSTM)), torch.randn(4, 3, 5, dtype=torch.float64)
    small, _ = compress(model, Budget(params=0.6))
    want = small(x)
    assert same(copy.deepcopy(small)(x), want)
    path = save(small, f"{tmp_path}/m.safetensors")
    for base in (nn.Sequential(made(nn.LSTM)), small):
        again = load(path, base=base)
        assert isinstance(again[0], OpenLSTM)
        assert same(again(x), want)
    fresh = copy.deepcopy(small)
    fresh.load_state_dict(small.state_dict())
    assert same(torch.export.export(small.eval(), (x,)).module()(x), want)
    with torch._dynamo.config.patch(allow_rnn=True):  # without it, torch compiles no recurrent layer
        assert same(torch.compile(small, fullgraph=True, backend="eager")(x), want)
