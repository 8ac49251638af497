"""A short run of the generators of damaged data; `python -m tests.fuzz` runs them long."""

import time
from itertools import islice
from types import ModuleType

import pytest

from tests.fuzz import annotations, archives, images


@pytest.mark.parametrize(("module", "count"), [(images, 60), (archives, 40), (annotations, 60)])
def test_damaged_data_keeps_every_promise(module: ModuleType, count: int) -> None:
    for number, given in enumerate(islice(module.inputs(seed=1), count)):
        started = time.monotonic()
        assert module.check(given) == "", f"input {number}: {given.name}"
        assert time.monotonic() - started < 10, f"input {number}: {given.name}"
