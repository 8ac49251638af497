"""Samplers, batches and the data module."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import albumentations as A
import lightning.pytorch as lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.trainer.connectors import data_connector
from torch import nn

from tasks.contracts import Batch, Target
from tasks.data.coco import CocoData
from tasks.data.collate import batch_images, collate
from tasks.data.datamodule import DataModule
from tasks.data.digits import DigitsData
from tasks.data.samplers import EpochSampler
from tasks.preprocessing import Preprocessing
from tests.tasks.data.coco_on_disk import picture

PREPROCESSING = Preprocessing(short_side=None)


def epoch_of(sampler: EpochSampler, epoch: int) -> list[tuple[int, int]]:
    sampler.set_epoch(epoch)
    return list(sampler)


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("num_samples", [0, 1, 7, 24])
def test_evaluation_sees_each_index_once(num_samples: int, num_ranks: int) -> None:
    samplers = [
        EpochSampler(num_samples, shuffle=False, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)
    ]
    indices = [index for sampler in samplers for _, index in sampler]
    assert sorted(indices) == list(range(num_samples))
    assert [len(sampler) for sampler in samplers] == [len(list(sampler)) for sampler in samplers]


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_training_gives_all_ranks_as_many_and_none_twice(num_ranks: int) -> None:
    samplers = [EpochSampler(7, shuffle=True, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
    parts = [[index for _, index in epoch_of(sampler, 3)] for sampler in samplers]
    assert {len(part) for part in parts} == {7 // num_ranks} == {len(sampler) for sampler in samplers}
    joined = [index for part in parts for index in part]
    assert len(set(joined)) == len(joined)


def test_orders_depend_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return [index for _, index in epoch_of(EpochSampler(50, shuffle=True, seed=seed), epoch)]

    assert order(0, 1) == order(0, 1)
    assert sorted(order(0, 1)) == list(range(50))
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    sampler = EpochSampler(5, shuffle=True)
    assert {epoch for epoch, _ in epoch_of(sampler, 4)} == {4}


def sample(height: int, width: int, num_objects: int, image_id: int) -> tuple[np.ndarray, Target]:
    boxes = np.arange(num_objects * 4, dtype=np.float32).reshape(-1, 4)
    return picture(height, width), Target(
        image_id=image_id,
        original_size=(2 * height, 2 * width),
        boxes=boxes,
        labels=np.arange(num_objects) + 1,
        is_crowd=np.ones(num_objects, bool),
    )


def test_collate_by_hand() -> None:
    batch = collate([sample(33, 20, 2, 70), sample(10, 40, 0, 8), sample(5, 5, 3, 1)], PREPROCESSING)
    assert len(batch) == 3
    assert batch.images.shape == (3, 3, 64, 64)
    assert batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.sizes.tolist() == [[33, 20], [10, 40], [5, 5]]
    assert batch.original_sizes.tolist() == [[66, 40], [20, 80], [10, 10]]
    assert batch.image_ids.tolist() == [70, 8, 1]
    np.testing.assert_array_equal(batch.images[0, :, :33, :20].permute(1, 2, 0), picture(33, 20))
    assert batch.images[0, :, 33:].sum() == batch.images[0, :, :, 20:].sum() == 0
    assert batch.boxes.shape == (3, 3, 4)
    assert batch.boxes[0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 0, 0, 0]]
    assert batch.labels.tolist() == [[1, 2, -1], [-1, -1, -1], [1, 2, 3]]
    assert batch.is_crowd.tolist() == [[True, True, False], [False] * 3, [True] * 3]
    dtypes = (batch.boxes.dtype, batch.labels.dtype, batch.sizes.dtype, batch.image_ids.dtype)
    assert dtypes == (torch.float32, torch.int64, torch.int64, torch.int64)


def test_collate_of_images_without_objects() -> None:
    batch = collate([sample(8, 8, 0, 1)], PREPROCESSING)
    assert batch.boxes.shape == (1, 0, 4)
    assert batch.labels.shape == batch.is_crowd.shape == (1, 0)


def test_batch_images_for_prediction() -> None:
    batch = batch_images(
        [picture(20, 40), picture(64, 64)], Preprocessing(short_side=30, max_size=50, pad_multiple=8)
    )
    assert batch.images.shape == (2, 3, 32, 56)
    assert batch.sizes.tolist() == [[25, 50], [30, 30]]
    assert batch.original_sizes.tolist() == [[20, 40], [64, 64]]
    assert batch.image_ids.tolist() == [0, 1]
    assert batch.boxes.shape == (2, 0, 4)


def everything(module: DataModule) -> list[Batch]:
    loader = module.train_dataloader()
    batches = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        batches += list(loader)
    return batches


def module_over(source: Any, num_workers: int = 0, **options: Any) -> DataModule:
    augmentation = [A.ColorJitter(), A.RandomCrop(80, 80), A.HorizontalFlip()]
    return DataModule(
        source,
        Preprocessing(short_side=64, max_size=100),
        augmentation=augmentation,
        num_workers=num_workers,
        **{"batch_size": 4, "seed": 3, **options},
    )


def test_the_number_of_workers_changes_nothing() -> None:
    source = DigitsData(size=96, num_train=10, num_val=5, num_test=3)
    alone, with_workers = (everything(module_over(source, num_workers)) for num_workers in (0, 2))
    assert len(alone) == len(with_workers) == 4
    for first, second in zip(alone, with_workers, strict=True):
        for name in ("images", "boxes", "labels", "image_ids", "sizes", "original_sizes", "is_crowd"):
            assert torch.equal(getattr(first, name), getattr(second, name)), name
        assert second.images.is_contiguous(memory_format=torch.channels_last)
    first_epoch, second_epoch = alone[:2], alone[2:]
    assert not torch.equal(first_epoch[0].images, second_epoch[0].images)


def test_loaders() -> None:
    source = DigitsData(size=96, num_train=10, num_val=5, num_test=3)
    module = module_over(source)
    assert module.class_names == list("0123456789")
    assert module.category_ids.tolist() == list(range(10))
    assert [len(batch) for batch in module.train_dataloader()] == [4, 4]
    batches = list(module.val_dataloader())
    assert [batch.image_ids.tolist() for batch in batches] == [[0, 1, 2, 3], [4]]
    assert batches[0].images.shape == (4, 3, 64, 64)
    assert batches[0].original_sizes.tolist() == [[96, 96]] * 4
    boxes = batches[0].boxes[0][batches[0].labels[0] >= 0]
    np.testing.assert_allclose(boxes, source.split("val").annotations.target(0).boxes / 1.5, rtol=1e-6)
    assert sum(len(batch) for batch in module.test_dataloader()) == 3


def test_ranks_share_the_images() -> None:
    source = DigitsData(size=96, num_train=10, num_val=5, num_test=3)
    seen = []
    for rank in range(2):
        module = module_over(source)
        strategy = SimpleNamespace(root_device=torch.device("cpu"))
        module.trainer = SimpleNamespace(global_rank=rank, world_size=2, strategy=strategy)  # type: ignore[assignment]
        seen += [i for batch in module.val_dataloader() for i in batch.image_ids.tolist()]
        assert len(list(module.train_dataloader())) == 1
    assert sorted(seen) == [0, 1, 2, 3, 4]


def test_too_few_images_for_a_batch() -> None:
    module = module_over(DigitsData(size=96, num_train=3, num_val=1, num_test=1))
    with pytest.raises(
        ValueError, match=r"train split has 3 images, too few for one batch of data\.batch_size=4; lower"
    ):
        module.train_dataloader()


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"seed": -1}, {"num_workers": -1}])
def test_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"data\.batch_size=.* must be at least 1"):
        DataModule(DigitsData(), PREPROCESSING, **options)


class CountImages(lightning.LightningModule):
    """Learns nothing; notes what it is fed."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.trained: list[tuple[int, list[int]]] = []
        self.validated: list[int] = []

    def training_step(self, batch: Batch) -> torch.Tensor:
        self.trained.append((self.current_epoch, batch.image_ids.tolist()))
        return self.weight * batch.images.float().mean()

    def validation_step(self, batch: Batch) -> None:
        self.validated += batch.image_ids.tolist()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


# lightning 2.6.6 asks torch for a class that torch is about to rename.
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_under_lightning_without_a_warning(
    coco_root: Path, num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a machine of many cores Lightning would ask for more workers.
    monkeypatch.setattr(f"{data_connector.__name__}.suggested_max_num_workers", lambda num_devices: 16)
    module = CountImages()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=2,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    data = DataModule(CocoData(coco_root), PREPROCESSING, batch_size=2, num_workers=num_workers)
    trainer.fit(module, datamodule=data)
    for epoch in range(2):
        seen = [i for when, ids in module.trained if when == epoch for i in ids]
        assert sorted(seen) == [5, 12, 700, 900]
    orders = [[ids for when, ids in module.trained if when == epoch] for epoch in range(2)]
    sampler = EpochSampler(4, shuffle=True)
    ids = np.array([700, 12, 5, 900])
    for epoch in range(2):
        expected = [int(ids[index]) for _, index in epoch_of(sampler, epoch)]
        assert [i for batch in orders[epoch] for i in batch] == expected
    assert module.validated == [0, 1] * 2
