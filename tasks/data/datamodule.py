"""The one `LightningDataModule`: the splits of any `Source` to loaders that yield `Batch`."""

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from tasks.data.annotations.objects import Annotations
from tasks.data.augmentation.pipeline import Augmentation, Transform
from tasks.data.dataset import SampleDataset
from tasks.data.loading.collate import collate
from tasks.data.loading.loader import ResumableLoader, use_one_thread
from tasks.data.loading.samplers import EpochSampler, image_factors
from tasks.data.loading.settings import LoaderSettings
from tasks.data.sources import Source, check_masks
from tasks.data.splits import Split, SplitName
from tasks.preprocessing import Preprocessing

if TYPE_CHECKING:
    import albumentations as A


class DataModule(LightningDataModule):
    """Loaders over a source. Only training images are shuffled and augmented.

    The samplers share the images out over the ranks, without the repetitions by which Lightning's would falsify an
    evaluation; whatever `use_distributed_sampler` says, Lightning leaves them alone.
    """

    def __init__(
        self,
        source: Source[Any],
        preprocessing: Preprocessing,
        *,
        augmentation: "Sequence[Transform | A.BasicTransform | A.BaseCompose]" = (),
        loader: LoaderSettings | None = None,
        seed: int = 0,
        eval_split: SplitName = "val",
        test_split: SplitName = "test",
        masks: bool = False,
        class_maps: bool = False,
        classes: bool = False,
        **loader_settings: Any,
    ):
        """`loader` says how batches are made; any of its fields can be given by name beside it. `eval_split` is the
        split that validation and prediction read, `test_split` the one that a test reads.

        With `masks` targets have the masks of their objects, with `class_maps` they are the class of each pixel,
        with `classes` the class of the image; ValueError says so where `source` has none, as it does without
        any of the three where there are no boxes."""
        super().__init__()
        if seed < 0:
            raise ValueError(f"seed={seed} must be at least 0")
        for transform in augmentation:
            if isinstance(transform, Transform) and transform.needs_masks and not masks:
                raise ValueError(
                    f"augmentation {type(transform).__name__} cuts objects out along their masks, which this task does "
                    "not read; leave it out, or train with task=instance_segmentation"
                )
        self.loader = replace(loader or LoaderSettings(), **loader_settings)
        if class_maps:
            self.source: Source[Any] = source.with_class_maps()
        elif masks:
            self.source = source.with_masks(required=True)
        else:
            self.source = source.with_classes() if classes else source.with_boxes()
        self.masks = masks
        self.class_maps = class_maps
        self.classes = classes
        self.preprocessing = preprocessing
        self.augmentation = Augmentation(augmentation)
        self.seed = seed
        self.eval_split: SplitName = eval_split
        self.test_split: SplitName = test_split

    @property
    def batch_size(self) -> int:
        """Images on each device."""
        size = self.loader.batch_size
        assert size != "auto", "the batch size is still to be found"
        return size

    def with_batch_size(self, size: int, preprocessing: Preprocessing | None = None) -> Self:
        """The same data, of which nothing is read again, in batches of `size`, with its own `preprocessing` for
        None."""
        data = copy(self)
        data.loader = replace(self.loader, batch_size=size)
        data.preprocessing = preprocessing or self.preprocessing
        return data

    @property
    def class_names(self) -> list[str]:
        """Names by label, 0 … K-1."""
        return self.source.class_names

    @property
    def category_ids(self) -> np.ndarray:
        """(K,) int64: the data set's own id of each label."""
        return self.source.category_ids

    def split(self, name: SplitName) -> Split[Any]:
        """The split itself, e.g. for its annotations."""
        split = self.source.split(name)
        if self.masks:
            check_masks(split.annotations, name)
        return split

    def train_dataloader(self) -> DataLoader[Any]:
        """Full batches of shuffled, augmented images."""
        self._check_trainable("train")
        loader = self._loader("train", is_training=True)
        if len(loader) == 0:
            num_ranks = self._rank_and_num_ranks()[1]
            ranks = f" on each of {num_ranks} devices" if num_ranks > 1 else ""
            raise ValueError(
                f"the train split has {len(self.split('train'))} images, too few for one batch of "
                f"loader.batch_size={self.batch_size}{ranks}; lower it or add images"
            )
        return loader

    def val_dataloader(self) -> DataLoader[Any]:
        """Every image of `eval_split` exactly once over all ranks; those that are padded alike follow each other."""
        if getattr(getattr(self.trainer, "state", None), "fn", None) == "fit":
            self._check_trainable(self.eval_split)
        return self._loader(self.eval_split, is_training=False, alike=True)

    def test_dataloader(self) -> DataLoader[Any]:
        """Every image of `test_split` exactly once over all ranks, as `val_dataloader` does."""
        return self._loader(self.test_split, is_training=False, alike=True)

    def predict_dataloader(self) -> DataLoader[Any]:
        """The images of `eval_split`, in order."""
        return self._loader(self.eval_split, is_training=False)

    def _check_trainable(self, name: SplitName) -> None:
        """Raises ValueError, with the reason, for a split of objects without one that can be learned."""
        objects = self.split(name).objects
        if objects is None or not objects.is_crowd.all():
            return
        why = self.source.why_untrainable(name) or "it has no object, or none that data.on_invalid leaves"
        raise ValueError(
            f"nothing can be learned from the {name} split: {why}; correct the data (vertebra check-data lists why)"
        )

    def _rank_and_num_ranks(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size

    def _num_epochs(self, num_batches: int) -> int | None:
        """Epochs that the trainer will run, each of so many batches; None where time alone will end it."""
        trainer = self.trainer
        if trainer is None or num_batches == 0:
            return None
        if isinstance(trainer.limit_train_batches, int):
            num_batches = min(num_batches, trainer.limit_train_batches)
        limits = []
        if trainer.max_epochs is not None and trainer.max_epochs >= 0:
            limits.append(trainer.max_epochs)
        if trainer.max_steps >= 0:
            limits.append(math.ceil(trainer.max_steps * trainer.accumulate_grad_batches / num_batches))
        return min(limits, default=None)

    def _choices(self, annotations: Any, num_images: int) -> dict[str, Any]:
        """What the sampler of the training images, the first so many, goes by."""
        loader = self.loader
        if num_images < len(annotations) and (loader.sampling != "all" or loader.empty_share is not None):
            annotations = annotations.select(np.arange(num_images))
        factors = image_factors(annotations, loader.sampling, loader.repeat_threshold, loader.empty_share)
        if loader.shape_window == 0:
            return {"factors": factors}
        if not isinstance(annotations, Annotations):
            raise ValueError(
                f"loader.shape_window={loader.shape_window} needs the sizes of all images beforehand, which this data "
                "does not list; leave it out"
            )
        shapes = [self.preprocessing.output_size(*size) for size in annotations.sizes[:num_images].tolist()]
        return {"factors": factors, "shapes": np.array(shapes, np.int32), "window": loader.shape_window}

    def _padded_shapes(self, split: Split[Any]) -> np.ndarray | None:
        """(I, 2): what each image of a split alone would be padded to, where its sizes are known beforehand."""
        if split.sizes is None:
            return None
        kinds, rows = np.unique(split.sizes, axis=0, return_inverse=True)
        shapes = [
            self.preprocessing.padded_size([self.preprocessing.output_size(*size)]) for size in kinds.tolist()
        ]
        return np.array(shapes, np.int32).reshape(-1, 2)[rows.reshape(-1)]

    def _loader(self, name: SplitName, *, is_training: bool, alike: bool = False) -> DataLoader[Any]:
        """Batches of a split; with `alike` the order is by how images are padded."""
        rank, num_ranks = self._rank_and_num_ranks()
        split = self.split(name)
        augmentation = self.augmentation if is_training else Augmentation()
        is_on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        ranks_here = 1 if self.trainer is None else self.trainer.num_devices
        num_workers = self.loader.workers_for("cuda" if is_on_gpu else "cpu", ranks_here)
        num_threads = num_workers if self.loader.workers == "thread" else 0
        num_processes = num_workers - num_threads
        most = self.loader.max_train_images if is_training else None
        num_images = len(split) if most is None else min(most, len(split))
        choices: dict[str, Any] = {"shapes": self._padded_shapes(split)} if alike else {}
        if is_training:
            choices = self._choices(split.annotations, num_images)
        sampler = EpochSampler(
            num_images,
            shuffle=is_training,
            seed=self.seed,
            rank=rank,
            num_ranks=num_ranks,
            batch_size=self.batch_size,
            **choices,
        )
        return ResumableLoader(
            SampleDataset(
                split,
                augmentation,
                self.preprocessing,
                self.seed,
                num_images=num_images,
                reduced_jpeg=self.loader.reduced_jpeg and is_training,
                num_epochs=self._num_epochs(len(sampler) // self.batch_size) if augmentation.closes else None,
            ),
            batch_size=self.batch_size,
            sampler=sampler,
            drop_last=is_training,
            num_workers=num_processes,
            num_threads=num_threads,
            collate_fn=partial(collate, preprocessing=self.preprocessing),
            pin_memory=is_on_gpu,
            persistent_workers=num_processes > 0,
            worker_init_fn=use_one_thread,
            generator=torch.Generator(),  # its own, or opening a loader would change what the model draws
        )
