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


def completed() -> list[list[str]]:
    """The completion cases: every contender, means over pictures and seeds, the best first."""
    rows = [row for row in figures("bench_completion")["rows"] if not row["failed"]]
    head = ["case", "who", "PSNR dB", "SSIM", "RSE", "RMSE", "MAE", "processor s, largest", "arrays × seeds"]
    return [head, *(line for case in dict.fromkeys(row["case"] for row in rows) for line in completed_case(case, rows))]


def completed_case(case: str, rows: list[dict]) -> list[list[str]]:
    mine = [row for row in rows if row["case"] == case]
    groups = {who: [row for row in mine if row["who"] == who] for who in dict.fromkeys(row["who"] for row in mine)}
    lines = []
    for who, group in sorted(groups.items(), key=lambda pair: mean([row["rse"] for row in pair[1]])):
        how = ", ".join(sorted({row["how"] for row in group if row["how"]})) if who == "auto" else ""
        psnr, ssim = (mean([row[key] for row in group if row[key] is not None]) for key in ("psnr", "ssim"))
        cells = ["" if psnr is None else f"{psnr:.2f}", "" if ssim is None else f"{ssim:.3f}"]
        cells += [f"{mean([row[key] for row in group]):.4g}" for key in ("rse", "rmse", "mae")]
        cells += [f"{max(row['cpu_s'] for row in group):.1f}"]
        pictures, seeds = (len({row[key] for row in group}) for key in ("picture", "seed"))
        lines.append([case, f"**auto** ({how})" if how else who, *cells, f"{pictures} × {seeds}"])
    return lines


def mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def planted() -> list[list[str]]:
    """Planted low rank: the error beside the reference, and how often the rank was found."""
    rows = figures("bench_completion_planted")
    head = ["case", "error, mean", "× reference, largest", "rank right", "processor s, largest"]
    lines = []
    for case in dict.fromkeys(row["case"] for row in rows):
        mine = [row for row in rows if row["case"] == case]
        ratio = max(row["error"] / row["beside"] for row in mine)
        right = f"{sum(row['right'] for row in mine)} of {len(mine)}"
        error = sum(row["error"] for row in mine) / len(mine)
        lines.append([case, f"{error:.2e}", f"{ratio:.2f}", right, f"{max(row['cpu_s'] for row in mine):.1f}"])
    return [head, *lines]


def published() -> list[list[str]]:
    """Figures of papers, which were not measured here."""
    return [["case", "who", "published", "where"], *(list(row) for row in figures("bench_completion")["published"])]


def coordinates() -> list[list[str]]:
    """Completion of coordinates, by the number of entries."""
    head = ["entries", "array", "rank asked", "rank", "seconds", "peak GB", "error", "error of an oracle"]
    rows = figures("bench_completion_coordinates")["rows"]
    return [head, *(coordinates_row(row) for row in rows)]


def coordinates_row(row: dict) -> list[str]:
    size = [f"{row['entries']:,}", " × ".join(f"{n:,}" for n in row["shape"]), row["rank_asked"], str(row["rank"])]
    size.append(f"{row['seconds']:.1f}")
    return [*size, f"{row['peak_bytes'] / 1e9:.2f}", f"{row['error']:.3f}", f"{row['oracle_error']:.3f}"]


def smooth() -> list[list[str]]:
    """Smooth factors beside Tucker on the best grid."""
    head = [
        "function",
        "seed",
        "rank",
        "error",
        "on the best grid",
        "90 % intervals cover",
        "of the function",
        "seconds",
    ]
    rows = figures("bench_functional")["rows"]
    return [[*head, "seconds"], *(smooth_row(row) for row in rows)]


