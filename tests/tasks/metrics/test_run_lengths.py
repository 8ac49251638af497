"""Run lengths of box-local masks, against pycocotools on full-size images."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from tasks.metrics.run_lengths import bitmaps, encode
from tasks.targets import ObjectMask


def full_size(mask: ObjectMask, height: int, width: int) -> np.ndarray:
    full = np.zeros((height, width), np.uint8)
    h, w = mask.bitmap.shape
    full[mask.top : mask.top + h, mask.left : mask.left + w] = mask.bitmap
    return full


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_encode_equals_pycocotools(data: st.DataObject) -> None:
    height, width = data.draw(st.sampled_from([(1, 1), (3, 12), (12, 5), (9, 9), (70, 700)]))
    masks = []
    for _ in range(data.draw(st.integers(0, 4))):
        top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
        h, w = data.draw(st.integers(0, height - top)), data.draw(st.integers(0, width - left))
        share = data.draw(st.sampled_from([0.0, 0.002, 0.3, 0.9, 1.0]))
        generator = np.random.default_rng(data.draw(st.integers(0, 999)))
        masks.append(ObjectMask(left, top, (generator.random((h, w)) < share).astype(np.uint8)))
    expected = [
        coco_mask.encode(np.asfortranarray(full_size(mask, height, width)))["counts"] for mask in masks
    ]
    assert encode(masks, height, width) == expected


def test_boxes_beyond_the_image_and_thinner_than_a_pixel() -> None:
    boxes = torch.tensor(
        [[-5.0, -5.0, 3.0, 3.0], [8.0, 8.0, 30.0, 30.0], [4.0, 4.0, 4.1, 9.0], [0.0, 0.0, 10.0, 10.0]]
    )
    masks = list(bitmaps(torch.ones(4, 28, 28), boxes, 10, 10))
    for mask in masks:
        assert full_size(mask, 10, 10).sum() > 0
    assert full_size(masks[3], 10, 10).all()
    assert not full_size(next(bitmaps(torch.zeros(1, 28, 28), boxes[3:], 10, 10)), 10, 10).any()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory from /proc")
def test_500_instances_on_12_megapixels_fit_into_2_gb() -> None:
    """The whole evaluation of one such image, with its truth, in a process of its own."""
    code = """
import numpy as np, torch
from pycocotools import mask as coco_mask
from tasks.contracts import Batch, Detections
from tasks.data.annotations.objects import Annotations
from tasks.data.loading.collate import collate
from tasks.data.loading.images import resize
from tasks.data.annotations.segmentations import Segmentations
from tasks.data.augmentation.geometry import scale_boxes
from tasks.metrics.instance_segmentation import InstanceSegmentationMetric
from tasks.preprocessing import Preprocessing

generator = np.random.default_rng(0)
height, width, count = 3000, 4000, 500
corner = generator.uniform(0, 1, (count, 2)) * (width - 700, height - 700)
side = generator.uniform(20, 700, (count, 2))
rings = [[[x, y, x + w, y, x + w, y + h, x, y + h]] for (x, y), (w, h) in zip(corner.tolist(), side.tolist())]
annotations = Annotations(
    class_names=["thing"], category_ids=np.array([1]), image_ids=np.array([7]), file_names=np.array([b"a.jpg"]),
    sizes=np.array([[height, width]]), offsets=np.array([0, count]), ids=np.arange(1, count + 1),
    labels=np.zeros(count, np.int64), boxes=np.concatenate([corner, side], 1), areas=side.prod(1),
    is_crowd=np.zeros(count, bool), segmentations=Segmentations.from_objects(rings),
)
preprocessing = Preprocessing()
image = np.zeros((height, width, 3), np.uint8)
resized = resize(image, preprocessing)
target = scale_boxes(annotations.target(0), image.shape[:2], resized.shape[:2])
batch = collate([(resized, target)], preprocessing)
boxes = torch.tensor(np.concatenate([corner, corner + side], 1), dtype=torch.float32)[None]
metric = InstanceSegmentationMetric(annotations)
found = Detections(boxes, torch.linspace(1, 0.5, count)[None], torch.zeros(1, count, dtype=torch.long))
found.masks = torch.ones(1, count, 28, 28)
metric.update(found, batch)
numbers = metric.compute()
assert numbers["mask_AR_500"] > 0.15, numbers
# Not ru_maxrss, which starts from the parent's.
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) * 1024 < 2e9
