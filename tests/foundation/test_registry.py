"""Names to objects."""

import pytest

import tnkit as tk
from tnkit.registry import FORMATS, METHODS, Registry, provider


@pytest.fixture
def colours():
    table = Registry("colour")
    table.register("red", 1)
    table.register("green", 2)
    return table


def test_a_table(colours):
    assert colours.get("red") == 1
    assert colours.names() == tuple(colours) == ("red", "green")
    assert len(colours) == 2
    assert "red" in colours
    assert "blue" not in colours
    assert colours.items() == {"red": 1, "green": 2}
    assert repr(colours) == "Registry('colour': red, green)"


def test_a_name_is_given_once(colours):
    assert colours.register("red", 1) == 1
    with pytest.raises(ValueError, match=r"The colour 'red' is registered already"):
        colours.register("red", 3)


def test_an_unknown_name_gets_the_nearest(colours):
    with pytest.raises(tk.UnknownNameError, match=r"Unknown colour 'gren'. Did you mean 'green'\? Known: 'red'"):
        colours.get("gren")
    with pytest.raises(KeyError) as raised:
        colours.get("xyzzy")
    assert str(raised.value) == "Unknown colour 'xyzzy'. Known: 'red', 'green'."


@pytest.mark.parametrize(("wrong", "right"), [("TT", "tt"), ("tuker", "tucker"), ("Monarc", "monarch")])
def test_formats(wrong, right):
    with pytest.raises(tk.UnknownNameError, match=rf"Unknown format '{wrong}'. Did you mean '{right}'"):
        tk.random_format(wrong, (3, 4), rank=2)


def test_providers_say_what_to_install():
    with pytest.raises(tk.MissingExtraError, match=r"pip install 'tnkit\[interop\]', and import tnkit.interop.nothing"):
        provider("path:nothing", "interop")
    with pytest.raises(ImportError):
        provider("path:nothing", "interop")


def test_every_entry_knows_its_name():
    assert all(FORMATS.get(name).name == name for name in FORMATS)
    assert all(METHODS.get(name).name == name for name in METHODS)
    assert all(METHODS.get(name).summary for name in METHODS)
