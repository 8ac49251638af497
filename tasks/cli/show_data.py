"""What training will see of a data set: a sheet of pictures out of real batches, and plots of what is in the split.

Legend, beside that of tasks/contracts.py:
    side    of a box: the square root of its area, in pixels at the size at which the network sees it
    aspect  width / height
"""

from typing import Any

import numpy as np
from omegaconf import DictConfig

from tasks.cli.data import told_data_of, transforms_of
from tasks.cli.nodes import whole_number
from tasks.cli.output import Found, files_of, say_result
from tasks.cli.suit import suited_config
from tasks.cli.terminal import run_folder
from tasks.data.annotations.class_maps import ClassMaps
from tasks.data.annotations.image_labels import ImageLabels
from tasks.data.annotations.objects import Annotations
from tasks.data.datamodule import DataModule
from tasks.data.splits import check_split
from tasks.files import write_json
from tasks.harness.session import files_in
from tasks.harness.session import run_folder as make_folder
from tasks.preprocessing import Preprocessing
from tasks.visualization.boxes import picture_sheet, write_picture
from tasks.visualization.plots import LARGE, SMALL, plot
from tasks.visualization.targets import draw_target
from tasks.zoo.registry import TASKS, lookup


def show_data(config: DictConfig) -> Found:
    """Draws `config.num_images` images of `config.split` and counts what is in all of it, into a folder of its own."""
    whole_number(config, "num_images", least=1)
    check_split(config.split)
    source = told_data_of(config)
    config, _ = suited_config(config, source, fetch=False)
    preprocessing = Preprocessing(**config.preprocessing)
    data = DataModule(
        source,
        preprocessing,
        augmentation=transforms_of(config),
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
    folder = make_folder(run_folder(config, "data"), "data")
    write_picture(folder / "pictures.jpg", picture_sheet(pictures[: config.num_images]))
    plot(numbers, folder / "counts.png")
    summary = {key: value for key, value in numbers.items() if not isinstance(value, np.ndarray)}
    write_json(folder / "counts.json", summary)
    say_result(f"{table(numbers)}\n\n{files_in(folder)}")
    return Found({"split": config.split, **summary, **files_of(folder)})


def counts(
    annotations: Annotations | ImageLabels | ClassMaps, preprocessing: Preprocessing
) -> dict[str, Any]:
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


def table(numbers: dict[str, Any]) -> str:
    """The numbers for the terminal."""
    lines = [f"{key.replace('_', ' ')}: {v}" for key, v in numbers.items() if isinstance(v, int)]
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
