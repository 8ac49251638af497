"""The simulated device itself: what waits and what does not, as on a GPU, and what raises."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import nms

from tests.device.simulated_cuda import SimulatedCuda

# What is done with x = (0, 1, 2, 3) on the device, and how often that waits for it.
WAITS: dict[str, tuple[Callable[[Tensor], object], int]] = {
    "item": (lambda x: x.sum().item(), 1),
    "float": (lambda x: float(x[0]), 1),
    "bool": (lambda x: bool((x > 1).any()), 1),
    "tolist": (lambda x: x.tolist(), 1),
    "cpu": (lambda x: x.cpu(), 1),
    "to of another tensor": (lambda x: torch.zeros(1).to(x), 1),
    "new_tensor": (lambda x: x.new_tensor([1.0, 2.0]), 1),
    "a constant": (lambda x: torch.tensor([1.0], device=x.device), 1),
    "nonzero": (lambda x: x.nonzero(), 1),
    "where of one": (lambda x: torch.where(x > 1), 1),
    "index by mask": (lambda x: x[x > 1], 1),
    "assign tensors by mask": (lambda x: x.clone().__setitem__(x > 1, x[:2]), 1),
    "assign a number by index": (lambda x: x.clone().__setitem__(x.long(), 1.0), 1),
    "assign a number to an element": (lambda x: x.clone().__setitem__(0, 1.0), 1),
    "index on the CPU": (lambda x: x[torch.tensor([1, 0])], 1),
    "masked_select": (lambda x: x.masked_select(x > 1), 1),
    "unique": (lambda x: x.unique(), 1),
    "bincount": (lambda x: x.long().bincount(), 1),
    "equal": (lambda x: x.equal(x), 1),
    "repeat_interleave": (lambda x: x.repeat_interleave(x.long()), 1),
    "copy_ to the CPU": (lambda x: torch.zeros(4).copy_(x), 1),
    "copy_ to the device": (lambda x: x.clone().copy_(torch.ones(4)), 1),
    "not blocking, from memory that can be paged": (
        lambda x: torch.ones(4).to(x.device, non_blocking=True),
        1,
    ),
    "one_hot without classes": (lambda x: nn.functional.one_hot(x.long()), 1),
    "nms": (lambda x: nms(x.expand(1, 4), x[:1], 0.5), 1),
    "synchronize": (lambda x: torch.cuda.synchronize(), 1),
    "a fill by mask": (lambda x: x.clone().__setitem__(x > 1, 0.0), 0),
    "a fill of a slice": (lambda x: x.clone().__setitem__(slice(2), 0.0), 0),
    "assign tensors by index": (lambda x: x.clone().__setitem__(x.long(), x), 0),
    "masked_fill": (lambda x: x.masked_fill(x > 1, 0), 0),
    "where": (lambda x: x.where(x > 1, 0), 0),
    "where with a scalar on the CPU": (lambda x: x.where(x > 1, torch.tensor(7.0)), 0),
    "arithmetic with a scalar on the CPU": (lambda x: x * torch.tensor(2.0), 0),
    "full": (lambda x: torch.full((2,), 3.0, device=x.device), 0),
    "new_full": (lambda x: x.new_full((2,), 3.0), 0),
    "index by index": (lambda x: x[x.long()], 0),
    "topk and sort": (lambda x: (x.topk(2), x.sort(), x.argsort()), 0),
    "repeat_interleave of known size": (lambda x: x.repeat_interleave(x.long(), output_size=6), 0),
    "one_hot": (lambda x: nn.functional.one_hot(x.long(), 4), 0),
    "page-locked, not blocking": (lambda x: torch.ones(4).pin_memory().to(x.device, non_blocking=True), 0),
    "to the CPU, not blocking": (lambda x: x.to("cpu", non_blocking=True), 0),
    "scatter_add_": (lambda x: x.clone().scatter_add_(0, x.long(), x), 0),
}


@pytest.mark.parametrize("what", WAITS)
def test_what_waits(what: str, cuda: SimulatedCuda) -> None:
    x = torch.arange(4.0, device="cuda")
    function, expected = WAITS[what]
    cuda.clear()
    function(x)
    assert cuda.total() == expected, cuda
    assert all(place.startswith("tests/device/test_simulated_cuda.py:") for place in cuda.waits), cuda


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("what", [what for what in WAITS if what not in ("nms", "synchronize")])
def test_a_gpu_waits_for_the_same(what: str) -> None:
    """Of what torch itself knows to wait: nms is torchvision's, and copies from pageable memory only may."""
    x = torch.arange(4.0, device="cuda")
    function, expected = WAITS[what]
    function(x)  # kernels are loaded
    torch.cuda.set_sync_debug_mode("error")
    try:
        function(x)
        waited = False
    except RuntimeError:
        waited = True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert waited == bool(expected) or "can be paged" in what


