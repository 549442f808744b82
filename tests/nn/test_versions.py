"""Files of other versions: read, or refused with what to do; and what a version fixes."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tnkit.errors import FileFormatError
from tnkit.nn import FactoredLinear, LowRankLayer, compress, load, save
from tnkit.nn.forms import FORMS
from tnkit.nn.versions import VERSION, upgraded

#: What version 2 writes of each form. A form that says more or less needs a new VERSION and a way from the old one;
#: a new form needs neither.
KERNEL = {"groups", "outs", "ins", "kernel"}
VERSION_2 = {
    "channel": KERNEL | {"rank", "pivoted"},
    "cp": KERNEL | {"rank"},
    "kernel_network": KERNEL | {"equation", "shapes", "moves"},
    "low_rank": {"m", "n", "rank", "pivots"},
    "network": {"m", "n", "equation", "shapes", "modes", "n_rows"},
    "low_rank_sparse": {"m", "n", "rank", "nnz"},
    "spatial": KERNEL | {"rank"},
    "tucker2": KERNEL | {"r_out", "r_in"},
}


def test_forms_say_what_version_2_says() -> None:
    assert VERSION == 2
    for kind, names in VERSION_2.items():
        assert {f.name for f in dataclasses.fields(FORMS.get(kind))} == names, kind


def flat(pivots: str, tmp_path: Path) -> tuple[Path, nn.Module]:
    """A file as version 1 wrote it at first, and the model that is in it."""
    torch.manual_seed(0)
    small, _ = compress(
        nn.Sequential(nn.Linear(12, 20)), None, rules={"0": LowRankLayer(rank=3, pivoted=pivots != "none")}
    )
    tensors = load_file(save(small, tmp_path / "now.safetensors"))
    config = {"in_features": 12, "out_features": 20, "rank": 3, "bias": True, "pivots": pivots, "execution": "auto"}
    layers = {"0": {"kind": "FactoredLinear", "config": config}}
    structure = {"version": 1, "model": "Sequential", "layers": layers, "aliases": {}}
    save_file(tensors, tmp_path / "v1.safetensors", metadata={"tnkit.model": json.dumps(structure)})
    return tmp_path / "v1.safetensors", small


@pytest.mark.parametrize("pivots", ["none", "columns"])
def test_a_flat_file_of_version_1(tmp_path: Path, pivots: str) -> None:
    path, small = flat(pivots, tmp_path)
    again = load(path, base=nn.Sequential(nn.Linear(12, 20)))
    assert isinstance(again[0], FactoredLinear)
    assert again[0].form.pivots == pivots
    x = torch.randn(4, 12)
    assert torch.allclose(again(x), small(x), atol=1e-6)


def test_version_1_with_forms_is_read_as_it_is() -> None:
    layers = {"a": {"kind": "FactoredConv", "config": {"form": {"kind": "tucker2"}}}}
    assert upgraded({"layers": layers, "aliases": {}}, 1, "it")["layers"] == layers


@pytest.mark.parametrize("version", [0, 3, "2", None])
def test_unknown_versions(version: Any) -> None:
    with pytest.raises(FileFormatError, match="reads versions 1 to 2"):
        upgraded({"layers": {}}, version, "load: it")


def test_an_early_convolution_is_refused_with_the_remedy() -> None:
    layers = {"conv": {"kind": "FactoredConv2d", "config": {"scheme": "tucker2"}}}
    with pytest.raises(FileFormatError, match="Compress the model again"):
        upgraded({"layers": layers, "aliases": {}}, 1, "load: it")
