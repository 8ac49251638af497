"""`MovingAverage`: the weights averaged over the steps of training, which score better than the last ones."""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import WeightAveraging
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
        average = AveragedModel(
            pl_module, device=trainer.strategy.root_device, multi_avg_fn=self._update, use_buffers=True
        )
        average.n_averaged = (
            average.n_averaged.cpu()
        )  # read at every step, for which a GPU would be waited for
        self._average_model = average

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Nothing yet: the last checkpoint is still to be written, with both kinds of weights."""

    def finish(self, pl_module: pl.LightningModule) -> None:
        """After training: leaves the average in `pl_module`, whose own weights count from then on."""
        self._copy_average_to_current(pl_module)
        self._average_model = None

    @torch.no_grad()
    def _update(self, averages: Any, current: Any, num_averaged: Any) -> None:
        assert self._average_model is not None
        count = int(self._average_model.n_averaged)
        weight = 1 - min(self.decay, (1 + count) / (10 + count))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, current, weight)  # pyright: ignore[reportPrivateImportUsage]
        else:  # batch norm's numbers of batches
            torch._foreach_copy_(averages, current)  # pyright: ignore[reportPrivateImportUsage]
