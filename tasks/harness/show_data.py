"""What training will see of a data set: a sheet of pictures out of real batches, and plots of what is in the split.

Legend, beside that of tasks/contracts.py:
    side    of a box: the square root of its area, in pixels at the size at which the network sees it
    aspect  width / height
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig

from tasks.contracts import IGNORE_LABEL, Batch
from tasks.data.annotations import Annotations
from tasks.data.datamodule import DataModule
from tasks.data.image_labels import ImageLabels
from tasks.harness.architectures import TASKS, lookup
from tasks.harness.drawing import class_color, draw_detections, picture_sheet
from tasks.harness.running import run_folder
from tasks.preprocessing import Preprocessing

OPACITY = 0.45
SMALL, LARGE = 32, 96
"""Sides of a box that COCO calls small below, and large above."""
MOST_CLASSES = 40
"""As many bars as can be read."""


def show_data(config: DictConfig) -> None:
    """Draws `config.num_images` images of `config.split` and counts what is in all of it, into a folder of its own."""
    if config.num_images < 1:
        raise ValueError(f"num_images={config.num_images} must be at least 1")
    if config.split not in ("train", "val", "test"):
        raise ValueError(f"split={config.split} is unknown; wanted train, val or test")
    preprocessing = Preprocessing(**config.preprocessing)
    data = DataModule(
        instantiate(config.data),
        preprocessing,
        augmentation=list(instantiate(config.augmentation.transforms)),
        seed=config.seed,
        eval_split=config.split,
        **lookup(TASKS, "task", config.task.name).data_options,
        **{**config.loader, **({"batch_size": 1} if config.loader.batch_size == "auto" else {})},
    )
    loader = data.train_dataloader() if config.split == "train" else data.val_dataloader()
    pictures: list[np.ndarray] = []
    for batch in loader:
        pictures += [draw_target(batch, i, data.class_names) for i in range(len(batch))]
        if len(pictures) >= config.num_images:
            break
    numbers = counts(data.split(config.split).annotations, preprocessing)
    folder = run_folder(config)
    from PIL import Image

    Image.fromarray(picture_sheet(pictures[: config.num_images])).save(folder / "pictures.jpg", quality=92)
    plot(numbers, folder / "counts.png")
    summary = {key: value for key, value in numbers.items() if not isinstance(value, np.ndarray)}
    (folder / "counts.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(table(numbers))
    print(f"\n{folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}")


def draw_target(batch: Batch, index: int, class_names: list[str]) -> np.ndarray:
    """Image `index` of the batch without its padding, what is known of it drawn on it: boxes in dashes with names,
    masks and pixels in the colours of their classes, pixels of unknown class in white."""
    height, width = batch.sizes[index].tolist()
    image = batch.images[index, :, :height, :width].permute(1, 2, 0).numpy().copy()
    boxes, labels = batch.boxes[index].numpy(), batch.labels[index].numpy()
    if batch.mask_places is not None and batch.mask_pixels is not None:
        pixels = batch.mask_pixels.numpy()
        for (start, left, top, w, h), label in zip(batch.mask_places[index].tolist(), labels, strict=True):
            inside = pixels[start : start + w * h].reshape(h, w) > 0
            tint(image[top : top + h, left : left + w], inside, class_color(int(label)))
    if batch.class_maps is not None:
        class_map = batch.class_maps[index, :height, :width].numpy()
        for label in np.unique(class_map).tolist():
            tint(image, class_map == label, (255, 255, 255) if label == IGNORE_LABEL else class_color(label))
    if batch.class_ids is not None:
        boxes, labels = np.array([[0, 0, width, height]]), batch.class_ids[index : index + 1].numpy()
    nothing = np.zeros((0, 4))
    return draw_detections(
        image, nothing, nothing[:, 0], nothing[:, 0], class_names, gt_boxes=boxes, gt_labels=labels
    )


def tint(area: np.ndarray, inside: np.ndarray, color: tuple[int, int, int]) -> None:
    """Mixes `color` into the pixels of `area` (h, w, 3), in place, where `inside` (h, w) is true."""
    area[inside] = ((1 - OPACITY) * area[inside] + OPACITY * np.array(color)).astype(np.uint8)


def counts(annotations: Any, preprocessing: Preprocessing) -> dict[str, Any]:
    """What is in a split: numbers of images and, where it lists them, of objects by class; arrays of the sides and
    aspects of all boxes and the aspects of all images."""
    names = list(annotations.class_names)
    numbers: dict[str, Any] = {"images": len(annotations)}
    if isinstance(annotations, ImageLabels):
        per_class = np.bincount(annotations.labels, minlength=len(names))
        return numbers | {"images_by_class": dict(zip(names, per_class.tolist(), strict=True))}
    if not isinstance(annotations, Annotations):
        return numbers | {"classes": names}
    per_image = np.diff(annotations.offsets)
    images = np.repeat(np.arange(len(annotations)), per_image)
    per_class = np.bincount(annotations.labels, minlength=len(names))
    pairs = np.unique(images * len(names) + annotations.labels)
    shown_on = np.bincount(pairs % len(names), minlength=len(names))
    shown_at = np.array([preprocessing.output_size(*size) for size in annotations.sizes.tolist()])
    zoom = (shown_at / annotations.sizes)[images]
    sides = np.sqrt((annotations.boxes[:, 2:] * zoom[:, ::-1]).clip(0).prod(axis=1))
    return numbers | {
        "objects": len(annotations.labels),
        "crowds": int(annotations.is_crowd.sum()),
        "images_without_objects": int((per_image == 0).sum()),
        "most_objects_on_an_image": int(per_image.max(initial=0)),
        "objects_by_class": dict(zip(names, per_class.tolist(), strict=True)),
        "images_by_class": dict(zip(names, shown_on.tolist(), strict=True)),
        "small": int((sides < SMALL).sum()),
        "medium": int(((sides >= SMALL) & (sides < LARGE)).sum()),
        "large": int((sides >= LARGE).sum()),
        "below_one_pixel": int((sides < 1).sum()),
        "sides": sides,
        "box_aspects": annotations.boxes[:, 2] / annotations.boxes[:, 3].clip(1e-9),
        "image_aspects": annotations.sizes[:, 1] / annotations.sizes[:, 0],
    }


def plot(numbers: dict[str, Any], path: Path) -> None:
    """Bars of the classes, histograms of sides and aspects, as far as `numbers` has them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    by_class = numbers.get("objects_by_class") or numbers.get("images_by_class") or {}
    ranked = sorted(by_class.items(), key=lambda item: -item[1])[:MOST_CLASSES]
    figure = Figure(figsize=(14, 9), layout="constrained")
    FigureCanvasAgg(figure)
    classes, sides, boxes, images = figure.subplots(2, 2).ravel()
    classes.bar(range(len(ranked)), [count for _, count in ranked])
    classes.set_xticks(range(len(ranked)), [name for name, _ in ranked], rotation=90)
    shown = (
        f"the {MOST_CLASSES} largest of {len(by_class)} classes"
        if len(by_class) > MOST_CLASSES
        else "by class"
    )
    classes.set_title(f"{'objects' if 'objects' in numbers else 'images'}, {shown}")
    histogram(sides, numbers.get("sides"), "side of a box as the network sees it, in pixels (√area)")
    for side in (SMALL, LARGE):
        sides.axvline(side, color="0.4", linestyle="--", linewidth=1)
    histogram(boxes, numbers.get("box_aspects"), "aspect of a box, width / height")
    histogram(images, numbers.get("image_aspects"), "aspect of an image, width / height")
    figure.savefig(path, dpi=110)


