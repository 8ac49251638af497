"""The package's README: its examples run, and its tables name every network and option."""

import re
from pathlib import Path

import pytest

import backbones
from backbones.create import BUILDERS
from backbones.pyramids import PYRAMIDS

README = (Path(backbones.__file__).parent / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("number", [0, 1])
def test_examples(number, capsys):
    exec(EXAMPLES[number], {"backbones": backbones})
    assert ["'c5': (2, 2048, 7, 10)", "'p7'"][number] in capsys.readouterr().out


def test_every_option_is_explained():
    names = {option for name in (*BUILDERS, *PYRAMIDS) for option in backbones.options(name)}
    # what a network of any depth is made of stands with its class
    names -= {"blocks", "block", "widths", "groups", "width_per_group", "depth", "convolutions", "model"}
    assert [name for name in sorted(names) if not re.search(f"`{name}[`=]", README)] == []


def test_every_pyramid_and_kind_of_weights_is_named():
    assert all(f"`{name}`" in README for name in PYRAMIDS)
    licences = {entry.licence for tags in backbones.WEIGHTS.values() for entry in tags.values()}
    assert all(licence in README for licence in licences)
