"""Published figures beside ours, on small data and with random weights in the place of the published ones."""

import json
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_sample_images

from backbones.weights import WEIGHTS, Published
from tasks.cli.compose import compose
from tasks.cli.verify_weights import classifiers, detectors, verify
from tasks.zoo.pretrained import PUBLISHED
from tests.tasks.zoo.small_weights import publish, write_coco

TINY = [
    "precision=32-true",
    "trainer.accelerator=cpu",
    "preprocessing.short_side=64",
    "preprocessing.max_size=128",
]


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "mirror"
    folder.mkdir()
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VERTEBRA_MIRROR", str(folder))
    monkeypatch.setattr("tasks.zoo.pretrained.TORCHVISION", "http://127.0.0.1:9/")
    return folder


def test_detectors_on_coco_with_one_file_missing(mirror: Path, monkeypatch, tmp_path: Path, capsys) -> None:
    coco = write_coco(tmp_path / "coco", {"cat": 17, "dog": 18})
    for name, tag in (("faster_rcnn", "COCO_V1"), ("faster_rcnn", "COCO_V2"), ("mask_rcnn", "COCO_V2")):
        content = publish(monkeypatch, name, tag)
        (mirror / PUBLISHED[name][tag].file).write_bytes(content)
    out = tmp_path / "out"
    words = ["data=coco", f"data.root={coco}", f"run_dir={out}", "only=[faster_rcnn,mask_rcnn]"]
    assert verify(compose("verify_weights", [*words, *TINY])).status == 1
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    header = next(i for i, line in enumerate(lines) if line.split() == [
        "model", "weights", "metric", "published", "ours", "difference"])  # fmt: skip
    rows = [line.split() for line in lines[header + 1 : header + 7]]
    assert [row[:4] for row in rows] == [
        ["faster_rcnn", "COCO_V1", "AP", "37.0"],
        ["faster_rcnn", "COCO_V2", "AP", "46.7"],
        ["mask_rcnn", "COCO_V1", "AP", "37.9"],
        ["mask_rcnn", "COCO_V1", "mask_AP", "34.6"],
        ["mask_rcnn", "COCO_V2", "AP", "47.4"],
        ["mask_rcnn", "COCO_V2", "mask_AP", "41.8"],
    ]
    missing = PUBLISHED["mask_rcnn"]["COCO_V1"].file
    assert "could not download" in lines[header + 3]
    assert f"put it at {tmp_path}/cache/{missing}" in captured.err
    report = {(row["model"], row["tag"]): row for row in json.loads((out / "verification.json").read_text())}
    assert report["mask_rcnn", "COCO_V1"]["ours"] == {}
    for (name, tag), row in report.items():
        if row["error"] is None:
            numbers = json.loads((out / f"{name}-{tag}" / "metrics.json").read_text())
            assert row["ours"] == {metric: numbers[metric] for metric in row["published"]}
    shown, kept = rows[1], report["faster_rcnn", "COCO_V2"]["ours"]["AP"]
    assert shown[4:] == [f"{100 * kept:.1f}", f"{100 * (kept - 0.467):+.1f}"]


def test_classifiers_on_folders_of_classes(mirror: Path, monkeypatch, tmp_path: Path, capsys) -> None:
    torch.manual_seed(0)
    network = torchvision.models.resnet18(weights=None)
    torch.nn.init.normal_(network.fc.weight, std=0.3)
    path = mirror / "resnet18-small.pth"
    torch.save(network.state_dict(), path)
    entry = Published("http://127.0.0.1:9/resnet18-small.pth", 69.758, resize=64, crop=48)
    monkeypatch.setitem(WEIGHTS, "resnet18", {"IMAGENET1K_V1": entry})
    for name, pixels in zip(("daisy", "tench"), load_sample_images().images, strict=True):
        folder = tmp_path / "imagenet" / "val" / name
        folder.mkdir(parents=True)
        Image.fromarray(pixels[:200, :240]).save(folder / "0.png")
    out = tmp_path / "out"
    words = ["data=image_folder", f"data.root={tmp_path / 'imagenet'}", f"run_dir={out}", "only=resnet18"]
    assert verify(compose("verify_weights", [*words, "trainer.accelerator=cpu"])).status == 0
    row = json.loads((out / "verification.json").read_text())[0]
    assert row["published"] == {"top1": 0.69758}
    assert row["ours"]["top1"] in (0, 0.5, 1)
    line = next(line for line in capsys.readouterr().out.splitlines() if " top1 " in line)
    assert line.split()[2:5] == ["top1", "69.8", f"{100 * row['ours']['top1']:.1f}"]


def test_all_that_can_be_verified() -> None:
    assert {(row.model, row.tag) for row in detectors()} == {
        (m, t) for m, tags in PUBLISHED.items() for t in tags
    }
    names = {row.model for row in classifiers()}
    assert {"resnet18", "resnet152", "resnext50_32x4d", "wide_resnet101_2"} <= names
    assert not {"vgg16", "resnet50d"} & names  # other last layers; bicubic resizing


def test_unknown_model_says_so(tmp_path: Path) -> None:
    coco = write_coco(tmp_path / "coco", {"cat": 17})
    with pytest.raises(ValueError, match="only=fast_rcnn: no published weights.*did you mean faster_rcnn"):
        verify(compose("verify_weights", [f"data.root={coco}", "only=fast_rcnn"]))


def test_two_of_one_second_have_a_folder_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coco = write_coco(tmp_path / "coco", {"cat": 17, "dog": 18})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda _: "now")
    config = compose("verify_weights", ["data=coco", f"data.root={coco}", "only=[]", *TINY])
    folders = [verify(config).values["folder"] for _ in range(2)]
    assert folders == [Path("runs/verify_weights-now"), Path("runs/verify_weights-now-2")]
