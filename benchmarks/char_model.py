"""A small language model of characters, and its text: the docstrings of Python's standard library."""

from __future__ import annotations

import math
import sysconfig
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from examples.demo_parts.encoder import docstrings

#: Characters that are kept; the others become spaces.
ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
WIDTH, HEADS, LAYERS, CONTEXT = 92, 4, 4, 128


class Block(nn.Module):
    """Attention and a wide layer, each behind a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(self.before(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(*parts.unbind(), is_causal=True)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.between(x))))


class CharModel(nn.Module):
    """Logits (N, T, characters) of the next character; the table of characters is also the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(len(ALPHABET), WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        for table in (self.tokens, self.places):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.tokens.weight)


def text() -> Tensor:
    """All docstrings of the standard library, as positions in the alphabet."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    whole = "\n\n".join(found for file in files for found in docstrings(file) if found)
    place = {character: k for k, character in enumerate(ALPHABET)}
    return torch.tensor([place.get(character, place[" "]) for character in whole])


def windows(ids: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """(count, CONTEXT + 1) pieces at random places."""
    starts = torch.randint(len(ids) - CONTEXT, (count, 1), generator=rng)
    return ids[starts + torch.arange(CONTEXT + 1)]


def loss(model: nn.Module, pieces: Tensor) -> Tensor:
    """Mean negative log likelihood of each next character."""
    return F.cross_entropy(model(pieces[:, :-1]).flatten(0, 1), pieces[:, 1:].flatten())


@torch.no_grad()
def perplexity(model: nn.Module, ids: Tensor, batch: int = 64) -> float:
    """Over all of a text, piece by piece."""
    pieces = ids[: len(ids) // (CONTEXT + 1) * (CONTEXT + 1)].reshape(-1, CONTEXT + 1)
    total = sum(float(loss(model, part)) * len(part) for part in pieces.split(batch))
    return math.exp(total / len(pieces))


def trained(
    ids: Tensor,
    steps: int,
    weights: Path | None,
    say: Callable[[str], None],
    *,
    seed: int = 0,
    until: float = 0.0,
    watched: Tensor | None = None,
) -> CharModel:
    """The model after `steps` of AdamW from a seed; read from `weights` where that is there, and written to it.

    With `until` it ends earlier, as soon as the perplexity on the text `watched` is at most that; it is looked at every
    ten steps of the second half.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CharModel()
    if weights is not None and weights.exists():
        model.load_state_dict(load_file(weights))
        return model.eval()
    rng = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        optimizer.zero_grad()
        value = loss(model, windows(ids, 32, rng))
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            say(f"step {step}: {float(value.detach()):.3f}")
        if until and watched is not None and step % 10 == 9 and 2 * step > steps:
            now = perplexity(model, watched)
            if now <= until:
                say(f"step {step}: perplexity {now:.3f} on the text that is watched")
                break
    if weights is not None:
        weights.parent.mkdir(parents=True, exist_ok=True)
        save_file(model.state_dict(), weights)
    return model.eval()
