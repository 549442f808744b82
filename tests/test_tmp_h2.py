from hypothesis import given, settings, seed
from tnkit.testing.strategies import *
from tnkit.testing.checks import *
from tnkit.registry import FORMATS
import pytest
@pytest.mark.parametrize("name",FORMATS.names())
@settings(max_examples=100)
@given(data=__import__("hypothesis").strategies.data())
def test_all(name,data):
    f=data.draw(formats(name))
    check_format(f,compiled=False)
