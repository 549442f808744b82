"""Blocks of a trained model: what is removed by the data costs less than what is removed by the weights alone."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from tnkit.nn.blocks import blocks_in, compress_blocks, rotate_blocks

LETTERS, LENGTH = 24, 32


@cache
def language() -> Callable[[int, int], Tensor]:
    """Texts of a language in which each letter depends on the two before it."""
    rng = torch.Generator().manual_seed(0)
    table = (4 * torch.randn(LETTERS, LETTERS, LETTERS, generator=rng)).softmax(-1)

    def texts(count: int, seed: int) -> Tensor:
        gen = torch.Generator().manual_seed(seed)
        ids = torch.randint(LETTERS, (count, 2), generator=gen)
        for _ in range(LENGTH - 2):
            ids = torch.cat([ids, torch.multinomial(table[ids[:, -2], ids[:, -1]], 1, generator=gen)], dim=1)
        return ids

    return texts


@cache
def trained() -> Any:
    torch.manual_seed(0)
    sizes = {"n_embd": 48, "n_layer": 3, "n_head": 4, "vocab_size": LETTERS, "n_positions": LENGTH}
    quiet = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0}
    model = GPT2LMHeadModel(GPT2Config(**sizes, **quiet))
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for step in range(500):
        ids = language()(32, step)
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def loss(model: Any) -> float:
    ids = language()(128, 10_000)
    return float(model(input_ids=ids, labels=ids).loss)


def calib() -> list[dict[str, Tensor]]:
    return [{"input_ids": language()(32, 20_000 + k)} for k in range(4)]


@torch.no_grad()
def neurons_cut(model: Any, keep: float) -> nn.Module:
    """Neurons of the smallest weights become zero."""
    for block in blocks_in(model):
        up, down = (model.get_submodule(block.path(part)) for part in (block.family.ups[0], block.family.down))
        norms = up.weight.norm(dim=0) * down.weight.norm(dim=1)  # transformers' Conv1D holds (in, out)
        down.weight[norms.argsort()[: len(norms) - int(keep * len(norms))]] = 0
    return model


def test_the_model_has_learnt() -> None:
    assert loss(trained()) < 0.85 * torch.log(torch.tensor(float(LETTERS)))


def test_fewer_neurons_by_the_data_cost_less_than_by_the_weights() -> None:
    model = trained()
    small, _ = compress_blocks(model, 0.5, calib(), parts=("mlp",), measure=False)
    plain, _ = compress_blocks(model, 1.0, calib(), parts=("mlp",), measure=False)
    assert loss(small) - loss(model) < 0.7 * (loss(neurons_cut(plain, 0.5)) - loss(model))


@pytest.mark.parametrize("keep", [0.75, 0.5])
def test_rotations_cost_less_than_cutting_coordinates(keep: float) -> None:
    model = trained()
    worse = {
        name: loss(rotate_blocks(model, keep, calib(), measure=False, **how)[0]) - loss(model)
        for name, how in {
            "plain": {"rotation": False},
            "one": {},
            "each": {"each_block": True},
        }.items()
    }
    assert worse["one"] < 0.8 * worse["plain"]
    assert worse["each"] < worse["one"]
