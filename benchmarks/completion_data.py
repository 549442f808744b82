"""Data for the completion benchmark: photographs, a spectral cube, panels of traffic, and what is hidden of them."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

Array = np.ndarray


def square(picture: Array, size: int) -> Array:
    """The middle square, averaged to size × size, from 0 to 1."""
    rows, columns = picture.shape[:2]
    side = min(rows, columns)
    top, left = (rows - side) // 2, (columns - side) // 2
    cut = Image.fromarray(picture[top : top + side, left : left + side])
    return np.asarray(cut.resize((size, size), Image.Resampling.BOX)).astype(np.float64) / 255


def photographs(size: int = 256) -> dict[str, Array]:
    """Seven photographs that scikit-image and scikit-learn carry (some are fetched once by scikit-image)."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    left, right, _ = data.stereo_motorcycle()
    pictures = {
        "astronaut": data.astronaut(),
        "immunohistochemistry": data.immunohistochemistry(),
        "hubble_deep_field": data.hubble_deep_field(),
        "motorcycle left": left,
        "motorcycle right": right,
        "china": load_sample_image("china.jpg"),
        "flower": load_sample_image("flower.jpg"),
    }
    return {name: square(picture, size) for name, picture in pictures.items()}


def small_astronaut() -> Array:
    """Every second pixel of the astronaut, as it is often used: 256 × 256 × 3."""
    from skimage import data

    picture: Array = data.astronaut()[::2, ::2].astype(np.float64) / 255
    return picture


def indian_pines() -> Array:
    """145 × 145 × 200, from 0 to 1; tensorly carries it."""
    from tensorly.datasets import load_indian_pines

    cube = np.asarray(load_indian_pines().tensor, dtype=np.float64)
    return cube / cube.max()


def traffic(sensors: int = 60, days: int = 28, hours: int = 24, seed: int = 0) -> Array:
    """Speeds (km/h), sensor × day × hour: free flow less rush hours that differ by sensor and weekday, and incidents.

    Neighbouring sensors share rush hours and weather; an incident slows a few of them for some hours.
    """
    rng = np.random.default_rng(seed)
    s, d, h = np.ogrid[:sensors, :days, :hours]
    free = 55 + 15 * rng.random(sensors)
    kinds = rng.dirichlet(np.ones(3), sensors)  # commuting in, commuting out, leisure
    morning, evening = np.exp(-(((h - 24 * 0.34) / 1.8) ** 2)), np.exp(-(((h - 24 * 0.73) / 2.3) ** 2))
    noon = np.exp(-(((h - 24 * 0.6) / 4.5) ** 2))
    weekend = (d % 7 >= 5).astype(float)
    weather = 1 + 0.15 * rng.normal(size=(1, days, 1))
    load = (
        kinds[:, 0, None, None] * morning * (1 - 0.85 * weekend)
        + kinds[:, 1, None, None] * evening * (1 - 0.7 * weekend)
        + kinds[:, 2, None, None] * noon * (0.4 + 0.8 * weekend)
    )
    speed = free[:, None, None] * (1 - 0.75 * load * weather) + 0 * s
    for _ in range(days):
        at, day, hour = rng.integers(sensors), rng.integers(days), rng.integers(6, 21)
        reach, last = rng.integers(1, 5), rng.integers(1, 4)
        speed[max(0, at - reach) : at + reach + 1, day, hour : hour + last] *= rng.uniform(0.3, 0.7)
    return np.maximum(speed + rng.normal(scale=1.5, size=speed.shape), 3)


def pixels(shape: tuple[int, ...], share: float, seed: int) -> Array:
    """Whole pixels observed at random."""
    flags = np.random.default_rng(seed).random(shape[:2]) < share
    return np.broadcast_to(flags.reshape(*shape[:2], *[1] * (len(shape) - 2)), shape).copy()


def entries(shape: tuple[int, ...], share: float, seed: int) -> Array:
    """Single entries observed at random."""
    return np.random.default_rng(seed).random(shape) < share


def fibres(shape: tuple[int, ...], share: float, seed: int) -> Array:
    """Whole fibres along the last mode observed: a sensor is silent for whole days."""
    return np.broadcast_to(np.random.default_rng(seed).random(shape[:-1])[..., None] < share, shape).copy()


def outages(shape: tuple[int, ...], share: float, seed: int) -> Array:
    """Sensors silent for several days running, until only `share` is observed."""
    rng = np.random.default_rng(seed)
    seen = np.ones(shape[:2], dtype=bool)
    while seen.mean() > share:
        at, day = rng.integers(shape[0]), rng.integers(shape[1])
        seen[at : at + 3, day : day + 5] = False
    seen[~seen.any(1), rng.integers(shape[1])] = True
    seen[rng.integers(shape[0]), ~seen.any(0)] = True
    return np.broadcast_to(seen[..., None], shape).copy()


def lines(shape: tuple[int, ...], share: float, seed: int, mode: int) -> Array:
    """Whole rows (mode 0) or columns (mode 1) observed, the first and last among them."""
    keep = np.random.default_rng(seed).random(shape[mode]) < share
    keep[[0, -1]] = True
    return np.broadcast_to(keep.reshape([-1 if k == mode else 1 for k in range(len(shape))]), shape).copy()


def blocks(shape: tuple[int, ...], count: int, side: int, seed: int) -> Array:
    """All but some squares."""
    rng = np.random.default_rng(seed)
    seen = np.ones(shape[:2], dtype=bool)
    for _ in range(count):
        top, left = rng.integers(shape[0] - side), rng.integers(shape[1] - side)
        seen[top : top + side, left : left + side] = False
    return np.broadcast_to(seen.reshape(*shape[:2], *[1] * (len(shape) - 2)), shape).copy()


def medical() -> dict[str, Array]:
    """Panels that tensorly carries: fluorescence, antibodies, cytokine responses; NaN where nothing was measured."""
    from tensorly.datasets import load_covid19_serology, load_IL2data, load_kinetic

    loaders = {
        "kinetic fluorescence 64 × 12 × 10 × 60": load_kinetic,
        "COVID-19 serology 438 × 6 × 11": load_covid19_serology,
        "IL-2 13 × 4 × 12 × 8": load_IL2data,
    }
    return {name: np.asarray(load().tensor, dtype=np.float64) for name, load in loaders.items()}


def from_disk(variable: str = "TNKIT_PANELS") -> dict[str, Callable[[], Array]]:
    """Panels (sensor × day × hour) that the user has: .npy files in the folder which an environment variable names."""
    folder = os.environ.get(variable)
    files = sorted(Path(folder).glob("*.npy")) if folder else []
    return {file.stem: partial(_panel, file) for file in files}


def _panel(file: Path) -> Array:
    x = np.load(file).astype(np.float64)
    return np.where(x == 0, np.nan, x)  # zero is how traffic sets tell that nothing was measured
