"""Overlays, palette PNGs and what a segmenter says of single pictures."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tasks.contracts import Batch, PixelScores
from tasks.data.formats.mask_png import read_mask
from tasks.semantic_segmentation.result import ClassMap, predicted_results
from tasks.targets import IGNORE_LABEL
from tasks.visualization.boxes import class_color
from tasks.visualization.class_maps import MAP_OPACITY, draw_class_map, label_colors, write_label_png

NAMES = ["background", "cat", "dog"]


def class_map() -> np.ndarray:
    labels = np.zeros((40, 60), np.uint8)
    labels[:10], labels[10:20, :30], labels[30:, 30:] = 1, 2, IGNORE_LABEL
    return labels


def test_colours_of_classes_are_those_of_every_task() -> None:
    assert label_colors(NAMES) == [(0, 0, 0), class_color(0), class_color(1)]
    assert label_colors(["road", "sky"]) == [class_color(0), class_color(1)]


def test_overlay_tints_classes_and_leaves_background_and_unknown() -> None:
    image = np.full((40, 60, 3), (90, 120, 30), np.uint8)
    before = image.copy()
    drawn = draw_class_map(image, class_map(), NAMES)
    np.testing.assert_array_equal(image, before)
    factor = drawn.shape[1] // 60
    assert factor == 10  # 40 pixels become 400
    assert drawn.shape[0] > 40 * factor  # the legend
    grey = image[0, 0] @ [0.299, 0.587, 0.114]
    cat = MAP_OPACITY * np.array(class_color(0)) + (1 - MAP_OPACITY) * grey
    np.testing.assert_allclose(drawn[0, 0], cat, atol=1)
    np.testing.assert_array_equal(drawn[25 * factor, 5], image[0, 0])  # background
    np.testing.assert_array_equal(drawn[39 * factor, 59 * factor], image[0, 0])  # unknown


def test_legend_shows_the_colours_of_the_classes_that_are_there() -> None:
    labels = class_map()
    drawn = draw_class_map(np.zeros((40, 60, 3), np.uint8), labels, [*NAMES, "horse"])
    legend = drawn[400:].reshape(-1, 3)
    present = {tuple(color) for color in legend.tolist()}
    assert {class_color(0), class_color(1)} <= present
    assert class_color(2) not in present


def test_legend_of_many_classes_breaks_into_rows() -> None:
    labels = np.arange(100, dtype=np.uint8).reshape(10, 10)
    names = [f"a class with a long name {i}" for i in range(100)]
    drawn = draw_class_map(np.zeros((10, 10, 3), np.uint8), labels, names)
    assert drawn.shape[1] == 400
    assert drawn.shape[0] > 400 + 50 * 13


def test_palette_png_holds_labels_and_shows_colours(tmp_path: Path) -> None:
    write_label_png(tmp_path / "a.png", class_map(), NAMES)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), class_map())
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
        colors = np.asarray(image.convert("RGB"))
    assert tuple(colors[0, 0]) == class_color(0)
    assert tuple(colors[25, 0]) == (0, 0, 0)
    assert tuple(colors[39, 59]) == (255, 255, 255)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_result_says_shares_largest_first(tmp_path: Path) -> None:
    labels = class_map()
    labels[30:, 30:] = 0
    found = ClassMap(labels, [*NAMES, "horse"])
    assert len(found) == 3
    assert found.to_dict() == {
        "classes": [
            {"class": "background", "label": 0, "share": 1500 / 2400},
            {"class": "cat", "label": 1, "share": 600 / 2400},
            {"class": "dog", "label": 2, "share": 300 / 2400},
        ]
    }
    assert found.summary() == "background 62.5%, cat 25.0%, dog 12.5%"
    assert found.above(0.9) is found
    assert found.write_masks(tmp_path, "x") == {"labels": "x.labels.png"}
    np.testing.assert_array_equal(read_mask(tmp_path / "x.labels.png"), labels)


def test_results_are_of_original_size() -> None:
    logits = torch.zeros(2, 3, 4, 4)
    logits[0, 1], logits[1, 2] = 1, 1
    batch = Batch(
        images=torch.zeros(2, 3, 16, 16, dtype=torch.uint8),
        sizes=torch.tensor([[16, 16], [8, 16]]),
        original_sizes=torch.tensor([[32, 32], [5, 9]]),
        image_ids=torch.arange(2),
        boxes=torch.zeros(2, 0, 4),
        labels=torch.zeros(2, 0, dtype=torch.int64),
        is_crowd=torch.zeros(2, 0, dtype=torch.bool),
    )
    first, second = predicted_results(PixelScores(logits, (16, 16)), batch, NAMES)
    assert first.class_map.shape == (32, 32)
    assert second.class_map.shape == (5, 9)
    assert first.shares() == {"cat": 1.0}
    assert second.shares() == {"dog": 1.0}
    assert second.class_map.dtype == np.uint8