def histogram(axes: Any, values: np.ndarray | None, title: str) -> None:
    """A histogram over an axis of powers of two; of nothing, a title alone."""
    axes.set_title(title)
    values = np.zeros(0) if values is None else values[np.isfinite(values) & (values > 0)]
    if len(values) == 0:
        axes.set_axis_off()
        return
    low, high = np.floor(np.log2(values.min() * 0.99)), np.ceil(np.log2(values.max() * 1.01))
    axes.hist(values, bins=np.exp2(np.linspace(low, high, 40)))
    axes.set_xscale("log", base=2)
    ticks = np.exp2(np.arange(low, high + 1))
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])


def table(numbers: dict[str, Any]) -> str:
    """The numbers for the terminal."""
    lines = [
        f"{key.replace('_', ' ')}: {value}"
        for key, value in numbers.items()
        if isinstance(value, int) and not isinstance(value, bool)
    ]
    objects, images = numbers.get("objects_by_class"), numbers.get("images_by_class")
    if images:
        width = max(len(name) for name in images)
        lines += [
            "",
            f"{'class':{width}}  {'objects':>8}  {'images':>8}" if objects else f"{'class':{width}}  images",
        ]
        for name in sorted(images, key=lambda n: -(objects or images)[n]):
            of_objects = f"  {objects[name]:8d}" if objects else ""
            lines.append(f"{name:{width}}{of_objects}  {images[name]:8d}")
    return "\n".join(lines)
