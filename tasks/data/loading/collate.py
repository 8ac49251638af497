"""Images and targets of single samples to one `Batch`.

Legend, beside that of tasks/contracts.py:
    sample  (uint8 (h, w, 3) image at network size, its `Target` in pixels of that image)
"""

from collections.abc import Sequence

import numpy as np
import torch

from tasks.contracts import Batch
from tasks.data.augmentation.geometry import Sample
from tasks.data.loading.images import resize
from tasks.preprocessing import Preprocessing
from tasks.targets import IGNORE_LABEL, ObjectMask, Target


def collate(samples: Sequence[Sample], preprocessing: Preprocessing) -> Batch:
    """The batch of these samples; images are padded with zeros to their common `padded_size`.

    `images` is a (B, 3, H, W) view of a (B, H, W, 3) buffer: channels-last memory, as convolutions like it.
    """
    sizes = [image.shape[:2] for image, _ in samples]
    height, width = preprocessing.padded_size(sizes)
    padded_sizes = tuple(preprocessing.padded_size([size]) for size in sizes)
    num_rows = max(len(target.labels) for _, target in samples)
    images = np.empty((len(samples), height, width, 3), np.uint8)
    boxes = np.zeros((len(samples), num_rows, 4), np.float32)
    labels = np.full((len(samples), num_rows), -1, np.int64)
    is_crowd = np.zeros((len(samples), num_rows), bool)
    for i, (image, target) in enumerate(samples):
        images[i, : image.shape[0], : image.shape[1]] = image
        images[i, image.shape[0] :] = images[i, : image.shape[0], image.shape[1] :] = 0
        num_objects = len(target.labels)
        boxes[i, :num_objects] = target.boxes
        labels[i, :num_objects] = target.labels
        is_crowd[i, :num_objects] = target.is_crowd
    class_ids = [target.class_id for _, target in samples]
    masks = [target.masks for _, target in samples if target.masks is not None]
    mask_pixels, mask_places = join_masks(masks, num_rows) if masks else (None, None)
    class_maps = [target.class_map for _, target in samples if target.class_map is not None]
    return Batch(
        images=torch.from_numpy(images).permute(0, 3, 1, 2),
        sizes=torch.tensor(sizes),
        original_sizes=torch.tensor([target.original_size for _, target in samples]),
        image_ids=torch.tensor([target.image_id for _, target in samples]),
        boxes=torch.from_numpy(boxes),
        labels=torch.from_numpy(labels),
        is_crowd=torch.from_numpy(is_crowd),
        mask_pixels=mask_pixels,
        mask_places=mask_places,
        class_ids=None if None in class_ids else torch.tensor(class_ids),
        class_maps=pad_class_maps(class_maps, height, width) if class_maps else None,
        padded_sizes=None if set(padded_sizes) == {(height, width)} else padded_sizes,
    )


def join_masks(masks: Sequence[Sequence[ObjectMask]], num_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`Batch.mask_pixels` (total,) and `Batch.mask_places` (B, num_rows, 5) of the masks of each image."""
    places = np.zeros((len(masks), num_rows, 5), np.int64)
    pixels, start = [np.zeros(0, np.uint8)], 0
    for i, of_image in enumerate(masks):
        for j, (left, top, bitmap) in enumerate(of_image):
            places[i, j] = start, left, top, bitmap.shape[1], bitmap.shape[0]
            pixels.append(bitmap.reshape(-1))
            start += bitmap.size
    return torch.from_numpy(np.concatenate(pixels)), torch.from_numpy(places)


def pad_class_maps(class_maps: Sequence[np.ndarray], height: int, width: int) -> torch.Tensor:
    """uint8 (B, height, width) of maps (h, w); padding is `IGNORE_LABEL`."""
    padded = np.full((len(class_maps), height, width), IGNORE_LABEL, np.uint8)
    for i, class_map in enumerate(class_maps):
        padded[i, : class_map.shape[0], : class_map.shape[1]] = class_map
    return torch.from_numpy(padded)


def batch_images(images: Sequence[np.ndarray], preprocessing: Preprocessing) -> Batch:
    """The batch of these uint8 (H, W, 3) RGB images, resized, without objects; image ids count from 0."""
    samples = [
        (resize(image, preprocessing), empty_target(image_id, image.shape[:2]))
        for image_id, image in enumerate(images)
    ]
    return collate(samples, preprocessing)


def empty_target(image_id: int, original_size: tuple[int, int]) -> Target:
    """The target of an image without objects."""
    return Target(
        image_id=image_id,
        original_size=original_size,
        boxes=np.zeros((0, 4), np.float32),
        labels=np.zeros(0, np.int64),
        is_crowd=np.zeros(0, bool),
    )
