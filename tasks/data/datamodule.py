"""The one `LightningDataModule`: the splits of any `Source` to loaders that yield `Batch`."""

import inspect
import math
import warnings
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from tasks.data.annotations.class_maps import with_class_maps
from tasks.data.annotations.image_labels import check_classes
from tasks.data.annotations.objects import Annotations
from tasks.data.augmentation.pipeline import Augmentation, Transform
from tasks.data.dataset import SampleDataset
from tasks.data.loading.collate import collate
from tasks.data.loading.loader import ResumableLoader, Workers, use_one_thread
from tasks.data.loading.samplers import EpochSampler, Sampling, image_factors
from tasks.data.sources import Source, Split, SplitName, check_masks, with_masks
from tasks.preprocessing import Preprocessing

if TYPE_CHECKING:
    import albumentations as A


TARGETS = ("masks", "class_maps", "classes")
"""Arguments of `DataModule` that say what its targets hold."""


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
        augmentation: "Sequence[Transform | A.BasicTransform | A.BaseCompose]" = (),
        batch_size: int = 8,
        num_workers: int = 0,
        workers: Workers = "process",
        reduced_jpeg: bool = False,
        sampling: Sampling = "all",
        repeat_threshold: float = 0.001,
        empty_share: float | None = None,
        shape_window: int = 0,
        max_train_images: int | None = None,
        seed: int = 0,
        eval_split: SplitName = "val",
        masks: bool = False,
        class_maps: bool = False,
        classes: bool = False,
    ):
        """`batch_size` counts images per rank; training learns from the first `max_train_images` alone where that
        is given; `eval_split` is the split that validation reads.

        `num_workers` processes or threads make batches ahead; the batches are the same with any. Threads are
        faster where decoding and resizing is most of the work, processes where transforms compute in Python.
        With `reduced_jpeg` training decodes JPEGs that are at least twice as large as they are shown at a part of
        their size: faster, and a little smoother than what evaluation, which never does so, sees.

        How often training reads an image: once in an epoch ("all"), more often the rarer its rarest class if that
        is in fewer images than `repeat_threshold` of them ("repeat_factor"), or as if classes were drawn first
        ("class_balanced"); images without objects at `empty_share` of all that are read. With `shape_window`, the
        images of so many batches are put into batches of like shape, which are padded less.

        With `masks` targets have the masks of their objects, with `class_maps` they are the class of each pixel,
        with `classes` the class of the image; ValueError says so where `source` has none, as it does without
        any of the three where there are no boxes."""
        super().__init__()
        if workers not in get_args(Workers):
            raise ValueError(f"loader.workers={workers} is unknown; wanted {' or '.join(get_args(Workers))}")
        if sampling not in get_args(Sampling):
            raise ValueError(
                f"loader.sampling={sampling} is unknown; wanted one of {', '.join(get_args(Sampling))}"
            )
        if (
            repeat_threshold <= 0
            or shape_window < 0
            or (empty_share is not None and not 0 <= empty_share < 1)
        ):
            raise ValueError(
                f"loader.repeat_threshold={repeat_threshold} must be above 0, loader.shape_window={shape_window} at "
                f"least 0, loader.empty_share={empty_share} at least 0 and below 1"
            )
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
        self.workers: Workers = workers
        self.reduced_jpeg = reduced_jpeg
        self.sampling: Sampling = sampling
        self.repeat_threshold = repeat_threshold
        self.empty_share = empty_share
        self.shape_window = shape_window
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
        self._check_trainable("train")
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
        if getattr(getattr(self.trainer, "state", None), "fn", None) == "fit":
            self._check_trainable(self.eval_split)
        return self._loader(self.eval_split, is_training=False)

    def test_dataloader(self) -> DataLoader[Any]:
        """Every image of the test split exactly once over all ranks."""
        return self._loader("test", is_training=False)

    def _check_trainable(self, name: SplitName) -> None:
        """Raises ValueError, with the reason, for a split of objects without one that can be learned."""
        split = self.split(name)
        objects = getattr(split, "split", split).annotations  # those that class maps are painted from
        if not isinstance(objects, Annotations) or not objects.is_crowd.all():
            return
        source = getattr(self.source, "source", self.source)
        raw = getattr(source, "raw", None)
        why = "" if raw is None else raw(name).why_untrainable()
        why = why or "it has no object, or none that data.on_bad leaves"
        raise ValueError(
            f"nothing can be learned from the {name} split: {why}; correct the data (tools/check_data.py)"
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
        if num_images < len(annotations) and (self.sampling != "all" or self.empty_share is not None):
            annotations = annotations.select(np.arange(num_images))
        factors = image_factors(annotations, self.sampling, self.repeat_threshold, self.empty_share)
        if self.shape_window == 0:
            return {"factors": factors}
        if not isinstance(annotations, Annotations):
            raise ValueError(
                f"loader.shape_window={self.shape_window} needs the sizes of all images beforehand, which this data "
                "does not list; leave it out"
            )
        shapes = [self.preprocessing.output_size(*size) for size in annotations.sizes[:num_images].tolist()]
        return {"factors": factors, "shapes": np.array(shapes, np.int32), "window": self.shape_window}

    def _loader(self, name: SplitName, *, is_training: bool) -> DataLoader[Any]:
        # How many workers is the user's choice; Lightning would question it on every run.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        rank, num_ranks = self._rank_and_num_ranks()
        split = self.split(name)
        augmentation = self.augmentation if is_training else Augmentation()
        num_threads = self.num_workers if self.workers == "thread" else 0
        num_processes = self.num_workers - num_threads
        most = self.max_train_images if is_training else None
        num_images = len(split) if most is None else min(most, len(split))
        sampler = EpochSampler(
            num_images,
            shuffle=is_training,
            seed=self.seed,
            rank=rank,
            num_ranks=num_ranks,
            batch_size=self.batch_size,
            **(self._choices(split.annotations, num_images) if is_training else {}),
        )
        return ResumableLoader(
            SampleDataset(
                split,
                augmentation,
                self.preprocessing,
                self.seed,
                num_images=num_images,
                reduced_jpeg=self.reduced_jpeg and is_training,
                num_epochs=self._num_epochs(len(sampler) // self.batch_size) if augmentation.closes else None,
            ),
            batch_size=self.batch_size,
            sampler=sampler,
            drop_last=is_training,
            num_workers=num_processes,
            num_threads=num_threads,
            collate_fn=partial(collate, preprocessing=self.preprocessing),
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
            persistent_workers=num_processes > 0,
            worker_init_fn=use_one_thread,
            generator=torch.Generator(),  # its own, or opening a loader would change what the model draws
        )


LOADER_OPTIONS = tuple(
    name
    for name in inspect.signature(DataModule).parameters
    if name not in {"source", "preprocessing", "augmentation", "seed", "eval_split", *TARGETS}
)
"""Arguments of `DataModule` that a configuration gives in its node `loader`."""


def check_boxes(annotations: object, source: str) -> None:
    """Raises ValueError unless `annotations`, those of a data set called `source`, are of objects in images."""
    if not isinstance(annotations, Annotations):
        raise ValueError(
            f"detection needs a box for each object, which {source} does not have; use objects with boxes "
            "(data=coco, data=voc, data=digits), or the task that this data is for"
        )
