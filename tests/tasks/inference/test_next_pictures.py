"""Which pictures to label next: uncertainty by hand, selection by hand, and the command on a model of each task."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.cli.compose import compose
from tasks.cli.next_pictures import next_pictures
from tasks.contracts import Batch, Classification, Detections, PixelScores
from tasks.data.loading.collate import batch_images
from tasks.inference.next_pictures import Survey, choose_pictures
from tasks.inference.predictor import Predictor
from tasks.inference.selection import choose, nearest
from tasks.inference.sources import Picture
from tasks.inference.survey import Surveyor
from tasks.inference.uncertainty import uncertainties
from tasks.preprocessing import Preprocessing
from tests.tasks.inference.small_files import picture, write_pictures

OPTIONS = ["device=cpu", "precision=32-true"]


def batch(*sizes: tuple[int, int]) -> Batch:
    return batch_images([picture(i, *size) for i, size in enumerate(sizes)], Preprocessing(short_side=None))


def test_uncertainty_of_objects_is_largest_at_a_half_and_padding_has_none() -> None:
    scores = torch.tensor([[1.0, 0.5, 0.5], [0.9, 0.0, 0.0], [0.0, 0.0, 0.0]])
    found = Detections(torch.zeros(3, 3, 4), scores, torch.zeros(3, 3, dtype=torch.long))
    images = batch((32, 32), (32, 32), (32, 32))
    np.testing.assert_allclose(uncertainties(found, images), [2, 4 * 0.9 * 0.1, 0], rtol=1e-6)
    halved = uncertainties(found, images, lambda p: p / 2 + 0.2)
    p = np.array([0.7, 0.45, 0.45])
    np.testing.assert_allclose(halved[[0, 2]], [(4 * p * (1 - p)).sum(), 0], rtol=1e-6)


def test_uncertainty_of_classes_is_one_minus_the_margin() -> None:
    shares = torch.tensor([[0.5, 0.5, 0.0], [0.7, 0.1, 0.2]]).clamp(min=1e-12)
    found = Classification(shares.log())
    np.testing.assert_allclose(uncertainties(found, batch((32, 32), (32, 32))), [1, 0.5], atol=1e-5)
    assert uncertainties(Classification(torch.zeros(1, 1)), batch((32, 32))).tolist() == [0]


def test_uncertainty_of_pixels_leaves_padding_out() -> None:
    images = batch((32, 64), (32, 32))  # the second is padded to 64 wide
    logits = torch.zeros(2, 2, 8, 16)
    logits[1, 0, :, :8] = 100  # sure where the image is
    found = PixelScores(logits, tuple(images.images.shape[-2:]))  # type: ignore[arg-type]
    np.testing.assert_allclose(uncertainties(found, images), [1, 0], atol=1e-6)


def test_choice_by_hand() -> None:
    angles = np.array([0.0, 0.02, np.pi / 2, np.pi])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    unsure = np.array([1.0, 0.99, 0.5, 0.01])
    # The second is like the first, the last is sure: half as unsure but at a right angle comes before both.
    assert choose(unsure, features, 2).tolist() == [0, 2]
    assert choose(unsure, features, 2, candidates=1).tolist() == [0, 1]
    assert choose(unsure, features, 9).tolist()[:2] == [0, 2] and len(choose(unsure, features, 9)) == 4
    # What is labelled looks like the first two.
    assert choose(unsure, features, 1, features[:1]).tolist() == [2]
    assert choose(np.zeros(4), features, 2).tolist() == [0, 3]  # of sure ones the farthest
    assert choose(np.zeros(0), np.zeros((0, 2)), 3).tolist() == []
    np.testing.assert_allclose(nearest(features[2:], features[:1]), [np.sqrt(2), 2])


def test_a_picture_is_seen_alike_in_any_company(files) -> None:
    pictures = [picture(i, 64, 80) for i in range(5)] + [picture(9, 96, 64)]
    predictor = Predictor.load(files["detection"], device="cpu", precision="32-true", batch_size=4)
    before = predictor(pictures[0])
    with Surveyor.open(predictor) as look:
        together, alone = look(pictures), [look([p])[0] for p in pictures]
    for a, b in zip(together, alone, strict=True):
        assert a.uncertainty == pytest.approx(b.uncertainty, rel=1e-4)
        np.testing.assert_allclose(a.feature, b.feature, atol=1e-5)
        assert np.linalg.norm(a.feature) == pytest.approx(1, abs=1e-5) and a.feature.shape == (32,)
    np.testing.assert_array_equal(predictor(pictures[0]).boxes, before.boxes)  # and nothing is left hooked


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unlabelled")
    write_pictures(folder / "a", 9)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n, and then nothing")
    return folder


def run(checkpoint: Path, source: object, output: Path, *words: str) -> int:
    return next_pictures(
        compose(
            "next", [f"checkpoint={checkpoint}", f"source={source}", f"output={output}", *OPTIONS, *words]
        )
    )


@pytest.mark.parametrize("task", ["detection", "instance_segmentation"])
def test_objects_come_with_labels_in_coco_and_yolo(
    files, pictures: Path, tmp_path: Path, task: str, capsys
) -> None:
    coco, yolo = tmp_path / "coco", tmp_path / "yolo"
    assert run(files[task], pictures, coco, "number=4", "score_threshold=0.1") == 1  # one is broken
    assert "broken.png" in capsys.readouterr().err
    with open(coco / "next.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"]
    assert rows[0]["distance"] == "" and all(0 <= float(row["distance"]) <= 2 for row in rows[1:])
    content = json.loads((coco / "predictions.json").read_text())
    assert len(content["images"]) == 4 and all("score" in item for item in content["annotations"])
    assert (coco / "next.txt").read_text().splitlines() == [row["file"] for row in rows]
    assert {Path(image["file_name"]).name for image in content["images"]} == {
        Path(r["file"]).name for r in rows
    }

    # The list is a source, of which the other formats can be made.
    assert run(files[task], coco / "next.txt", yolo, "number=2", "format=yolo", "draw=false") == 0
    assert (
        len(list((yolo / "images").rglob("*.png"))) == 2 and len(list((yolo / "labels").rglob("*.txt"))) == 2
    )


@pytest.mark.parametrize("task", ["classification", "semantic_segmentation"])
def test_classes_and_pixels(files, pictures: Path, tmp_path: Path, task: str) -> None:
    out = tmp_path / "out"
    assert run(files[task], pictures / "a", out, "number=3", "draw=false") == 0
    entries = json.loads((out / "predictions.json").read_text())["pictures"]
    assert len(entries) == 3 and all(entry["classes"] for entry in entries)


def test_labelled_pictures_are_kept_away_from() -> None:
    angles = np.array([0.0, 1.0, 2.0])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float16)
    places = [Picture(f"{i}.png", str(i), f"{i}.png") for i in range(3)]
    found = Survey(places, np.ones(3), features, [])
    alone = choose_pictures(found, 3)
    assert [choice.picture.name for choice in alone] == ["0", "2", "1"] and np.isnan(alone[0].distance)
    known = Survey(places[:1], np.ones(1), features[:1], [])
    beside = choose_pictures(found, 3, known)
    assert [choice.picture.name for choice in beside] == ["2", "1", "0"]
    assert [choice.distance for choice in beside] == pytest.approx(
        [2 * np.sin(1), 2 * np.sin(0.5), 0], abs=0.03
    )


def test_the_command_takes_labelled_pictures(files, pictures: Path, tmp_path: Path, capsys) -> None:
    labelled = f"labelled={pictures / 'a' / '000001.png'}"
    assert run(files["detection"], pictures / "a", tmp_path / "out", "number=2", labelled, "draw=false") == 0
    with open(tmp_path / "out" / "next.csv", newline="") as file:
        assert all(row["distance"] for row in csv.DictReader(file))
    assert "2 of 9 pictures" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["number=0"], "number=0 must be a whole number of pictures"),
        (["source=nowhere"], "source=nowhere is not a picture"),
        (["labelled=nowhere"], "nowhere is not a picture"),
        (["format=sheets"], "format=sheets is unknown"),
        (["source=0"], "is a video, and pictures are wanted"),
    ],
)
def test_bad_settings_make_no_folder(
    files, pictures: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    out = tmp_path / "out"
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(files["detection"], pictures, out, *words)
    assert not out.exists()


def test_nothing_readable_leaves_no_folder(files, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ValueError, match="none of its pictures can be read"):
        run(files["detection"], tmp_path / "broken.png", tmp_path / "out")
    assert not (tmp_path / "out").exists()
