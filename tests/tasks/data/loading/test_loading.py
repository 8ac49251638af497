"""Samplers, batches and the data module."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import albumentations as A
import lightning.pytorch as lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.trainer.connectors import data_connector
from PIL import Image
from torch import nn

from tasks.contracts import Batch
from tasks.data.augmentation.pipeline import Augmentation
from tasks.data.datamodule import DataModule
from tasks.data.formats.coco import CocoData
from tasks.data.formats.digits import DigitsData
from tasks.data.loading.collate import batch_images, collate
from tasks.data.loading.samplers import EpochSampler
from tasks.preprocessing import Preprocessing
from tasks.targets import Target
from tests.tasks.data.coco_on_disk import categories, picture, write_json

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


@pytest.mark.parametrize("workers", ["process", "thread"])
def test_number_and_kind_of_workers_change_nothing(workers: str) -> None:
    source = DigitsData(size=96, num_train=10, num_val=5, num_test=3)
    alone, with_workers = (
        everything(module_over(source, number, workers=workers, masks=True)) for number in (0, 2)
    )
    assert len(alone) == len(with_workers) == 4
    for first, second in zip(alone, with_workers, strict=True):
        assert_same_batch(first, second)
        assert second.images.is_contiguous(memory_format=torch.channels_last)
    first_epoch, second_epoch = alone[:2], alone[2:]
    assert not torch.equal(first_epoch[0].images, second_epoch[0].images)


def assert_same_batch(first: Batch, second: Batch) -> None:
    for name, value in vars(first).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, getattr(second, name)), name
        else:
            assert value is getattr(second, name), name


@pytest.mark.parametrize("workers", ["process", "thread"])
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("given", [0, 1, 3, 5])
def test_going_on_in_the_middle_of_an_epoch(workers: str, num_workers: int, given: int) -> None:
    source = DigitsData(size=96, num_train=10, num_val=1, num_test=1)
    straight = list(module_over(source, batch_size=2).train_dataloader())
    options = {"num_workers": num_workers, "workers": workers, "batch_size": 2}
    first = module_over(source, **options).train_dataloader()
    batches = iter(first)
    seen = [next(batches) for _ in range(given)]
    state = first.state_dict()  # type: ignore[attr-defined]
    del batches
    second = module_over(source, **options).train_dataloader()
    second.load_state_dict(state)  # type: ignore[attr-defined]
    assert len(second) == 5
    seen += list(second)
    if given == 5:  # all of one epoch is none of the next
        seen = seen[5:]
    assert len(seen) == len(straight)
    for one, other in zip(straight, seen, strict=True):
        assert_same_batch(one, other)
    assert len(list(second)) == 5  # the next is whole again


def test_threads_end_with_their_epoch_and_tell_of_errors() -> None:
    source = DigitsData(size=96, num_train=12, num_val=1, num_test=1)
    module = module_over(source, 2, workers="thread", batch_size=2)

    def alive() -> int:
        return sum(thread.name.startswith("loader") for thread in threading.enumerate())

    batches = iter(module.train_dataloader())
    next(batches)
    assert alive() == 2
    batches.close()  # type: ignore[attr-defined]
    assert alive() == 0
    module.augmentation = Augmentation([A.ToGray(num_output_channels=1, p=1)])
    with pytest.raises(ValueError, match="wanted uint8"):
        list(module.train_dataloader())
    assert alive() == 0


def test_jpegs_of_more_pixels_than_are_shown(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    Image.fromarray(picture(256, 320)).save(tmp_path / "train/a.jpg", quality=95)
    annotation = {
        "id": 1,
        "image_id": 3,
        "category_id": 90,
        "bbox": [10, 20, 100, 60],
        "area": 9,
        "iscrowd": 0,
    }
    ring = [[10, 20, 110, 20, 110, 80, 10, 80]]
    content = {
        "images": [{"id": 3, "file_name": "a.jpg", "height": 256, "width": 320}],
        "annotations": [{**annotation, "segmentation": ring}],
        "categories": categories(),
    }
    write_json(tmp_path / "train.json", content)
    source = CocoData(
        tmp_path,
        train_images="train",
        train_annotations="train.json",
        val_images="train",
        val_annotations="train.json",
    )

    def module(augmentation: list[Any], **options: Any) -> DataModule:
        preprocessing = Preprocessing(short_side=64, max_size=100)
        return DataModule(
            source, preprocessing, augmentation=augmentation, batch_size=1, masks=True, **options
        )

    def read_at(loader: Any) -> tuple[int, int]:
        image, _ = loader.dataset._read(0)
        return image.shape[:2]

    for augmentation in ([], [A.HorizontalFlip(p=0), A.ColorJitter(p=0)]):
        plain, reduced = (module(augmentation, reduced_jpeg=on) for on in (False, True))
        assert read_at(plain.train_dataloader()) == read_at(reduced.val_dataloader()) == (256, 320)
        assert read_at(reduced.train_dataloader()) == (64, 80)
        whole, part = next(iter(plain.train_dataloader())), next(iter(reduced.train_dataloader()))
        assert torch.equal(whole.boxes, part.boxes)
        assert torch.equal(whole.mask_places, part.mask_places)  # type: ignore[arg-type]
        assert torch.equal(whole.sizes, part.sizes)
        assert part.original_sizes.tolist() == [[256, 320]]
        assert (whole.images.int() - part.images.int()).abs().max() < 12
    assert read_at(module([A.RandomCrop(32, 32)], reduced_jpeg=True).train_dataloader()) == (256, 320)


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
        module.trainer = SimpleNamespace(global_rank=rank, world_size=2, num_devices=2, strategy=strategy)  # type: ignore[assignment]
        seen += [i for batch in module.val_dataloader() for i in batch.image_ids.tolist()]
        assert len(list(module.train_dataloader())) == 1
    assert sorted(seen) == [0, 1, 2, 3, 4]


def test_too_few_images_for_a_batch() -> None:
    module = module_over(DigitsData(size=96, num_train=3, num_val=1, num_test=1))
    with pytest.raises(
        ValueError, match=r"train split has 3 images, too few for one batch of loader\.batch_size=4; lower"
    ):
        module.train_dataloader()


def test_unknown_workers() -> None:
    with pytest.raises(ValueError, match=r"loader\.workers=fibre is unknown; wanted process or thread"):
        DataModule(DigitsData(), PREPROCESSING, workers="fibre")  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"seed": -1}, {"num_workers": -1}])
def test_options(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=rf"{name}=.* (must be )?at least"):
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
@pytest.mark.filterwarnings(
    "ignore:.*does not have many workers"
)  # the command line alone says nothing of it
@pytest.mark.parametrize("options", [{}, {"num_workers": 1}, {"num_workers": 2, "workers": "thread"}])
def test_under_lightning_without_a_warning(
    coco_root: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
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
    data = DataModule(CocoData(coco_root), PREPROCESSING, batch_size=2, **options)
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