@pytest.mark.parametrize(
    "mixed",
    [
        lambda x: x + torch.ones(4),
        lambda x: torch.cat((x, torch.ones(1))),
        lambda x: torch.stack((x[0], torch.tensor(1.0))),
        lambda x: x.where(torch.ones(4, dtype=torch.bool), 0),
        lambda x: x.clone().__setitem__(x.long(), torch.ones(4)),
        lambda x: torch.arange(4)[x.long()],
        lambda x: torch.tensor(0.0).add_(x[0]),
        lambda x: nn.Linear(4, 2)(x),
        lambda x: x.index_select(0, torch.tensor([0])),
    ],
)
def test_operands_of_both_devices_raise(mixed: Callable[[Tensor], object], cuda: SimulatedCuda) -> None:
    x = torch.arange(4.0, device="cuda")
    with pytest.raises((RuntimeError, IndexError), match="device|CPU|cpu"):
        mixed(x)


def test_numbers_gradients_and_types_are_those_of_the_cpu(cuda: SimulatedCuda) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    x = torch.rand(2, 3, 8, 8)
    loss = network(x).square().mean()
    loss.backward()
    expected = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    network.zero_grad()
    network[1].reset_running_stats()  # type: ignore[operator]
    network.to("cuda")
    moved = network(x.to("cuda")).square().mean()
    moved.backward()
    assert moved.is_cuda and str(moved.device) == "cuda:0"
    assert float(moved.detach()) == float(loss.detach())
    for parameter, grad in zip(network.parameters(), expected, strict=True):
        assert parameter.grad is not None and parameter.grad.is_cuda
        assert parameter.grad.cpu().equal(grad)
    with torch.autocast("cuda", torch.bfloat16):
        assert network[0](x.to("cuda")).dtype == torch.bfloat16
        assert network[1](network[0](x.to("cuda"))).dtype == torch.bfloat16
        assert (x.to("cuda") ** 2).dtype == torch.float32  # as CUDA's policy has it
    network.to("cpu")
    assert all(type(p) is nn.Parameter and p.device.type == "cpu" for p in network.parameters())


def test_everything_is_as_before_afterwards() -> None:
    a = torch.ones(2, requires_grad=True)
    a.sum().backward()
    assert a.grad is not None and a.grad.tolist() == [1, 1]
    if not torch.cuda.is_available():
        with pytest.raises((RuntimeError, AssertionError)):
            torch.ones(2, device="cuda")


class Planted(nn.Module):
    """Loses the mean of its input, and does what a step should not do."""

    def __init__(self, plant: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.plant = plant

    def forward(self, x: Tensor) -> Tensor:
        self.plant(x.detach())
        return (self.weight * x).mean()


@pytest.mark.parametrize(
    "plant",
    [
        lambda x: x.max().item(),
        lambda x: (x > 1).nonzero(),
        lambda x: x.new_tensor([0.0, 1.0]),
        lambda x: x[x > 1],
        lambda x: x + torch.tensor([1.0], device=x.device),
    ],
    ids=["item", "nonzero", "new_tensor", "mask", "constant"],
)
def test_what_is_planted_in_a_network_is_caught(
    plant: Callable[[Tensor], object], cuda: SimulatedCuda
) -> None:
    x = torch.arange(4.0).pin_memory().to("cuda", non_blocking=True)
    for planted, expected in ((lambda x: x, 0), (plant, 1)):
        network = Planted(planted).to("cuda")
        cuda.clear()
        network(x).backward()
        assert cuda.total() == expected, cuda


def test_a_constant_on_the_cpu_is_caught(cuda: SimulatedCuda) -> None:
    network = Planted(lambda x: x + torch.tensor([1.0])).to("cuda")
    with pytest.raises(RuntimeError, match="same device"):
        network(torch.ones(4, device="cuda"))
