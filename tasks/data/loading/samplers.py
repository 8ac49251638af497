"""Which images a rank reads in an epoch, and in which order.

Legend:
    I  images        K  classes        factors  (I,) float64: times that each image is read in an epoch, on average
"""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data.distributed import DistributedSampler

from tasks.data.annotations.class_maps import ClassMaps
from tasks.data.annotations.image_labels import ImageLabels
from tasks.data.annotations.objects import Annotations
from tasks.data.loading.settings import Sampling


def image_factors(
    annotations: Annotations | ImageLabels | ClassMaps,
    sampling: Sampling,
    repeat_threshold: float,
    empty_share: float | None,
) -> np.ndarray | None:
    """The factors that `sampling` asks for, images without objects at `empty_share` of all that are read (None
    leaves their number as it is); None where each image is read once."""
    if sampling == "all" and empty_share is None:
        return None
    images, labels = classes_of_images(annotations)
    num_images, num_classes = len(annotations), len(annotations.class_names)
    if sampling == "repeat_factor":
        factors = repeat_factors(images, labels, num_images, num_classes, repeat_threshold)
    elif sampling == "class_balanced":
        factors = class_balanced(images, labels, num_images, num_classes)
    else:
        factors = np.ones(num_images)
    if empty_share is None:
        return factors
    is_empty = np.ones(num_images, bool)
    is_empty[images] = False
    return with_empty_share(factors, is_empty, empty_share)


def classes_of_images(annotations: Annotations | ImageLabels | ClassMaps) -> tuple[np.ndarray, np.ndarray]:
    """(P,) image and (P,) class of every pair of which the image shows the class, once each; ValueError for data
    whose classes are in the pixels."""
    if isinstance(annotations, ImageLabels):
        return np.arange(len(annotations)), annotations.labels
    if not isinstance(annotations, Annotations):
        raise ValueError(
            "loader.sampling and loader.empty_share go by the classes of objects or images, which data of class maps "
            "does not list; leave them out for semantic segmentation"
        )
    num_classes = len(annotations.class_names)
    images = np.repeat(np.arange(len(annotations)), np.diff(annotations.offsets))
    pairs = np.unique(images * num_classes + annotations.labels)
    return pairs // num_classes, pairs % num_classes


def repeat_factors(
    images: np.ndarray, labels: np.ndarray, num_images: int, num_classes: int, threshold: float
) -> np.ndarray:
    """Repeat factor sampling (LVIS: A Dataset for Large Vocabulary Instance Segmentation, appendix).

    A class in a share f of the images has the factor max(1, sqrt(`threshold` / f)); an image has the largest of
    its classes, 1 without any. `images` and `labels` as `classes_of_images` gives them.
    """
    shares = np.bincount(labels, minlength=num_classes) / max(1, num_images)
    of_classes = np.sqrt(threshold / np.maximum(shares, 1e-300)).clip(1)
    factors = np.ones(num_images)
    np.maximum.at(factors, images, of_classes[labels])
    return factors


def class_balanced(images: np.ndarray, labels: np.ndarray, num_images: int, num_classes: int) -> np.ndarray:
    """As if for each of the images with objects a class were drawn first, and then any image that shows it; images
    without objects stay once each."""
    counts = np.bincount(labels, minlength=num_classes)
    factors = np.zeros(num_images)
    np.add.at(factors, images, 1 / counts[labels])
    has_objects = factors > 0
    factors *= has_objects.sum() / max(1, np.count_nonzero(counts))
    return np.where(has_objects, factors, 1.0)


def with_empty_share(factors: np.ndarray, is_empty: np.ndarray, share: float) -> np.ndarray:
    """`factors`, those of the images where `is_empty` is true changed so that they are `share` of all readings.

    ValueError where there are none to reach the share with, or none but those.
    """
    if not is_empty.any() and share > 0:
        raise ValueError(
            f"loader.empty_share={share} wants images without objects, and the train split has none; leave it out"
        )
    if is_empty.all():
        raise ValueError(
            f"loader.empty_share={share} wants images with objects, and the train split has none"
        )
    of_others = factors[~is_empty].sum()
    return np.where(is_empty, share / (1 - share) * of_others / max(1, is_empty.sum()), factors)


