"""Pictures and counts of a data set, as a run with the same words would see it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tasks.cli.compose import compose
from tasks.cli.show_data import counts, show_data
from tasks.data.annotations.objects import Annotations
from tasks.data.formats.digits import DigitsData
from tasks.data.loading.collate import collate
from tasks.preprocessing import Preprocessing
from tasks.visualization.boxes import class_color
from tasks.visualization.targets import draw_target

SMALL = ["data.num_train=10", "data.num_val=3", "data.num_test=1", "data.size=64"]


@pytest.mark.parametrize(
    "words",
    [
        ["task=detection", *SMALL, "augmentation=standard", "split=train"],
        ["task=instance_segmentation", *SMALL, "augmentation=copy_paste"],
        ["task=semantic_segmentation", *SMALL, "split=val", "loader.batch_size=auto"],
        ["task=classification"],
    ],
    ids=lambda words: words[0],
)
def test_it_leaves_pictures_plots_and_numbers(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "shown"
    show_data(compose("show_data", [*words, "num_images=3", f"run_dir={folder}"]))
    assert {path.name for path in folder.iterdir()} == {"pictures.jpg", "counts.png", "counts.json"}
    for name in ("pictures.jpg", "counts.png"):
        with Image.open(folder / name) as picture:
            assert np.asarray(picture.convert("L")).std() > 10
    numbers = json.loads((folder / "counts.json").read_text())
    if "data.num_train=10" in words:
        assert numbers["images"] == (3 if "split=val" in words else 10)
    if "detection" in words[0]:
        annotations = DigitsData(size=64, num_train=10, num_val=3, num_test=1).split("train").annotations
        assert numbers["objects"] == len(annotations.labels) == sum(numbers["objects_by_class"].values())
        assert numbers["objects_by_class"]["7"] == (annotations.labels == 7).sum()
        assert "objects" in capsys.readouterr().out


def test_counts_by_hand() -> None:
    annotations = Annotations(
        class_names=["ant", "bee", "cat"],
        category_ids=np.arange(3),
        image_ids=np.arange(3),
        file_names=np.array([b"a", b"b", b"c"]),
        sizes=np.array([[100, 200], [400, 400], [10, 10]]),
        offsets=np.array([0, 3, 4, 4]),
        ids=np.arange(4),
        labels=np.array([0, 0, 1, 0]),
        boxes=np.array([[0, 0, 20, 5], [0, 0, 100, 100], [0, 0, 0.1, 0.1], [0, 0, 200, 200]], float),
        areas=np.ones(4),
        is_crowd=np.array([False, True, False, False]),
    )
    numbers = counts(annotations, Preprocessing(short_side=200, max_size=1000))
    assert numbers["objects_by_class"] == {"ant": 3, "bee": 1, "cat": 0}
    assert numbers["images_by_class"] == {"ant": 2, "bee": 1, "cat": 0}
    assert numbers["sides"].tolist() == pytest.approx([20, 200, 0.2, 100])
    assert numbers["box_aspects"].tolist() == pytest.approx([4, 1, 1, 1])
    assert numbers["image_aspects"].tolist() == [2, 1, 1]
    wanted = {
        "images": 3,
        "objects": 4,
        "crowds": 1,
        "images_without_objects": 1,
        "most_objects_on_an_image": 3,
    }
    wanted |= {"small": 2, "medium": 0, "large": 2, "below_one_pixel": 1}
    assert {key: numbers[key] for key in wanted} == wanted


def test_masks_and_boxes_are_drawn_where_they_are() -> None:
    source = DigitsData(size=640, num_train=1, num_val=1, num_test=1).with_masks()
    split = source.split("train")
    preprocessing = Preprocessing(short_side=None)
    target = split.annotations.target(0)
    batch = collate([(np.zeros((640, 640, 3), np.uint8), target)], preprocessing)
    drawn = draw_target(batch, 0, source.class_names)
    assert drawn.shape == (640, 640, 3)
    assert batch.images.sum() == 0  # nothing is drawn into the batch
    assert target.masks is not None
    for mask, label in zip(target.masks, target.labels, strict=True):
        rows, columns = np.nonzero(mask.bitmap)
        colors = drawn[rows + mask.top, columns + mask.left].astype(int)
        expected = (0.45 * np.array(class_color(int(label)))).astype(int)
        assert (np.abs(colors - expected) <= 1).all(
            axis=1
        ).mean() > 0.7  # the rest lies below names and lines
    x1, y1, _, _ = target.boxes[0].astype(int)
    assert drawn[y1 : y1 + 2, x1 : x1 + 5].max() == 255
    assert torch.equal(batch.boxes[0], torch.from_numpy(target.boxes))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("num_images=0", "num_images=0 must be a whole number, at least 1"),
        ("split=all", "split=all is unknown; wanted train, val or"),
    ],
)
def test_bad_settings(word: str, message: str, tmp_path: Path) -> None:
    config: Any = compose("show_data", [word, *SMALL, f"run_dir={tmp_path / 'shown'}"])
    with pytest.raises(ValueError, match=message):
        show_data(config)
    assert not (tmp_path / "shown").exists()
