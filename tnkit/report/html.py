"""HTML pages that stand alone: text, numbers, tables, curves and pictures in one file, light and dark.

Every function gives a piece of HTML as a `str`; `page` joins pieces, `write_page` writes the file. Words are escaped.

Example:
    >>> from tnkit.report import html
    >>> html.table(["format", "size"], [["tt", "1,234"]], numeric=[1]).count("<tr>")
    2
    >>> "<!doctype html>" in html.page("A report", html.paragraph("2 < 3"))
    True
"""

from __future__ import annotations

import html as _html
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tnkit.files import PathLikeStr, replacing
from tnkit.report.pictures import data_uri
from tnkit.report.style import STYLE

__all__ = [
    "curve",
    "curves",
    "details",
    "facts",
    "figure",
    "figures",
    "folded",
    "page",
    "paragraph",
    "section",
    "table",
    "write_page",
]


def _text(value: Any) -> str:
    return _html.escape(str(value))


def page(title: str, *pieces: str, lead: str = "", footer: str = "") -> str:
    """A whole page, without anything that it would have to load.

    Args:
        title: of the page.
        pieces: HTML, in order.
        lead: one sentence under the title.
        footer: small print.
    """
    head = f"<header><h1>{_text(title)}</h1>" + (f"<p>{_text(lead)}</p>" if lead else "") + "</header>"
    foot = f"<footer>{_text(footer)}</footer>" if footer else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join([head, *pieces, foot])
        + "\n</body>\n</html>\n"
    )


def section(heading: str, *pieces: str) -> str:
    """A part of a page under its heading."""
    return f"<section>\n<h2>{_text(heading)}</h2>\n" + "\n".join(pieces) + "\n</section>"


def paragraph(text: str) -> str:
    """A paragraph of plain words; what stands between backquotes is set as code."""
    words = _text(text).split("`")
    return "<p>" + "".join(f"<code>{w}</code>" if k % 2 else w for k, w in enumerate(words)) + "</p>"


def details(summary: str, text: str) -> str:
    """Preformatted text that opens on a click."""
    return folded(summary, f"<pre>{_text(text)}</pre>")


def folded(summary: str, *pieces: str) -> str:
    """Pieces of HTML that open on a click."""
    return f"<details><summary>{_text(summary)}</summary>" + "\n".join(pieces) + "</details>"


def facts(values: Mapping[str, Any]) -> str:
    """A few numbers, large, each with its name."""
    items = "".join(f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>" for name, value in values.items())
    return f'<dl class="facts">{items}</dl>'


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    numeric: Iterable[int] = (),
    bars: Mapping[int, Sequence[float]] | None = None,
    best: Mapping[int, int] | None = None,
) -> str:
    """A table.

    Args:
        head: the names of its columns.
        rows: the cells, as they are to be read.
        numeric: columns set flush right.
        bars: column to one value of 0 … 1 a row, drawn behind the cell's text.
        best: column to the row whose cell is set in bold.
    """
    right, lengths, bold = set(numeric), dict(bars or {}), dict(best or {})
    top = "".join(f"<th{' class=num' if k in right else ''}>{_text(name)}</th>" for k, name in enumerate(head))
    lines = []
    for r, row in enumerate(rows):
        cells = []
        for k, value in enumerate(row):
            names = [n for n, on in (("num", k in right), ("bar", k in lengths), ("best", bold.get(k) == r)) if on]
            marks = f' class="{" ".join(names)}"' if names else ""
            if k in lengths:
                share = min(max(float(lengths[k][r]), 0.0), 1.0)
                marks += f' style="background-size: {100 * share:.1f}% 60%"'
            cells.append(f"<td{marks}>{_text(value)}</td>")
        lines.append("<tr>" + "".join(cells) + "</tr>")
    body = "\n".join(lines)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def figure(image: Any, caption: str, *, pixels: bool = False) -> str:
    """A picture with its caption.

    Args:
        image: (h, w) or (h, w, 3), of values 0 … 1 or of uint8.
        caption: what it shows.
        pixels: draw its pixels with hard edges.
    """
    kind = ' class="pixels"' if pixels else ""
    return (
        f'<figure><img{kind} alt="{_text(caption)}" src="{data_uri(image)}">'
        f"<figcaption>{_text(caption)}</figcaption></figure>"
    )


