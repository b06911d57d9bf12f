import pytest

from kopt.core.errors import ConfigError
from kopt.graph.layer_names import is_named, named

PATHS = ("stem", "backbone", "backbone/block1", "backbone/block1/conv", "backbone/block10/conv", "head")


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("stem", (0,)),
        ("conv", (3, 4)),
        ("backbone", (1, 2, 3, 4)),
        ("block1", (2, 3)),
        ("block1/conv", (3,)),
        ("backbone/block1/conv", (3,)),
        ("block?", (2, 3)),
        ("block*", (2, 3, 4)),
        ("*e*d", (5,)),
        ("[sh]*", (0, 5)),
    ],
)
def test_what_a_name_stands_for(name, places):
    assert named(PATHS, name, "layers") == tuple(PATHS[place] for place in places)


@pytest.mark.parametrize("name", ["lock1", "block", "conv/block1", "backbone/conv", "STEM", ""])
def test_parts_of_names_are_no_names(name):
    assert not any(is_named(path, name) for path in PATHS)


@pytest.mark.parametrize(
    ("name", "hint"), [("block2/conv", "backbone/block1/conv"), ("haed", "head"), ("stme", "stem")]
)
def test_an_unknown_name_says_which_is_close(name, hint):
    with pytest.raises(ConfigError, match=rf"`skip`: no layer is called '{name}'. Did you mean '{hint}'\?"):
        named(PATHS, name, "skip")


def test_what_is_no_name():
    with pytest.raises(
        ConfigError, match=r"no layer is called 3. Give the name of a layer, or its path. .*: stem, back"
    ):
        named(PATHS, 3, "layers")