def drawn(factors: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Indices of images in random order, each one as often as its factor, rounded up or down at random so that it
    is right on average; their number is the sum of the factors, rounded, every time."""
    total = round(float(factors.sum()))
    order = generator.permutation(len(factors))
    # Equally spaced marks on a line of which each image holds as much as its factor, from a random first one.
    ends = np.cumsum(factors[order]) * (total / max(factors.sum(), 1e-300))
    marks_before = np.ceil(ends - generator.random()).clip(0, total).astype(np.int64)
    marks_before[-1:] = total
    return generator.permutation(np.repeat(order, np.diff(marks_before, prepend=0)))


def by_shape(
    order: np.ndarray, shapes: np.ndarray, batch_size: int, window: int, generator: np.random.Generator
) -> np.ndarray:
    """`order` with images of like shape in the same batches of `batch_size`, for less padding.

    Within each window of so many batches images are sorted by height in strips, and in these by width; then the
    batches of the window come in random order. What fills no batch stays at the end, whatever its shape. `shapes`
    (I, 2) is (height, width).
    """
    full = len(order) // batch_size * batch_size
    result = order.copy()
    for start in range(0, full, window * batch_size):
        part = order[start : min(full, start + window * batch_size)]
        heights, widths = shapes[part].T
        part = part[np.lexsort((widths, heights))]
        num_batches = len(part) // batch_size
        strip = max(1, round(num_batches**0.5)) * batch_size
        for first in range(0, len(part), strip):
            row = part[first : first + strip]
            part[first : first + strip] = row[np.argsort(shapes[row, 1], kind="stable")]
        batches = part.reshape(num_batches, batch_size)
        result[start : start + len(part)] = batches[generator.permutation(num_batches)].reshape(-1)
    return result


def one_shape_after_another(shapes: np.ndarray) -> np.ndarray:
    """Indices of images of `shapes` (I, 2): first all of the first image's shape, in order, then all of the next."""
    _, first, kinds = np.unique(shapes, axis=0, return_index=True, return_inverse=True)
    return np.argsort(first[kinds.reshape(-1)], kind="stable")


class EpochSampler(DistributedSampler[tuple[int, int]]):
    """Yields (epoch, index), so that a data set can seed its augmentation by both, whichever worker reads.

    With `shuffle` (training) the order is drawn from `seed` and the epoch, and all ranks get equally many
    indices: the at most `num_ranks` - 1 left over sit out this epoch. Without (evaluation) each index is
    yielded exactly once over all ranks, and some ranks may get one fewer: in order, or where there are `shapes` those
    of one shape after another, so that few batches are of several.

    Nothing but the epoch and `start` says what comes next, so that both together are the whole state. It is a
    `DistributedSampler` in name alone: Lightning puts no other one around it, whatever `use_distributed_sampler` says.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        num_ranks: int = 1,
        batch_size: int = 1,
        factors: np.ndarray | None = None,
        shapes: np.ndarray | None = None,
        window: int = 0,
    ):  # pyright: ignore[reportMissingSuperCall]
        """`shapes` (num_samples, 2) are (height, width). For training alone: `factors` (num_samples,) is how often an
        epoch yields each index, on average; with a `window` of so many batches, the batches of all ranks that are
        trained on at once have like shapes. Each rank makes batches of `batch_size` out of what it is given."""
        assert 0 <= rank < num_ranks
        assert shuffle or factors is None
        self.num_samples = num_samples
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.num_ranks = num_ranks
        self.batch_size = batch_size
        self.factors = factors
        self.shapes = shapes
        self.window = window
        self.epoch = 0
        self.start = 0  # indices of this rank that the next iteration leaves out

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch that the next iteration yields. Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        if not self.shuffle:
            return len(range(self.rank, self.num_samples, self.num_ranks))
        total = self.num_samples if self.factors is None else round(float(self.factors.sum()))
        return total // self.num_ranks

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = self._order()
        start, self.start = self.start, 0
        for position in range(start, len(self)):
            yield self.epoch, int(order[self.rank + position * self.num_ranks])

    def first(self, counts: Sequence[int]) -> np.ndarray:
        """The indices that all ranks together yield first: `counts`, of each."""
        order = self._order()
        return np.concatenate([order[rank :: self.num_ranks][:count] for rank, count in enumerate(counts)])

    def _order(self) -> np.ndarray:
        """The indices of all ranks, which take turns."""
        if not self.shuffle:
            return (
                np.arange(self.num_samples) if self.shapes is None else one_shape_after_another(self.shapes)
            )
        # Not seed + epoch: the second epoch of seed 0 would be the first of seed 1.
        generator = np.random.default_rng((self.seed, self.epoch))
        if self.factors is None:
            order = generator.permutation(self.num_samples)
        else:
            order = drawn(self.factors, generator)
        if self.shapes is not None and self.window > 0:
            at_once = self.num_ranks * self.batch_size
            order = by_shape(order, self.shapes, at_once, self.window, generator)
        return order