def figures(*pieces: str) -> str:
    """Figures beside each other."""
    return '<div class="figures">' + "\n".join(pieces) + "</div>"


def curve(values: Sequence[float], caption: str) -> str:
    """A line of positive values over their numbers, on a logarithmic scale: the error by step, for instance.

    Returns:
        The figure; "" where there are fewer than two values that can be drawn.
    """
    points = [(k + 1, math.log10(v)) for k, v in enumerate(values) if v > 0 and math.isfinite(v)]
    if len(points) < 2:
        return ""
    low, high, last = min(y for _, y in points), max(y for _, y in points), points[-1][0]
    left, right, top, bottom = 70, 630, 20, 160
    rise = (bottom - top) / (high - low) if high > low else 0.0
    line = " ".join(
        f"{left + (right - left) * (x - 1) / (last - 1):.1f},{top + rise * (high - y):.1f}" for x, y in points
    )
    words = [(left - 8, top + 4, "end", f"{10**high:.2g}"), (left, bottom + 26, "start", "1")]
    words += [(left - 8, bottom + 4, "end", f"{10**low:.2g}"), (right, bottom + 26, "end", str(last))]
    labels = "".join(f'<text x="{x}" y="{y}" text-anchor="{anchor}">{word}</text>' for x, y, anchor, word in words)
    axes = f'<path class="axis" fill="none" d="M{left} {top - 10} V{bottom + 8} H{right}"/>'
    drawn = f'{axes}<polyline class="line" points="{line}"/>{labels}'
    return (
        f'<figure><svg viewBox="0 0 640 200" role="img">{drawn}</svg><figcaption>{_text(caption)}</figcaption></figure>'
    )


def curves(lines: Mapping[str, Sequence[float]], caption: str, *, floor: float = 1e-4) -> str:
    """Lines of positive values over their share of the way, on one logarithmic scale; each has its name as a tip.

    Args:
        lines: values by name; those below `floor` of the largest are cut off.
        caption: what they are.
        floor: the lowest value that is drawn, as a share of the largest.

    Returns:
        The figure; "" where no line has two values.
    """
    known = {name: [v for v in values if v > 0 and math.isfinite(v)] for name, values in lines.items()}
    known = {name: values for name, values in known.items() if len(values) > 1}
    if not known:
        return ""
    top = max(max(values) for values in known.values())
    left, right, upper, lower = 70, 630, 20, 220
    drawn = []
    for name, values in known.items():
        shares = [max(math.log10(v / top) / math.log10(floor), 0.0) for v in values]
        points = [
            f"{left + (right - left) * k / (len(values) - 1):.1f},{upper + (lower - upper) * share:.1f}"
            for k, share in enumerate(shares)
            if share <= 1.0
        ]
        if len(points) > 1:
            line = " ".join(points[:: max(1, len(points) // 200)])
            drawn.append(f'<polyline class="thin" points="{line}"><title>{_text(name)}</title></polyline>')
    words = [(upper + 4, f"{top:.2g}"), (lower + 4, f"{top * floor:.2g}")]
    labels = "".join(f'<text x="{left - 8}" y="{y}" text-anchor="end">{word}</text>' for y, word in words)
    axes = f'<path class="axis" fill="none" d="M{left} {upper - 10} V{lower + 8} H{right}"/>'
    return (
        f'<figure><svg viewBox="0 0 640 250" role="img">{axes}{"".join(drawn)}{labels}</svg>'
        f"<figcaption>{_text(caption)}</figcaption></figure>"
    )


def write_page(path: PathLikeStr, text: str) -> Path:
    """Write a page under a temporary name and rename it, so that no half of it is ever seen.

    Returns:
        Where it stands.

    Raises:
        FileFormatError: the folder is not there, no permission, no space.
    """
    target = Path(path)
    with replacing(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return target
