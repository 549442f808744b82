"""Convolutions: a network for scikit-learn's digits, smaller and recovered, and the time of one large layer.

`python -m benchmarks.bench_vision [--first K] [--seeds N] [--only digits|layer]`. The network has 90 k parameters; a
third of the 1,797 images is for testing only. Recovery learns from the dense network's outputs on shifted training
images, without labels. A tenth of the training images is kept from both compression and recovery, and decides which
state is taken.

How the network is trained and recovered (`RECIPE`) is chosen by `--choose`: on other seeds, with a fifth of the
training images held out: training by the loss of the dense networks on these, recovery by that of the small ones at
12×. Test images are not looked at for it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import tnkit as tk
from benchmarks.harness import screen, seconds, write_json

SMALLER = (5.4, 12.0)
BATCH, COPIES = 64, 36


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network is trained, and how a small one is recovered.

    Attributes:
        epochs: of training.
        rate: the highest of training.
        shifted: whether training images are shifted.
        recovery_epochs: of recovery.
        recovery_rate: of recovery, as a share of what is changed.
    """

    epochs: int = 80
    rate: float = 3e-3
    shifted: bool = True
    recovery_epochs: int = 160
    recovery_rate: float = 1e-2


RECIPE = Recipe()
#: What `--choose` tries: training first, then recovery of what was chosen.
TRAINING = (Recipe(), Recipe(shifted=False))
RECOVERIES = ((60, 3e-3), (160, 1e-3), (160, 3e-3), (160, 1e-2))


@dataclass(frozen=True, slots=True)
class Found:
    """Accuracies on the test images, in shares."""

    seed: int
    smaller: float
    params: int
    dense: float
    at_once: float
    recovered: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Tried:
    """A recipe, and the mean loss and accuracy on images that were held out of training, over the seeds."""

    what: str
    recipe: Recipe
    loss: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Timed:
    """One layer, dense and small."""

    what: str
    params: int
    error: float
    ms: float


