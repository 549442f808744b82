"""What the completion benchmark measures: arrays, what is hidden of them, and who fills them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import util

import tnkit as tk
from benchmarks import completion_data as data
from benchmarks import completion_rivals as rivals
from benchmarks.completion_rivals import Array, Filler
from tnkit.completion import HaLRTC, TruncatedNuclear, TubalNuclear

Mask = Callable[[tuple[int, ...], int], Array]


@dataclass(frozen=True, slots=True)
class Work:
    """One array, what is observed of it, and who fills it.

    Attributes:
        case: the table it belongs to.
        picture: which array.
        x: makes it; NaN where nothing was ever measured.
        mask: from shape and seed to where it is observed.
        who: the contenders.
        is_picture: whether PSNR and SSIM say something.
    """

    case: str
    picture: str
    x: Callable[[], Array]
    mask: Mask
    who: dict[str, Filler]
    is_picture: bool = False


def ours(**options: object) -> Filler:
    """`tk.complete` with options."""

    def fill(x: Array, mask: Array) -> Array:
        done = tk.complete(x, mask=mask, **options)  # type: ignore[arg-type]
        fill.how = done.method  # type: ignore[attr-defined]
        filled: Array = done.filled
        return filled

    return fill


def works(quick: bool) -> Iterator[Work]:
    """All that is measured; each case only where its packages are installed."""
    pictures = data.photographs(64 if quick else 256) if _there("skimage", "sklearn") else {}
    yield from scattered(pictures)
    yield from holes(pictures)
    if pictures:
        yield from astronaut()
    if _there("tensorly"):
        yield from panels_of_medicine()
        if not quick:
            yield from spectra()
    yield from traffic()


def scattered(pictures: dict[str, Array]) -> Iterator[Work]:
    """Photographs whose pixels are observed at random."""
    convex: dict[str, Filler] = {"auto": ours(), "T-CTV": ours(method="tctv"), "HaLRTC": ours(method=HaLRTC(holdout=0))}
    for share in (0.1, 0.3):
        for name, x in pictures.items():
            mask = partial(_pixels, share=share)
            case = f"photographs, pixels observed {share}"
            yield Work(case, name, lambda x=x: x, mask, convex | rivals.of_pictures(), True)


def holes(pictures: dict[str, Array]) -> Iterator[Work]:
    """Photographs of which rows, columns or blocks are gone."""
    smooth = {who: fill for who, fill in rivals.of_pictures().items() if "biharmonic" in who}
    who: dict[str, Filler] = {"auto": ours(), "T-CTV": ours(method="tctv")} | smooth
    kinds: dict[str, Mask] = {
        "rows, half gone": lambda shape, seed: data.lines(shape, 0.5, seed, 0),
        "columns, half gone": lambda shape, seed: data.lines(shape, 0.5, seed, 1),
        "blocks, 30 of 16 × 16": lambda shape, seed: data.blocks(shape, 30, shape[0] // 16, seed),
    }
    for kind, mask in kinds.items():
        for name, x in pictures.items():
            yield Work(f"photographs, {kind}", name, lambda x=x: x, mask, who, True)


def astronaut() -> Iterator[Work]:
    """Every second pixel of one photograph, by pixels and by entries."""
    who: dict[str, Filler] = {"auto": ours(), "T-CTV": ours(method="tctv"), "HaLRTC": ours(method=HaLRTC(holdout=0))}
    for kind, pattern in (("entries", data.entries), ("pixels", data.pixels)):
        for share in (0.1, 0.2, 0.3):
            mask: Mask = lambda shape, seed, share=share, pattern=pattern: pattern(shape, share, seed)  # noqa: E731
            yield Work(
                f"astronaut[::2, ::2], {kind} observed {share}", "astronaut", data.small_astronaut, mask, who, True
            )


def spectra() -> Iterator[Work]:
    """A cube of 200 channels."""
    who = {"auto": ours()} | rivals.installed(tensorly_masked_CP_16=("tensorly", rivals.masked_cp(16)))
    for share in (0.1, 0.02):
        mask = partial(_entries, share=share)
        yield Work(f"Indian Pines, entries observed {share}", "cube", data.indian_pines, mask, who)


def panels_of_medicine() -> Iterator[Work]:
    """Three arrays of measurements, entries hidden beside those that were never measured."""
    who = {
        "auto": ours(),
        "ALS, CP": ours(format="cp", time_limit_s=30),
        "HaLRTC": ours(method=HaLRTC(holdout=0.0)),
    } | rivals.of_panels()
    for name, x in data.medical().items():
        for hidden in (0.3, 0.6, 0.9):
            mask = partial(_entries, share=1 - hidden)
            yield Work(f"{name}, entries hidden {hidden}", name, lambda x=x: x, mask, who)


def traffic() -> Iterator[Work]:
    """Sensors by days by hours: made up, with rhythms and incidents; and files that the user has."""
    who = {
        "auto": ours(),
        "HaLRTC": ours(method=HaLRTC(holdout=0.0)),
        "truncated, θ held out": ours(method=TruncatedNuclear()),
        "tubal, transform held out": ours(method=TubalNuclear()),
        "ALS": ours(method="als", time_limit_s=20),
    } | {name: fill for name, fill in rivals.of_panels().items() if "scikit" in name or name == "mean"}
    kinds = (("entries", data.entries), ("days", data.fibres), ("runs of days", data.outages))
    for name, x in {"traffic 60 × 28 × 24": data.traffic, **data.from_disk()}.items():
        for kind, pattern in kinds:
            for share in (0.7, 0.4):
                mask: Mask = lambda shape, seed, share=share, pattern=pattern: pattern(shape, share, seed)  # noqa: E731
                yield Work(f"{name}, {kind} observed {share}", "panel", x, mask, who)


def _there(*packages: str) -> bool:
    return all(util.find_spec(package) for package in packages)


def _pixels(shape: tuple[int, ...], seed: int, *, share: float) -> Array:
    return data.pixels(shape, share, seed)


def _entries(shape: tuple[int, ...], seed: int, *, share: float) -> Array:
    return data.entries(shape, share, seed)
