"""Test-time augmentation: several views of an image are one prediction, of detectors and of Mask R-CNN."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.cli.compose import compose
from tasks.cli.evaluate import evaluate
from tasks.contracts import Batch, Detections, Model
from tasks.data.loading.collate import batch_images
from tasks.detection.views import ManyViews, merge_views, seen_from, view_of
from tasks.inference.predictor import Predictor
from tasks.preprocessing import Preprocessing
from tasks.zoo.model_file import Header, load_model, save_model
from tasks.zoo.registry import build_model, resolved_spec, with_views


def build(name: str = "faster_rcnn", task: str = "detection", num_classes: int = 3, **preprocessing) -> Model:
    torch.manual_seed(0)
    spec = {
        "name": name,
        "backbone": {"name": "resnet18"},
        "pyramid": {"name": "fpn", "channels": 16},
        "box_representation_size": 32,
        "score_threshold": 0.0,
        "max_detections": 20,
        "rpn_post_nms_test": 50,
    }
    settings = Preprocessing(**{"short_side": 96, "max_size": 160, **preprocessing})
    model = build_model(spec, num_classes=num_classes, preprocessing=settings).eval()
    for layer in (model.roi_head.classes, model.rpn.objectness):
        torch.nn.init.normal_(layer.weight, std=0.3)  # says something else of each place
    model.header = Header(
        task=task,
        model=resolved_spec(spec, model),
        class_names=[str(k) for k in range(num_classes)],
        category_ids=list(range(num_classes)),
        preprocessing=settings.to_dict(),
    )
    return model


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return coarse.repeat(8, axis=0).repeat(8, axis=1)


@pytest.mark.parametrize(
    ("name", "task"), [("faster_rcnn", "detection"), ("mask_rcnn", "instance_segmentation")]
)
def test_with_mirror_images_the_mirrored_picture_has_the_mirrored_result(name: str, task: str) -> None:
    """Exactly, for both have the same two views; and without them a random network says something else."""
    image = noise(96, 128)
    options = {"device": "cpu", "precision": "32-true"}
    for flip in (True, False):
        predictor = Predictor(build(name, task), flip=flip, **options)
        found, mirrored = predictor([image, np.ascontiguousarray(image[:, ::-1])])
        assert len(found) == 20
        boxes = mirrored.boxes.copy()
        boxes[:, [0, 2]] = 128 - mirrored.boxes[:, [2, 0]]
        is_same = len(found) == len(mirrored) and np.allclose(found.boxes, boxes, atol=1e-2)
        assert is_same == flip
        if flip:
            np.testing.assert_allclose(found.scores, mirrored.scores, atol=1e-5)
            np.testing.assert_array_equal(found.labels, mirrored.labels)
        if flip and task == "instance_segmentation":
            for mask, other in zip(found.masks, mirrored.masks, strict=True):
                # Random masks are ragged, and their corners become whole pixels.
                assert (mask != other[:, ::-1]).mean() < 0.3 * mask.mean() + 0.05


def test_views_are_the_images_in_all_sizes() -> None:
    model = ManyViews(build(), scales=(0.5, 1.0, 2.0), flip=True)
    assert (model.preprocessing.short_side, model.preprocessing.max_size) == (192, 320)
    assert model.header.preprocessing["short_side"] == 192
    assert model.model.header.preprocessing["short_side"] == 96
    assert model.views == [(0.25, False), (0.25, True), (0.5, False), (0.5, True), (1.0, False), (1.0, True)]
    batch = batch_images([noise(192, 256), noise(208, 192, 1)], model.preprocessing)
    for factor, size in ((0.5, [[96, 128], [104, 96]]), (0.25, [[48, 64], [52, 48]])):
        view = view_of(batch, model.preprocessing, factor, flipped=False)
        assert view.sizes.tolist() == size
        assert view.images.shape == (2, 3, 32 * -(-size[1][0] // 32), 32 * -(-size[0][1] // 32))
        assert (view.images[0, :, size[0][0] :] == 0).all()
        mirror = view_of(batch, model.preprocessing, factor, flipped=True)
        height, width = size[1]
        assert torch.equal(mirror.images[1, :, :height, :width], view.images[1, :, :height, :width].flip(-1))
    blocks = view.images[0, :, :48, :64].unflatten(1, (24, 2)).unflatten(3, (32, 2))
    coarse = torch.from_numpy(noise(192, 256)[::8, ::8]).permute(2, 0, 1)
    middle = blocks.float().mean(dim=(2, 4))
    assert (middle - coarse).abs().mean() < 20  # the same picture, at a quarter; chance would give 85


def test_boxes_come_back_to_the_pixels_of_the_batch() -> None:
    masks = torch.arange(4.0).view(1, 1, 2, 2).expand(1, 2, 2, 2)
    boxes = torch.tensor([[[5.0, 4, 20, 16], [0, 0, 0, 0]]])
    found = Detections(boxes, torch.tensor([[0.5, 0]]), torch.tensor([[1, -1]]), masks)
    back = seen_from(found, torch.tensor([[24, 50]]), torch.tensor([[48, 100]]), flipped=True)
    assert back.boxes.tolist() == [[[60, 8, 90, 32], [0, 0, 0, 0]]]
    assert back.masks is not None
    assert back.masks[0, 0].tolist() == [[1, 0], [3, 2]]


def test_merging_by_hand() -> None:
    def one(*rows: tuple) -> Detections:
        values = torch.tensor(rows).view(1, -1, 6)
        return Detections(values[..., :4], values[..., 4], values[..., 5].long())

    padding = (0.0, 0, 0, 0, 0, -1)
    first = one((0.0, 0, 10, 10, 0.9, 1), (50.0, 50, 60, 60, 0.3, 0), padding)
    second = one((1.0, 0, 11, 10, 0.95, 1), (0.0, 0, 10, 10, 0.8, 0), (50.0, 51, 60, 61, 0.2, 0))
    merged = merge_views([first, second], 0.5)
    assert merged.boxes.tolist() == [[[1, 0, 11, 10], [0, 0, 10, 10], [50, 50, 60, 60]]]
    assert merged.labels.tolist() == [[1, 0, 0]]
    torch.testing.assert_close(merged.scores, torch.tensor([[0.95, 0.8, 0.3]]))
    nothing = merge_views([one(padding, padding), one(padding, padding)], 0.5)
    assert nothing.labels.tolist() == [[-1, -1]]
    assert nothing.scores.sum() == 0


def test_stored_sizes_are_kept_where_nothing_resizes() -> None:
    model = ManyViews(build(short_side=None), scales=(2.0,))
    assert model.preprocessing.short_side is None
    assert model.views == [(2.0, False)]
    batch = batch_images([noise(64, 96)], model.preprocessing)
    with torch.no_grad():
        found = model(batch)
        view = view_of(batch, model.preprocessing, 2.0, flipped=False)
        expected = model.model(view)
    torch.testing.assert_close(2 * found.boxes, expected.boxes)


def test_evaluation_takes_the_same_settings(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = build(num_classes=10, short_side=None)
    save_model(path, model, model.header)
    words = [
        f"checkpoint={path}", "data=digits", "data.num_train=2", "data.num_val=3", "data.num_test=2", "data.size=96",
        "precision=32-true", "trainer.accelerator=cpu",
    ]  # fmt: skip
    found = {}
    for name, more in {
        "plain": [],
        "one": ["scales=[1.0]", "flip=false"],
        "many": ["scales=[1,1.5]", "flip=true"],
    }.items():
        evaluate(compose("evaluate", [*words, *more, f"run_dir={tmp_path / name}"]))
        found[name] = json.loads((tmp_path / name / "detections.json").read_text())
        assert not (tmp_path / name / "model.safetensors").exists()
    assert found["plain"] == found["one"] != found["many"]
    assert len(found["many"]) == 3 * 20
    predictor = Predictor(load_model(path), scales=[1, 1.5], flip=True, device="cpu", precision="32-true")
    assert predictor(noise(96, 96)).boxes.shape == (20, 4)


def test_wrong_settings_say_so() -> None:
    with pytest.raises(ValueError, match=r"scales=\[1.0, 0.0\] must be one or more numbers above 0"):
        with_views(build(), [1, 0], flip=False)
    with pytest.raises(ValueError, match=r"scales=\[\] must be one or more numbers above 0"):
        with_views(build(), [], flip=False)
    with pytest.raises(
        ValueError, match=r"scales=\[1.0\] flip=true: this works where objects are found \(task=det"
    ):
        with_views(build(task="classification"), [1], flip=True)
    model = build()
    assert with_views(model, [1], flip=False) is model


def test_losses_are_of_the_images_as_they_come() -> None:
    model = build(short_side=None)
    many = ManyViews(model, flip=True)
    batch: Batch = batch_images([noise(64, 96)], many.preprocessing)
    batch.boxes = torch.tensor([[[10.0, 10, 40, 50]]])
    batch.labels, batch.is_crowd = torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.bool)
    values = []
    for one in (model, many):
        torch.manual_seed(1)
        values.append(one.losses(one.features(batch), batch))
    torch.testing.assert_close(values[0], values[1])