def smooth_row(row: dict) -> list[str]:
    who = [row["function"], str(row["seed"]), str(row["rank"]), f"{row['rmse']:.3f}", f"{row['grid_rmse']:.3f}"]
    return [*who, f"{row['coverage_noisy']:.3f}", f"{row['coverage_function']:.3f}", f"{row['seconds']:.0f}"]


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
        middle = {name: median(row[name] or 0 for row in mine) for name in ("n_params", "rel_error")}
        # where it is known, the processor's time: such rows ran beside other work
        spent = median(row.get("processor_s") or row["seconds"] for row in mine)
        ratio = median(100 * row["n_params"] / row["entries"] for row in mine)
        fits, kept = median(row["evaluations"] or 0 for row in mine), sum(keeps(row) for row in mine)
        cells = [case, who, "size" if eps == 1 else f"{eps:g}", f"{middle['n_params']:,.0f}", f"{ratio:.3g}"]
        cells += [f"{middle['rel_error']:.3g}", f"{kept} of {len(mine)}", found_planted(mine)]
        cells += [f"{fits:,.0f}", f"{spent:.2f}"]
        lines.append(cells)
    for case, published in found["published"].items():
        for p in published:
            cells = [case, f"{p['who']}, {p['source']}", f"{p['eps']:g}", "", f"{p['cr']:g}", "", "", "", ""]
            lines.append([*cells, f"{p['seconds']:,.0f}"])
    cases = list(dict.fromkeys(line[0] for line in lines))
    lines.sort(key=lambda line: cases.index(line[0]))
    head = [
        "case",
        "who",
        "eps",
        "numbers",
        "CR %",
        "error of the dense result",
        "eps kept",
        "planted size",
        "fits",
        "seconds",
    ]
    return [head, *lines]


def found_planted(rows: list[dict]) -> str:
    """How often eps was reached at the size that was planted, or less."""
    planted = [row for row in rows if row["planted"]]
    hits = sum(keeps(row) and row["n_params"] <= row["planted"] for row in planted)
    return f"{hits} of {len(planted)}" if planted else ""


def keeps(row: dict) -> bool:
    return row["rel_error"] <= row["eps"] * (1 + 1e-9)


def ablation() -> list[list[str]]:
    """Searches with and without warm starts and bounds, at equal size: medians over the seeds."""
    rows, ways = figures("bench_search_ablation")["rows"], ("bounds alone", "warm starts alone", "neither")
    head = ["target", "search", "planted", "size", "fits", "processor s", *(f"{how}: s" for how in ways)]
    lines = []
    for target, who in dict.fromkeys((row["target"], row["search"]) for row in rows):
        mine = [row for row in rows if (row["target"], row["search"]) == (target, who)]
        both = [row for row in mine if row["how"] == "both" and row["size"] is not None]
        if not both:
            lines.append([target, who, str(mine[0]["planted"]), "none in time", *[""] * (len(head) - 4)])
            continue
        cells = [target, who, str(both[0]["planted"]), f"{median(row['size'] for row in both):.0f}"]
        cells += [f"{median(row['evaluations'] for row in both):.0f}", f"{median(row['found_s'] for row in both):.2f}"]
        own = {row["seed"]: row["found_s"] for row in both}
        lines.append([*cells, *(saved([row for row in mine if row["how"] == how], own) for how in ways)])
    return [head, *lines]


def saved(others: list[dict], own: dict[int, float]) -> str:
    """Seconds, and how many times those of the search as it is; a lower bound where that size was not found."""
    if not others:
        return ""
    ratio = median(row["found_s"] / own[row["seed"]] for row in others)
    sign = "" if all(row["reached"] for row in others) else "> "
    return f"{median(row['found_s'] for row in others):.1f} ({sign}{ratio:.1f}×)"


def refound() -> list[list[str]]:
    """Planted networks found again: how many, and the processor's seconds."""
    rows = figures("bench_search_planted")["rows"]
    lines = []
    for target, noise in dict.fromkeys((row["target"], row["noise"]) for row in rows):
        mine = [row for row in rows if (row["target"], row["noise"]) == (target, noise)]
        right = sum(keeps(row) and row["n_params"] <= row["planted"] for row in mine)
        spent = [row["seconds"] for row in mine]
        lines.append([target, f"{noise:g}", f"{right}/{len(mine)}", f"{median(spent):.1f}", f"{max(spent):.1f}"])
    return [["target", "noise", "planted size or less", "median s", "longest s"], *lines]


def searched_completions() -> list[list[str]]:
    """Completion by search beside fixed formats, in equal time."""
    rows = sorted(figures("bench_search_completion")["rows"], key=lambda r: (r["array"], r["seed"], r["error"]))
    head = ["array", "seed", "who", "held-out error", "error elsewhere", "numbers", "seconds"]
    lines = []
    for r in rows:
        held = "" if r["heldout"] is None else f"{r['heldout']:.4f}"
        size = "" if r["n_params"] is None else f"{r['n_params']:,}"
        lines.append([r["array"], str(r["seed"]), r["who"], held, f"{r['error']:.4f}", size, f"{r['seconds']:.0f}"])
    return [head, *lines]


