"""How the pages look: light and dark, on a screen and in print."""

__all__ = ["STYLE"]

STYLE = """
:root { color-scheme: light dark; --ink: #1c2128; --soft: #5b6472; --paper: #fcfcfa; --line: #d9dce1; --tint: #f0f2f4;
  --accent: #2b6cb0; --bar: #bcd4ec; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --soft: #9aa4b2; --paper: #15181c; --line: #343a43;
  --tint: #1f242a; --accent: #7fb2e5; --bar: #29486a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 2.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .4rem; } h2 { font-size: 1.35rem; margin: 0 0 .4rem; }
header p { font-size: 1.1rem; color: var(--soft); max-width: 46rem; margin: 0; }
section { margin-top: 2.6rem; padding-top: 1.4rem; border-top: 1px solid var(--line); }
p { max-width: 46rem; } code, pre { font: .88em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
pre { background: var(--tint); padding: .8rem 1rem; border-radius: .4rem; overflow-x: auto; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .7rem;
  margin: 1rem 0; padding: 0; }
.facts div { background: var(--tint); border-radius: .5rem; padding: .6rem .8rem; }
.facts dt { color: var(--soft); font-size: .82rem; } .facts dd { margin: 0; font-size: 1.2rem; font-weight: 600;
  overflow-wrap: anywhere; }
.wide { overflow-x: auto; margin: 1rem 0; } table { border-collapse: collapse; width: 100%; font-size: .93rem; }
th { text-align: left; color: var(--soft); font-weight: 600; border-bottom: 2px solid var(--line);
  vertical-align: bottom; }
th, td { padding: .38rem .7rem; } td { border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums; }
.num { text-align: right; white-space: nowrap; } td.best { font-weight: 700; color: var(--accent); }
.bar { background-repeat: no-repeat; background-position: right center;
  background-image: linear-gradient(var(--bar), var(--bar)); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(15rem, 100%), 1fr)); gap: 1rem;
  margin: 1.2rem 0; }
figure { margin: 0; } figure img, figure svg { width: 100%; height: auto; display: block; border-radius: .4rem; }
figure svg { max-width: 40rem; } .pixels { image-rendering: pixelated; }
figcaption { color: var(--soft); font-size: .88rem; margin-top: .35rem; }
details { margin: 1rem 0; } summary { cursor: pointer; color: var(--accent); }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif; } svg .axis { stroke: var(--line); }
svg .thin { stroke: var(--accent); stroke-width: 1; fill: none; opacity: .55; }
svg .thin:hover { stroke-width: 3; opacity: 1; } svg .line { stroke: var(--accent); stroke-width: 2; fill: none; }
footer { margin-top: 3rem; color: var(--soft); font-size: .88rem; }
@media print { body { max-width: none; } section { break-inside: avoid; } }
"""
