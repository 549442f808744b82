"""Fills the tables of the pages when the site is built: `<!-- table: NAME -->` in a page.

Those of the reference come from the registries, those of the benchmarks from the figures in `docs/figures/`.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from statistics import median

import tnkit  # registers every format and method
from tnkit.nn.specs import LAYER_SPECS

FORMATS, METHODS, COMPLETIONS = tnkit.registry.FORMATS, tnkit.registry.METHODS, tnkit.registry.COMPLETIONS
MARK = re.compile(r"<!-- table: (\w+) -->")


def first_line(thing: object) -> str:
    """The summary of a docstring, fit for a table cell."""
    return (thing.__doc__ or "").strip().partition("\n")[0].replace("|", "\\|")


def formats() -> list[list[str]]:
    rows = [
        [f"`{name!r}`", f"`{type(spec).__name__}`", first_line(type(spec))] for name, spec in FORMATS.items().items()
    ]
    return [["name", "spec", "what it is"], *rows]


def methods() -> list[list[str]]:
    return [
        ["name", "class", "formats", "accepts", "same answer each time", "what it does"],
        *map(method, METHODS.names()),
    ]


def method(name: str) -> list[str]:
    kind = METHODS.get(name)
    accepts = ", ".join(sorted(kind.accepts))
    return [
        f"`{name!r}`",
        f"`{kind.__name__}`",
        ", ".join(kind.formats),
        accepts,
        "yes" if kind.deterministic else "by rng",
        kind.summary,
    ]


def completions() -> list[list[str]]:
    return [
        ["name", "class", "what it does"],
        *([f"`{n!r}`", f"`{k.__name__}`", first_line(k)] for n, k in COMPLETIONS.items().items()),
    ]


def layers() -> list[list[str]]:
    rows = [[f"`{spec.__name__}`", ", ".join(takers(spec)), first_line(spec)] for spec in LAYER_SPECS.items().values()]
    return [["specification", "for", "what the layer becomes"], *rows]


def takers(spec: type[tnkit.nn.LayerSpec]) -> list[str]:
    kinds = [kind for kind in tnkit.registry.LAYERS.items().values() if set(kind.readings) & set(spec.reads)]
    return [f"`{kind.dense.__name__}`" if kind.name != "hf_conv1d" else "Hugging Face `Conv1D`" for kind in kinds]


def figures(name: str) -> dict:
    return json.loads((Path(__file__).parent / "figures" / f"{name}.json").read_text())


def measured() -> list[list[str]]:
    """The dense cases: tnkit beside the fastest rival of each kind."""
    rows = [row for row in figures("bench_decompose")["rows"] if row["median_s"] is not None]
    head = ["case", "tnkit ms", "× floor", "peak / input", "error"]
    head += ["fastest exact", "times", "fastest randomised", "times"]
    return [head, *(measured_case(case, rows) for case in dict.fromkeys(row["case"] for row in rows))]


def measured_case(case: str, rows: list[dict]) -> list[str]:
    mine = sorted((row for row in rows if row["case"] == case), key=lambda row: row["median_s"])
    ours = next(row for row in mine if row["who"].startswith("tnkit"))
    cells = [case, f"{1e3 * ours['median_s']:,.1f}", f"{ours['median_s'] / ours['floor_s']:.1f}"]
    cells += [f"{(ours['peak_bytes'] or 0) / ours['n_bytes']:.2f}", f"{ours['rel_error']:.2e}"]
    for randomised in (False, True):
        others = [r for r in mine if not r["who"].startswith("tnkit") and ("randomised" in r["who"]) == randomised]
        if others:
            best = others[0]
            cells += [f"{best['who']}, {1e3 * best['median_s']:,.0f} ms", f"{best['median_s'] / ours['median_s']:.1f}"]
        else:
            cells += ["", ""]
    return cells


def bars() -> list[list[str]]:
    """What was asked for, and what was seen."""
    met = {True: "yes", False: "**no**", None: "not measured"}
    return [
        ["what", "asked", "seen", "met"],
        *([bar["what"], bar["asked"], bar["seen"], met[bar["met"]]] for bar in figures("bars")),
    ]


def machine() -> list[list[str]]:
    found = figures("bench_decompose")["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in found.pop("versions").items())
    rows = [[name.replace("_", " "), f"{v:,.1f}" if isinstance(v, float) else str(v)] for name, v in found.items()]
    return [["the machine", ""], *rows, ["versions", versions]]


def searches() -> list[list[str]]:
    """Structure searches: medians over the seeds, and what others published."""
    found, lines = figures("bench_search"), []
    rows = [row for row in found["rows"] if row["n_params"] is not None]
    for case, who, eps in dict.fromkeys((row["case"], row["who"], row["eps"]) for row in rows):
        mine = [row for row in rows if (row["case"], row["who"], row["eps"]) == (case, who, eps)]
        middle = {name: median(row[name] or 0 for row in mine) for name in ("n_params", "rel_error", "seconds")}
        ratio = median(100 * row["n_params"] / row["entries"] for row in mine)
        fits, kept = median(row["evaluations"] or 0 for row in mine), sum(keeps(row) for row in mine)
        cells = [case, who, "size" if eps == 1 else f"{eps:g}", f"{middle['n_params']:,.0f}", f"{ratio:.3g}"]
        cells += [f"{middle['rel_error']:.3g}", f"{kept} of {len(mine)}", f"{fits:,.0f}", f"{middle['seconds']:.2f}"]
        lines.append(cells)
    for case, published in found["published"].items():
        for p in published:
            cells = [case, f"{p['who']}, {p['source']}", f"{p['eps']:g}", "", f"{p['cr']:g}", "", "", ""]
            lines.append([*cells, f"{p['seconds']:,.0f}"])
    lines.sort(key=lambda line: list(dict.fromkeys(line[0] for line in lines)).index(line[0]))
    head = ["case", "who", "eps", "numbers", "CR %", "error of the dense result", "eps kept", "fits", "seconds"]
    return [head, *lines]


def keeps(row: dict) -> bool:
    return row["rel_error"] <= row["eps"] * (1 + 1e-9)


TABLES: dict[str, Callable[[], list[list[str]]]] = {
    "formats": formats,
    "methods": methods,
    "completions": completions,
    "layers": layers,
    "measured": measured,
    "bars": bars,
    "machine": machine,
    "searches": searches,
}


def on_page_markdown(markdown: str, **_: object) -> str:
    """Called by mkdocs for each page."""
    return MARK.sub(lambda found: as_markdown(TABLES[found.group(1)]()), markdown)


def as_markdown(rows: list[list[str]]) -> str:
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *body])
