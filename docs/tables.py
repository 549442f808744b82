"""Fills the tables of the reference from the registries, when the site is built: `<!-- table: NAME -->` in a page."""

import re
from collections.abc import Callable

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


TABLES: dict[str, Callable[[], list[list[str]]]] = {"formats": formats, "methods": methods, "completions": completions}
TABLES["layers"] = layers


def on_page_markdown(markdown: str, **_: object) -> str:
    """Called by mkdocs for each page."""
    return MARK.sub(lambda found: as_markdown(TABLES[found.group(1)]()), markdown)


def as_markdown(rows: list[list[str]]) -> str:
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *body])
