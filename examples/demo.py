"""The three jobs of tnkit on real data; writes one HTML report and says where.

    python examples/demo.py                   # build/demo/report.html
    python examples/demo.py --parts cube photo --out report.html

Needs the extra `demo`. Nothing is downloaded.
"""

import argparse
import os
import platform
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from demo_parts import cube, encoder, photo

import tnkit as tk
from tnkit.report import html

PARTS = {"cube": cube.part, "photo": photo.part, "encoder": encoder.part}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/demo/report.html"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="smaller data, to see that it runs")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)

    pieces, begun = [], time.monotonic()
    for name in options.parts:
        print(f"{name} …", flush=True)
        start = time.monotonic()
        pieces.append(PARTS[name](options.quick))
        print(f"  {time.monotonic() - start:.1f} s", flush=True)
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    footer = f"tnkit {tk.__version__} on {machine}: {time.monotonic() - begun:.0f} seconds in all."
    lead = "Big arrays and big models as small networks of tensors, with the truth about what was lost. Real data only."
    html.write_page(options.out, html.page("tnkit on real data", *pieces, lead=lead, footer=footer))
    print(f"The report: {options.out.resolve()}")


if __name__ == "__main__":
    main()
