"""Train a small CNN on scikit-learn's digits, compress its convolutions and linear layers, and use it again.

    python examples/compress_layers.py --keep 0.15

Needs the extra `demo` (the digits are in scikit-learn).
"""

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import tnkit as tk


def network() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64 * 16, 128), nn.ReLU(), nn.Linear(128, 10)),
    )


def train(model: nn.Module, x: Tensor, y: Tensor, epochs: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return float((model(x).argmax(1) == y).double().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=float, default=0.15, help="share of the layers' parameters that stays")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("build/digits.safetensors"))
    options = parser.parse_args()

    torch.manual_seed(0)
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16  # (1797, 1, 8, 8)
    y = torch.tensor(digits.target)
    order = torch.randperm(len(x))
    seen, unseen = order[:1300], order[1300:]
    model = network()
    train(model, x[seen], y[seen], options.epochs)
    model.eval()

    # 1. One layer, step by step: weight -> reshape plan -> format -> module.
    step = tk.nn.compress_layer(model[2], tk.nn.Tucker2(rank=(24, 16)))
    print(f"{model[2]}\n  {step.plan}\n  {step.format}\n  {step.module}\n")

    # 2. The whole model under a budget; real inputs say which errors matter. The model itself is not changed.
    small, report = tk.nn.compress(model, target=tk.Budget(params=options.keep), calib=x[seen].split(100))
    print(f"{report}\n")
    before, after = accuracy(model, x[unseen], y[unseen]), accuracy(small, x[unseen], y[unseen])
    print(f"accuracy on unseen digits: {before:.3f} -> {after:.3f}")

    # 3. To a file and back, without pickle.
    options.out.parent.mkdir(parents=True, exist_ok=True)
    tk.nn.save(small, options.out)
    again = tk.nn.load(options.out, base=network()).eval()
    assert torch.allclose(again(x[unseen]), small(x[unseen]), atol=1e-4)
    print(f"written to {options.out}, {options.out.stat().st_size:,} bytes, and read again")


if __name__ == "__main__":
    main()
