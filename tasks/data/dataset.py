"""One split as a `Dataset`: the image and target at a position of an epoch, augmented and resized."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from tasks.data.augmentation.geometry import Sample, scale_boxes
from tasks.data.augmentation.pipeline import Augmentation
from tasks.data.loading.images import resize
from tasks.data.loading.samplers import EpochSampler
from tasks.data.splits import Split
from tasks.preprocessing import Preprocessing


class SampleDataset(Dataset[Sample]):
    """A split's images and targets at network size, augmented; indexed by (epoch, index), or the index alone in the
    first epoch, as samplers of somebody else's do."""

    def __init__(
        self,
        split: Split[Any],
        augmentation: Augmentation,
        preprocessing: Preprocessing,
        seed: int,
        *,
        num_images: int | None = None,
        reduced_jpeg: bool = False,
        num_epochs: int | None = None,
    ):
        """Images that augmentation puts together come from the first `num_images`; `num_epochs` tells it how many
        are left, where that is known."""
        self.split = split
        self.augmentation = augmentation
        self.preprocessing = preprocessing
        self.seed = seed
        self.num_images = len(split) if num_images is None else num_images
        self.num_epochs = num_epochs
        self.reduced_jpeg = reduced_jpeg

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, position: tuple[int, int] | int) -> Sample:
        epoch, index = position if isinstance(position, tuple) else (0, position)
        image, target = self._read(index)
        if target.class_id is not None:
            target.original_size = image.shape[:2]  # a list of files knows no sizes before they are decoded
        elif self.preprocessing.center_crop is not None:
            raise ValueError(
                f"preprocessing.center_crop={self.preprocessing.center_crop} would cut objects away; it is for "
                "classification alone: set preprocessing.center_crop=null"
            )
        image, target = self.augmentation(
            image,
            target,
            seed=(self.seed, epoch, index),
            preprocessing=self.preprocessing,
            draw=lambda generator: self._read(int(generator.integers(self.num_images))),
            epochs_left=None if self.num_epochs is None else self.num_epochs - 1 - epoch,
        )
        if self.augmentation.sets_size:
            return image, target
        if self.augmentation and image.shape[:2] == (self.preprocessing.center_crop,) * 2:
            return image, target  # augmentation that ends at this size (RandomResizedCrop) chose what to show
        resized = resize(image, self.preprocessing)
        return resized, scale_boxes(target, image.shape[:2], resized.shape[:2])

    def _read(self, index: int) -> Sample:
        """The sample as it is stored, or smaller where nothing of that would be seen."""
        target = self.split.annotations.target(index)
        if not self.reduced_jpeg or self.augmentation.needs_whole_images or target.class_map is not None:
            return self.split.image(index), target
        image = self.split.reduced_image(index, self.preprocessing.output_size)
        if target.class_id is not None:
            return image, target
        return image, scale_boxes(target, target.original_size, image.shape[:2])


def split_of(loader: object) -> Split[Any]:
    """The split that a loader of `DataModule` reads; ValueError for a loader of anything else."""
    dataset = getattr(loader, "dataset", None)
    if not isinstance(dataset, SampleDataset):
        raise ValueError(
            f"images are scored against the annotations of their whole split, which a {type(loader).__name__} of "
            f"{type(dataset).__name__} does not have; give one loader of tasks.data.datamodule.DataModule, or "
            "datamodule= itself"
        )
    return dataset.split


def images_of(loader: Any, num_batches: Sequence[int]) -> np.ndarray:
    """(I,) ascending: the images of its split that a loader of ours shows in so many batches on each rank."""
    counts = [number * loader.batch_size for number in num_batches]
    if isinstance(loader.sampler, EpochSampler):
        return np.sort(loader.sampler.first(counts))
    return np.arange(min(sum(counts), len(loader.dataset)))


def check_ranks(loader: object, num_ranks: int) -> None:
    """Raises ValueError for a loader of ours that was made for another number of ranks than train together."""
    sampler = getattr(loader, "sampler", None)
    if isinstance(sampler, EpochSampler) and sampler.num_ranks != num_ranks:
        raise ValueError(
            f"the loader was made for {sampler.num_ranks} process and {num_ranks} train together, so that each would "
            "read every image; give the Trainer datamodule= in place of its loaders"
        )
