"""Plots of analyses and reports: drawn, and of the right layers."""

from pathlib import Path

import torch
from matplotlib import pyplot
from torch import nn

import tnkit as tk
import tnkit.interop.matplotlib


def test_plots_are_drawn_and_belong_to_nobody(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, batches = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16)), [torch.randn(20, 16)]
    figure = tk.nn.analyze(model, batches).plot()
    figure.savefig(tmp_path / "a.png")
    assert len(figure.axes[0].lines) == len(figure.axes[1].lines) == 2
    assert [bar.get_height() > 0 for bar in figure.axes[2].patches] == [True, True]
    _, report = tk.nn.compress(model, tk.Budget(params=0.5), batches)
    figure = report.plot()
    figure.savefig(tmp_path / "b.svg")
    assert [bar.get_height() for bar in figure.axes[0].patches][:2] == [544, 528]
    assert not pyplot.get_fignums()
