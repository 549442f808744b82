"""Tables, and long tables, in and out."""

import numpy as np
import pandas
import pytest

from tnkit.completion import complete
from tnkit.errors import DTypeError, MaskError, OptionError, UnknownNameError
from tnkit.interop.pandas import read_long

SHOPS, DAYS = [f"shop {k}" for k in range(12)], list(pandas.date_range("2024-01-01", periods=9))
TRUTH = np.outer(np.arange(1.0, 13.0), np.arange(1.0, 10.0))


def long(share=0.6, seed=0):
    full = pandas.DataFrame(
        [(s, d, TRUTH[i, j]) for i, s in enumerate(SHOPS) for j, d in enumerate(DAYS)], columns=["shop", "day", "sold"]
    )
    return full, full.sample(frac=share, random_state=seed)


def test_there_and_back():
    full, part = long()
    before = part.copy()
    table = read_long(part, ["shop", "day"], "sold", levels={"shop": SHOPS})
    assert table.observations.shape == (12, 9)
    done = complete(table.observations, "lowrank", rank=1)
    pandas.testing.assert_frame_equal(table.filled(done), full, check_dtype=False, atol=1e-6)
    rows = full.iloc[[5, 3, 70]]
    guess = table.predict(done, rows)
    pandas.testing.assert_series_equal(guess, rows["sold"], atol=1e-6)
    pandas.testing.assert_frame_equal(part, before)
    assert len(table.predict(done, rows.iloc[:0])) == 0


def test_missing_values_are_left_out_and_equal_rows_averaged():
    frame = pandas.DataFrame({"i": [1, 1, 2, 3], "v": [1.0, 3.0, None, 5.0], "w": [1.0, 1.0, 0.0, 0.5]})
    table = read_long(frame, "i", "v", weight="w")
    assert table.observations.values.tolist() == [2.0, 5.0]
    assert table.observations.weights.tolist() == [1.0, 0.5]
    assert table.levels[0].tolist() == [1, 2, 3]


def test_refusals():
    _, part = long()
    with pytest.raises(UnknownNameError, match="no column 'store'"):
        read_long(part, ["store"], "sold")
    with pytest.raises(OptionError, match="names no column"):
        read_long(part, [], "sold")
    with pytest.raises(MaskError, match="No row has a value"):
        read_long(part.assign(sold=np.nan), ["shop"], "sold")
    with pytest.raises(OptionError, match="missing labels"):
        read_long(part.assign(shop=None), ["shop"], "sold")
    with pytest.raises(OptionError, match="not among levels"):
        read_long(part, ["shop", "day"], "sold", levels={"shop": SHOPS[:3]})
    table = read_long(part, ["shop", "day"], "sold")
    done = complete(table.observations, "lowrank", rank=1)
    with pytest.raises(OptionError, match="was not there"):
        table.predict(done, part.assign(shop="elsewhere"))


def test_frames_come_back_as_frames():
    rng = np.random.default_rng(0)
    x = np.outer(rng.normal(size=30), [1.0, 2.0, -1.0]) + np.array([0.0, 5.0, 100.0])
    frame = pandas.DataFrame(x, index=[f"patient {k}" for k in range(30)], columns=["a", "b", "c"])
    holes = frame.mask(rng.random(x.shape) < 0.2)
    holes["b"] = holes["b"].astype("Float64")  # NA
    before = holes.copy()
    done = complete(holes)
    pandas.testing.assert_frame_equal(holes, before)
    assert isinstance(done.filled, pandas.DataFrame)
    pandas.testing.assert_frame_equal(done.filled, frame, atol=0.02)
    known = holes.notna().to_numpy()
    assert np.array_equal(done.filled.to_numpy()[known], x[known])
    masked = complete(frame, mask=holes.notna(), method="groups").filled
    assert list(masked.columns) == ["a", "b", "c"]
    assert complete(holes.astype("float32"), method="groups").filled.dtypes.eq(np.float32).all()
    with pytest.raises(DTypeError, match=r"columns \['name'\]"):
        complete(holes.assign(name="x"))
