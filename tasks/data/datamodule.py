"""The one `LightningDataModule`: the splits of any `Source` to loaders that yield `Batch`."""

import warnings
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from tasks.data.annotations import Annotations
from tasks.data.class_maps import with_class_maps
from tasks.data.collate import Sample, collate
from tasks.data.image_labels import check_classes
from tasks.data.images import resize
from tasks.data.loader import ResumableLoader
from tasks.data.samplers import EpochSampler
from tasks.data.sources import Source, Split, SplitName, check_masks, with_masks
from tasks.data.transforms import Augmentation, scale_boxes
from tasks.preprocessing import Preprocessing

if TYPE_CHECKING:
    import albumentations as A


class SampleDataset(Dataset[Sample]):
    """A split's images and targets at network size, augmented; indexed by (epoch, index)."""

    def __init__(self, split: Split, augmentation: Augmentation, preprocessing: Preprocessing, seed: int):
        self.split = split
        self.augmentation = augmentation
        self.preprocessing = preprocessing
        self.seed = seed

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, position: tuple[int, int]) -> Sample:
        epoch, index = position
        image = self.split.image(index)
        target = self.split.annotations.target(index)
        if target.class_id is not None:
            target.original_size = image.shape[:2]  # a list of files knows no sizes before they are decoded
        elif self.preprocessing.center_crop is not None:
            raise ValueError(
                f"preprocessing.center_crop={self.preprocessing.center_crop} would cut objects away; it is for "
                "classification alone: set preprocessing.center_crop=null"
            )
        image, target = self.augmentation(image, target, seed=(self.seed, epoch, index))
        if self.augmentation and image.shape[:2] == (self.preprocessing.center_crop,) * 2:
            return image, target  # augmentation that ends at this size (RandomResizedCrop) chose what to show
        resized = resize(image, self.preprocessing)
        return resized, scale_boxes(target, image.shape[:2], resized.shape[:2])


class DataModule(LightningDataModule):
    """Loaders over a source. Only training images are shuffled and augmented.

    Runs with `Trainer(use_distributed_sampler=False)`: the samplers here already share the images out
    over the ranks, without the repetitions by which Lightning's would falsify an evaluation.
    """

    def __init__(
        self,
        source: Source,
        preprocessing: Preprocessing,
        *,
        augmentation: "Sequence[A.BasicTransform | A.BaseCompose]" = (),
        batch_size: int = 8,
        num_workers: int = 0,
        max_train_images: int | None = None,
        seed: int = 0,
        eval_split: SplitName = "val",
        masks: bool = False,
        class_maps: bool = False,
        classes: bool = False,
    ):
        """`batch_size` counts images per rank; training learns from the first `max_train_images` alone where that
        is given; `eval_split` is the split that validation reads. With
        `masks` targets have the masks of their objects, with `class_maps` they are the class of each pixel,
        with `classes` the class of the image; ValueError says so where `source` has none, as it does without
        any of the three where there are no boxes."""
        super().__init__()
        if batch_size < 1 or num_workers < 0 or seed < 0:
            raise ValueError(
                f"data.batch_size={batch_size} must be at least 1, data.num_workers={num_workers} and "
                f"seed={seed} at least 0"
            )
        self.source = with_class_maps(source) if class_maps else with_masks(source) if masks else source
        self.masks = masks
        self.class_maps = class_maps
        self.classes = classes
        self.preprocessing = preprocessing
        self.augmentation = Augmentation(augmentation)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.max_train_images = max_train_images
        self.seed = seed
        self.eval_split: SplitName = eval_split

    @property
    def class_names(self) -> list[str]:
        """Names by label, 0 … K-1."""
        return self.source.class_names

    @property
    def category_ids(self) -> np.ndarray:
        """(K,) int64: the data set's own id of each label."""
        return self.source.category_ids

    def split(self, name: SplitName) -> Split:
        """The split itself, e.g. for its annotations."""
        split = self.source.split(name)
        if self.masks:
            check_masks(split.annotations, name)
        elif self.classes:
            check_classes(split.annotations, type(self.source).__name__)
        elif not self.class_maps:
            check_boxes(split.annotations, type(self.source).__name__)
        return split

    def train_dataloader(self) -> DataLoader[Any]:
        """Full batches of shuffled, augmented images."""
        loader = self._loader("train", is_training=True)
        if len(loader) == 0:
            num_ranks = self._rank_and_num_ranks()[1]
            ranks = f" on each of {num_ranks} devices" if num_ranks > 1 else ""
            raise ValueError(
                f"the train split has {len(self.split('train'))} images, too few for one batch of "
                f"data.batch_size={self.batch_size}{ranks}; lower data.batch_size or add images"
            )
        return loader

    def val_dataloader(self) -> DataLoader[Any]:
        """Every image of `eval_split` exactly once over all ranks."""
        return self._loader(self.eval_split, is_training=False)

    def test_dataloader(self) -> DataLoader[Any]:
        """Every image of the test split exactly once over all ranks."""
        return self._loader("test", is_training=False)

    def _rank_and_num_ranks(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size

    def _loader(self, name: SplitName, *, is_training: bool) -> DataLoader[Any]:
        # How many workers is the user's choice; Lightning would question it on every run.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        rank, num_ranks = self._rank_and_num_ranks()
        split = self.split(name)
        augmentation = self.augmentation if is_training else Augmentation()
        most = self.max_train_images if is_training else None
        num_images = len(split) if most is None else min(most, len(split))
        return ResumableLoader(
            SampleDataset(split, augmentation, self.preprocessing, self.seed),
            batch_size=self.batch_size,
            sampler=EpochSampler(
                num_images, shuffle=is_training, seed=self.seed, rank=rank, num_ranks=num_ranks
            ),
            drop_last=is_training,
            num_workers=self.num_workers,
            collate_fn=partial(collate, preprocessing=self.preprocessing),
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
            persistent_workers=self.num_workers > 0,
            worker_init_fn=use_one_thread,
            generator=torch.Generator(),  # its own, or opening a loader would change what the model draws
        )


def check_boxes(annotations: object, source: str) -> None:
    """Raises ValueError unless `annotations`, those of a data set called `source`, are of objects in images."""
    if not isinstance(annotations, Annotations):
        raise ValueError(
            f"detection needs a box for each object, which {source} does not have; use objects with boxes "
            "(data=coco, data=voc, data=digits), or the task that this data is for"
        )


def use_one_thread(worker: int) -> None:
    """Keeps OpenCV in a worker process to the one core that the worker is meant to use."""
    cv2.setNumThreads(0)
