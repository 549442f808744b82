"""matches: the regression on the features that the compressed model really has."""

import pytest
import torch
from torch import nn

from tnkit.nn import LowRankLayer, compress_layer
from tnkit.nn.matching import matchable, matches


def pair(sizes: tuple[int, int], *, bias: bool, pivoted: bool) -> tuple[nn.Sequential, nn.Sequential]:
    torch.manual_seed(0)
    dense = nn.Linear(*sizes, bias=bias).double()
    small = compress_layer(dense, LowRankLayer(rank=4, pivoted=pivoted)).module
    return nn.Sequential(small), nn.Sequential(dense)


def put_all(student: nn.Module, teacher: nn.Module, batches: list[object], share: float = 1.0) -> int:
    found = matches(student, teacher, batches)
    for match in found:
        match.put_(share)
    return len(found)


@pytest.mark.parametrize("pivoted", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [(8, 12), (12, 8)])
def test_it_is_the_least_squares_answer(sizes: tuple[int, int], bias: bool, pivoted: bool) -> None:
    student, teacher = pair(sizes, bias=bias, pivoted=pivoted)
    x = torch.randn(400, sizes[0], dtype=torch.float64) + 1.0
    y = teacher(x).detach()
    layer = student[0]
    features = x @ layer.form.two_factors(layer.factors())[1].detach().mT
    if bias:
        features = torch.cat([features, torch.ones(400, 1, dtype=torch.float64)], dim=1)
    best = (y - features @ torch.linalg.lstsq(features, y).solution).norm()
    before = (y - student(x)).norm().detach()
    assert put_all(student, teacher, [x[:150], x[150:]]) == 1
    after = (y - student(x)).norm().detach()
    assert after < before
    assert float(after / best) == pytest.approx(1.0, abs=1e-3)  # the ridge is small
    assert layer.ranks == (4,)


def test_padding_does_not_count() -> None:
    class Masked(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

    torch.manual_seed(1)
    dense = nn.Linear(8, 6).double()
    made = [compress_layer(dense, LowRankLayer(rank=3)).module for _ in range(2)]
    x = torch.randn(5, 7, 8, dtype=torch.float64)
    mask = torch.ones(5, 7, dtype=torch.long)
    mask[:, 4:] = 0
    put_all(Masked(made[0]), Masked(dense), [{"x": x, "attention_mask": mask}])
    other = torch.where(mask[:, :, None] > 0, x, 1e3)
    put_all(Masked(made[1]), Masked(dense), [{"x": other, "attention_mask": mask}])
    assert torch.allclose(made[0].weight, made[1].weight, atol=1e-10)


def test_tied_layers_and_layers_without_a_teacher_are_left() -> None:
    student, teacher = pair((8, 12), bias=True, pivoted=True)
    other = compress_layer(teacher[0], LowRankLayer(rank=4)).module
    twice = nn.Sequential(student[0], nn.Linear(12, 8).double(), other)
    twice[2].left = student[0].left
    assert matchable(twice, nn.Sequential(teacher[0], nn.ReLU(), teacher[0])) == {}
    assert list(matchable(student, teacher)) == ["0"]
    assert matchable(student, nn.Identity()) == {}


def test_a_layer_that_saw_nothing_stays() -> None:
    student, teacher = pair((8, 12), bias=False, pivoted=True)
    before = student[0].weight.detach().clone()
    assert put_all(student, teacher, [torch.zeros(5, 8, dtype=torch.float64)]) == 0
    assert torch.equal(student[0].weight, before)


@pytest.mark.parametrize("sizes", [(8, 12), (12, 8)])
def test_a_share_of_the_way(sizes: tuple[int, int]) -> None:
    student, teacher = pair(sizes, bias=True, pivoted=True)
    x = torch.randn(400, sizes[0], dtype=torch.float64)
    outputs = [student(x).detach()]
    (match,) = matches(student, teacher, [x])
    for share in (0.0, 1.0, 0.25):
        match.put_(share)
        outputs.append(student(x).detach())
    first, start, end, quarter = outputs
    assert torch.allclose(first, start)
    assert not torch.allclose(start, end)
    assert torch.allclose(quarter, 0.75 * start + 0.25 * end)