def network() -> nn.Sequential:
    """89,930 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def images(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, then those for testing."""
    found = load_digits()
    x = torch.from_numpy(found.images).float()[:, None] / 16.0
    y = torch.from_numpy(found.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    train, test = order[: 2 * len(x) // 3], order[2 * len(x) // 3 :]
    return x[train], y[train], x[test], y[test]


def moved(x: Tensor, rng: torch.Generator) -> Tensor:
    """Images shifted by at most one pixel each way, each by its own."""
    wide = F.pad(x, (1, 1, 1, 1))
    down, right = torch.randint(3, (2, len(x), 1, 1), generator=rng)
    rows, columns = down + torch.arange(8)[None, :, None], right + torch.arange(8)[None, None, :]
    return wide[torch.arange(len(x))[:, None, None], 0, rows, columns][:, None]


def trained(x: Tensor, y: Tensor, seed: int, recipe: Recipe) -> nn.Module:
    """AdamW with a rate that rises and falls, on batches of twice the size."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = network()
    rng = torch.Generator().manual_seed(seed)
    steps = recipe.epochs * -(-len(x) // (2 * BATCH))
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=steps)
    for _ in range(recipe.epochs):
        for part in torch.randperm(len(x), generator=rng).split(2 * BATCH):
            optimizer.zero_grad()
            shown = moved(x[part], rng) if recipe.shifted else x[part]
            F.cross_entropy(model(shown), y[part]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return float((model(x).argmax(1) == y).double().mean())


def recovered(model: nn.Module, x: Tensor, seed: int, smaller: float, recipe: Recipe) -> tuple[nn.Module, nn.Module]:
    """A smaller network, and what recovery makes of it on training images."""
    rng, tenth = torch.Generator().manual_seed(seed), len(x) // 10
    seen = list(x[tenth:].split(BATCH))
    lessons = [moved(part, rng) for _ in range(COPIES) for part in seen]
    small, _ = tk.nn.compress(model, tk.Budget(params=1.0 / smaller), seen, measure=False)
    steps = recipe.recovery_epochs * len(seen)
    better, _ = tk.nn.recover(small, model, lessons, validation=[x[:tenth]], max_steps=steps, rate=recipe.recovery_rate)
    return small, better


def digits(seeds: range) -> Iterator[Found]:
    """Every size for every seed; split, training and recovery depend on it."""
    for seed in seeds:
        x, y, x_test, y_test = images(seed)
        model = trained(x, y, seed, RECIPE)
        dense = accuracy(model, x_test, y_test)
        for smaller in SMALLER:
            start = time.perf_counter()
            small, better = recovered(model, x, seed, smaller, RECIPE)
            spent = time.perf_counter() - start
            at_once, after = (accuracy(m, x_test, y_test) for m in (small, better))
            size = sum(p.numel() for p in small.parameters())
            yield Found(seed, smaller, size, dense, at_once, after, spent)


def choose(seeds: range) -> Iterator[Tried]:
    """Every training, then every recovery of what the best one made."""
    splits = {seed: images(seed)[:2] for seed in seeds}

    def tried(what: str, recipe: Recipe, models: dict[int, nn.Module]) -> Tried:
        losses, shares = [], []
        for seed, (x, y) in splits.items():
            fifth = len(x) // 5
            with torch.no_grad():
                losses.append(float(F.cross_entropy(models[seed](x[:fifth]), y[:fifth])))
            shares.append(accuracy(models[seed], x[:fifth], y[:fifth]))
        return Tried(what, recipe, sum(losses) / len(losses), sum(shares) / len(shares))

    best: tuple[Tried, dict[int, nn.Module]] | None = None
    for recipe in TRAINING:
        models = {seed: trained(x[len(x) // 5 :], y[len(x) // 5 :], seed, recipe) for seed, (x, y) in splits.items()}
        found = tried("dense", recipe, models)
        yield found
        if best is None or found.loss < best[0].loss:
            best = found, models
    assert best is not None
    for k, (epochs, rate) in enumerate(RECOVERIES):
        recipe, small, better = replace(best[0].recipe, recovery_epochs=epochs, recovery_rate=rate), {}, {}
        for seed, (x, _) in splits.items():
            small[seed], better[seed] = recovered(best[1][seed], x[len(x) // 5 :], seed, max(SMALLER), recipe)
        if k == 0:
            yield tried("small, at once", recipe, small)
        yield tried("small, recovered", recipe, better)


def layer(runs: int) -> Iterator[Timed]:
    """256 → 256 channels, 3×3, on 28×28 of batch 8."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dense, x = nn.Conv2d(256, 256, 3, padding=1), torch.randn(8, 256, 28, 28)
    specs = {
        "Tucker-2, a quarter of the parameters": tk.nn.Tucker2(keep=0.25),
        "channel SVD, a quarter": tk.nn.ChannelSVD(keep=0.25),
    }
    layers: dict[str, nn.Module] = {"dense": dense}
    errors = {"dense": 0.0}
    for what, spec in specs.items():
        made = tk.nn.compress_layer(dense, spec)
        layers[what], errors[what] = made.module, made.report.rel_error
    with torch.no_grad():
        for what, module in layers.items():
            ms = 1e3 * sorted(seconds(lambda module=module: module(x), runs=runs))[runs // 2]
            yield Timed(what, sum(p.numel() for p in module.parameters()), errors[what], ms)


def main() -> int:
    """Measure and show; the exit status is 0 whatever the figures are."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_vision", description=__doc__)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=9, help="timed calls of the layer")
    parser.add_argument("--only", choices=["digits", "layer", ""], default="", help="one part; the other is kept")
    parser.add_argument("--choose", action="store_true", help="try recipes on seeds 200 to 202 instead of measuring")
    parser.add_argument("--quick", action="store_true", help="one seed and few runs")
    parser.add_argument("--json", type=Path, default=Path("out/bench_vision.json"), help="where to write")
    asked = parser.parse_args()
    console, parts = screen(), {}
    if asked.choose:
        tries = []
        for one in choose(range(200, 201 if asked.quick else 203)):
            tries.append(one)
            console.print(one)
            write_json(asked.json, {"choice": [asdict(t) for t in tries]})
        return 0
    if asked.only != "layer":
        rows = []
        for row in digits(range(asked.first, asked.first + (1 if asked.quick else asked.seeds))):
            rows.append(row)
            console.print(row)
        table = Table("seed", "smaller", "parameters", "dense", "at once", "recovered", "s")
        for r in rows:
            shares = (f"{v:.2%}" for v in (r.dense, r.at_once, r.recovered))
            table.add_row(f"{r.seed}", f"{r.smaller}×", f"{r.params:,}", *shares, f"{r.seconds:.1f}")
        console.print(table)
        for smaller in SMALLER:
            shares = [r.recovered for r in rows if r.smaller == smaller]
            mean = sum(shares) / len(shares)
            console.print(f"{smaller}×: mean {mean:.2%}, worst {min(shares):.2%} of {len(shares)} seeds")
        parts["digits"] = [asdict(r) for r in rows]
    if asked.only != "digits":
        times = list(layer(3 if asked.quick else asked.runs))
        table = Table("256 → 256, 3×3, 28×28, batch 8", "parameters", "error", "ms")
        for t in times:
            table.add_row(t.what, f"{t.params:,}", f"{t.error:.3f}", f"{t.ms:.1f}")
        console.print(table)
        parts["layer"] = [asdict(t) for t in times]
    write_json(asked.json, parts)
    console.print(f"written to {asked.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
