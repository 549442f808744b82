import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tnkit as tk
from tnkit.report import html, pictures, summary

VOID = {"meta", "img"}


class Checked(HTMLParser):
    """Every element is closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def whole(*pieces: str) -> str:
    page = html.page("A <title>", *pieces, lead="one & two")
    Checked(page)
    assert "<title>A &lt;title&gt;</title>" in page
    assert not re.search(r'(?:src|href)="(?!data:)', page)  # it stands alone
    assert "prefers-color-scheme: dark" in page
    return page


def test_all_pieces_make_a_whole_page() -> None:
    table = html.table(["a", "b"], [["x<y", 1], ["z", 2]], numeric=[1], bars={1: [0.5, 2.0]}, best={1: 0})
    assert "x&lt;y" in table
    assert "background-size: 100.0%" in table
    whole(
        html.section("One", html.paragraph("a `code` & b"), html.facts({"size": "1 < 2"}), table),
        html.figures(html.figure(np.eye(3), "an <eye>"), html.figure(np.zeros((2, 2, 3), np.uint8), "", pixels=True)),
        html.details("more", "<pre>"),
        html.curve([1.0, 0.1, 0.01], "error"),
    )


@pytest.mark.parametrize("values", [[], [1.0], [0.0, 0.0], [float("nan")]])
def test_a_curve_of_nothing_is_nothing(values: list[float]) -> None:
    assert html.curve(values, "error") == ""


def test_a_flat_curve_is_drawn() -> None:
    assert "<svg" in html.curve([0.5, 0.5, 0.5], "error")


def test_a_fit(tmp_path: Path) -> None:
    x = np.fromfunction(lambda i, j, k: 1 / (1 + i + j + k), (8, 9, 10))
    fit = tk.decompose(x, "cp", rank=2)
    page = whole(summary.of_fit(fit), summary.before_after(x[:, :, 0], np.asarray(fit.tensor)[:, :, 0]))
    assert f"{fit.n_params:,}" in page
    path = html.write_page(tmp_path / "r.html", page)
    assert path.read_text(encoding="utf-8") == page
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


def test_a_completion() -> None:
    x = np.fromfunction(lambda i, j: 1 / (1 + i + j), (12, 13))
    done = tk.complete(np.where(np.eye(12, 13) > 0, np.nan, x), "lowrank", rank=2)
    assert "relative error, held out" in whole(summary.of_completion(done))


def test_a_model() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.Linear(32, 4))
    _, report = tk.nn.compress(model, tk.Budget(params=0.5), calib=[torch.randn(64, 32)])
    page = whole(summary.of_model(report))
    assert f"{report.params_before:,} → {report.params_after:,}" in page


def test_pictures() -> None:
    image = np.array([[0.0, 0.5], [1.0, np.nan]])
    drawn = np.asarray(Image.open(io.BytesIO(pictures.png(image, least_width=8))))
    assert drawn.shape == (8, 8, 3)
    assert tuple(drawn[0, 0]) == (0, 0, 0)
    assert drawn[7, 7, 0] > drawn[7, 7, 1]  # the hole has its colour
    assert pictures.limits(np.full((3, 3), 7.0)) == (7.0, 8.0)
    assert pictures.limits(np.full(3, np.nan)) == (0.0, 1.0)
    assert pictures.stretched(np.array([[1.0, 3.0]]), 1, 3).tolist() == [[0.0, 1.0]]
    assert pictures.psnr(image[:1], image[:1]) == float("inf")
    with pytest.raises(tk.ShapeError, match="Take a slice"):
        pictures.png(np.zeros((2, 2, 2)))
