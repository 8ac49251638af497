"""`MovingAverage`: the weights averaged over the steps of training, which score better than the last ones."""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

DEFAULT_DECAY = 0.999


class MovingAverage(WeightAveraging):
    """Lightning's averaging of weights and buffers: every validation, every checkpoint's `state_dict` and the
    model file have the average, and a run that goes on keeps it.

    `decay` is the share of the old average that each step keeps; at first it keeps less, as a short run's
    average would be of hardly more than its random start otherwise. Unlike `EMAWeightAveraging` this updates all
    weights in a few kernels and never asks the device for a count.
    """

    def __init__(self, decay: float = DEFAULT_DECAY) -> None:
        if not 0 < decay < 1:
            raise ValueError(
                f"ema={decay} must lie between 0 and 1, such as {DEFAULT_DECAY}; ema=false is for no average"
            )
        super().__init__()
        self.decay = decay

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self._average_model = _Average(pl_module, self.decay, trainer.strategy.root_device)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Nothing yet: the last checkpoint is still to be written, with both kinds of weights."""

    def finish(self, pl_module: pl.LightningModule) -> None:
        """After training: leaves the average in `pl_module`, whose own weights count from then on."""
        self._copy_average_to_current(pl_module)
        self._average_model = None


class _Average(AveragedModel):
    """The averaged copy of a module on `device`, which is not waited for: the number of updates, which decides about
    each of them, stays on the CPU."""

    def __init__(self, module: nn.Module, decay: float, device: torch.device) -> None:
        super().__init__(module, device=device, use_buffers=True)
        self.decay = decay
        self.n_averaged = self.n_averaged.cpu()

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        count = int(self.n_averaged)
        weight = 1 - min(self.decay, (1 + count) / (10 + count))
        groups: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
        for average, current in zip(_tensors(self.module), _tensors(model), strict=True):
            averages, currents = groups.setdefault((average.device, average.dtype), ([], []))
            averages.append(average)
            currents.append(current.to(average.device))
        for averages, currents in groups.values():
            if count and averages[0].is_floating_point():
                torch._foreach_lerp_(averages, currents, weight)  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage]
            else:  # the first, and batch norm's numbers of batches
                torch._foreach_copy_(averages, currents)  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage]
        self.n_averaged += 1


def _tensors(module: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in (*module.parameters(), *module.buffers())]
