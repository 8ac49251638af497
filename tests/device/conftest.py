"""The fixture `cuda`: a simulated device, entered, with its log of waits."""

from collections.abc import Iterator

import pytest

from tests.device.simulated_cuda import SimulatedCuda, is_missing


@pytest.fixture
def cuda() -> Iterator[SimulatedCuda]:
    reason = is_missing()
    if reason is not None:
        pytest.skip(reason)
    with SimulatedCuda() as device:
        yield device
