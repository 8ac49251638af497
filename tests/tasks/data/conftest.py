"""Fixtures of the data tests."""

from pathlib import Path

import pytest

from tests.tasks.data.coco_on_disk import write_coco


@pytest.fixture
def coco_root(tmp_path: Path) -> Path:
    """The root of a small data set in COCO's layout."""
    write_coco(tmp_path)
    return tmp_path