def searched_layers() -> list[list[str]]:
    """Matrices of an encoder by search and by low rank, at equal numbers."""
    rows = figures("bench_search_layers")["rows"]
    head = ["layer", "matrix", "keep", "found", "numbers", "error", "low rank: numbers", "error"]
    lines = []
    for mine, rank in zip(rows[::2], rows[1::2], strict=True):
        cells = [mine["layer"], mine["shape"], f"{mine['keep']:g}", mine["format"], f"{mine['params']:,}"]
        lines.append([*cells, f"{mine['error']:.4f}", f"{rank['params']:,}", f"{rank['error']:.4f}"])
    return [head, *lines]


def of_models(name: str, columns: dict[str, tuple[str, str]]) -> list[list[str]]:
    """The rows of a benchmark of models or layers: heading to (field, format); fields that are not there stay empty."""
    found = figures(name)
    rows = found if isinstance(found, list) else found["rows"]

    def cell(row: dict, field: str, how: str) -> str:
        value = row.get(field)
        return "" if value is None else format(value, how)

    return [list(columns), *([cell(row, *column) for column in columns.values()] for row in rows)]


def vision() -> list[list[str]]:
    head = ["seed", "times smaller", "parameters", "dense", "at once", "recovered"]
    rows = [
        [
            str(r["seed"]),
            str(r["smaller"]),
            f"{r['params']:,}",
            *(f"{r[k]:.1%}" for k in ("dense", "at_once", "recovered")),
        ]
        for r in figures("bench_vision")["digits"]
    ]
    return [head, *rows]


def convolution() -> list[list[str]]:
    rows = [[r["what"], f"{r['params']:,}", f"{r['ms']:.1f}"] for r in figures("bench_vision")["layer"]]
    return [["256 → 256, 3×3, on 28×28, batch 8", "parameters", "ms"], *rows]


def matrices() -> list[list[str]]:
    columns = {
        "matrix": ("matrix", ""),
        "format": ("format", ""),
        "numbers": ("params", ","),
        "error": ("error", ".4f"),
    }
    return of_models("bench_matrices", columns | {"the paper's algorithm": ("rival_error", ".4f")})


def language() -> list[list[str]]:
    """Means over the seeds, and the worst of them."""
    rows, lines = figures("bench_language")["rows"], []
    for who, keep in dict.fromkeys((r["who"], r["keep"]) for r in rows):
        mine = [r for r in rows if (r["who"], r["keep"]) == (who, keep)]
        found, worse = (sum(r[field] for r in mine) / len(mine) for field in ("perplexity", "worse"))
        most = max(r["worse"] for r in mine)
        lines.append([who, f"{keep:g}", str(len(mine)), f"{found:.3f}", f"{worse:.1%}", f"{most:.1%}"])
    return [["who", "keep", "models", "perplexity", "worse by", "at worst"], *lines]


def sentences() -> list[list[str]]:
    columns = {"who": ("who", ""), "keep": ("keep", ""), "cosine": ("cosine", ".3f"), "top-10": ("overlap", ".3f")}
    times = {"ms": ("ms", ".0f"), "ms dense": ("ms_dense", ".0f"), "layers slower than dense": ("slower", "")}
    return of_models("bench_encoder", columns | times | {"processor s": ("cpu_s", ".0f"), "steps": ("steps", "")})


def conversion() -> list[list[str]]:
    columns = {"layer": ("size", ""), "who": ("who", ""), "seconds": ("convert_s", ".1f"), "numbers": ("params", ",")}
    times = {"ms": ("ms", ".1f"), "ms dense": ("dense_ms", ".1f"), "peak MB": ("peak_mb", ".0f"), "": ("failed", "")}
    return of_models("bench_layers", columns | {"error": ("error", ".3f")} | times)


TABLES: dict[str, Callable[[], list[list[str]]]] = {
    "formats": formats,
    "methods": methods,
    "completions": completions,
    "layers": layers,
    "measured": measured,
    "bars": bars,
    "machine": machine,
    "searches": searches,
    "ablation": ablation,
    "searched_layers": searched_layers,
    "refound": refound,
    "searched_completions": searched_completions,
    "completed": completed,
    "planted": planted,
    "published": published,
    "coordinates": coordinates,
    "smooth": smooth,
    "vision": vision,
    "convolution": convolution,
    "matrices": matrices,
    "language": language,
    "sentences": sentences,
    "conversion": conversion,
}


def on_page_markdown(markdown: str, **_: object) -> str:
    """Called by mkdocs for each page."""
    return MARK.sub(lambda found: as_markdown(TABLES[found.group(1)]()), markdown)


def as_markdown(rows: list[list[str]]) -> str:
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *body])
