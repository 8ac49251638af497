"""Other inputs of the kinds that are known to go wrong: newer formats, links, names, numbers, words of commands."""

import base64
import json
import logging
import os
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image, PngImagePlugin

from backbones.untrusted import load_data
from tasks.data.layouts.auto import open_folder
from tasks.data.loading.storage import files_below
from tasks.data.quality.report import examine
from tasks.harness.metrics_csv import rows_before
from tasks.preprocessing import Preprocessing
from tasks.report.training import training_section
from tests.commands import command
from tests.tasks.data.formats import layouts
from tests.tiny_runs import TINY

PICTURES = layouts.pictures({"train": 3, "val": 2})  # of six and three objects
SHOWN = Preprocessing(short_side=layouts.HEIGHT, max_size=layouts.WIDTH)
Edit = Callable[[Path], object]
LABELME = "json/train/tr1.json"
CVAT = "train/annotations.xml"
STUDIO = "train/project-3-at-2026.json"
CSV = "train/_annotations.csv"
COCO = "annotations/instances_train2017.json"
VOC = "VOC2012/Annotations/tr1.xml"
WRITERS = {
    "labelme": layouts.labelme_sibling, "cvat": layouts.cvat_splits, "label studio": layouts.label_studio_splits,
    "csv": layouts.csv_roboflow, "open images": layouts.open_images, "coco": layouts.coco_own, "voc": layouts.voc_own,
    "yolo": layouts.yolo_own,
}  # fmt: skip


def written(root: Path, kind: str, edit: Edit) -> Path:
    WRITERS[kind](root, PICTURES)
    edit(root)
    return root


def said(root: Path) -> str:
    """All that the doctor says, a line each; "" of sound data."""
    logging.getLogger("tasks.data").setLevel(logging.CRITICAL)
    try:
        report = examine(open_folder(root), SHOWN)
    except (ValueError, OSError) as error:
        return f"error: {error}"
    finally:
        logging.getLogger("tasks.data").setLevel(logging.NOTSET)
    found = [f"{f.issue.name}: {f}" for f in report.findings if f.issue.name != "object without mask"]
    notes = [f"note: {note}" for raw in report.splits.values() for note in raw.notes]
    return "\n".join([*found, *notes])


def text(file: str, old: str, new: str) -> Edit:
    """Replaces the first `old` in a file by `new`."""

    def edit(root: Path) -> None:
        content = (root / file).read_text()
        assert old in content
        (root / file).write_text(content.replace(old, new, 1))

    return edit


def of_json(file: str, change: Callable[[Any], Any]) -> Edit:
    def edit(root: Path) -> None:
        content = json.loads((root / file).read_text())
        change(content)
        (root / file).write_text(json.dumps(content))

    return edit


def of_yaml(**values: Any) -> Edit:
    """Values of a data.yaml as they are written."""

    def edit(root: Path) -> None:
        content = yaml.safe_load((root / "data.yaml").read_text())
        content = {key: value for key, value in content.items() if key not in values}
        lines = "".join(f"{key}: {value}\n" for key, value in values.items())
        (root / "data.yaml").write_text(yaml.safe_dump(content) + lines)

    return edit


def shape(**values: Any) -> Edit:
    return of_json(LABELME, lambda c: c["shapes"][0].update(values))


def add_mask(rle: str, width: int, height: int, count: int = 1) -> Edit:
    mask = f'<mask label="cat" rle="{rle}" left="0" top="0" width="{width}" height="{height}"/>'
    return text(CVAT, "</image>", mask * count + "</image>")


def region(**values: Any) -> Edit:
    return of_json(STUDIO, lambda c: c[0]["annotations"][1]["result"][0]["value"].update(values))


def strokes(runs: Any) -> Edit:
    value = {"rle": runs, "brushlabels": ["cat"]}
    return of_json(STUDIO, lambda c: c[0]["annotations"][1]["result"][0].update(value=value))


def image_of(task: str) -> Edit:
    return of_json(STUDIO, lambda c: c[0].update(data={"image": task}))


def annotation(**values: Any) -> Edit:
    return of_json(COCO, lambda c: c["annotations"][0].update(values))


def category(name: Any) -> Edit:
    return of_json(COCO, lambda c: c["categories"][0].update(name=name))


def listed_twice(name: str, *, with_objects: bool = False) -> Edit:
    def change(content: Any) -> None:
        content["images"].append({**content["images"][0], "id": 99, "file_name": name})
        same = [a for a in content["annotations"] if a["image_id"] == content["images"][0]["id"]]
        if with_objects:
            content["annotations"] += [{**a, "id": 900 + a["id"], "image_id": 99} for a in same]

    return of_json(COCO, change)


def picture(save: Callable[[Path, Image.Image], object]) -> Edit:
    """Writes tr1.jpg of the COCO data anew."""

    def edit(root: Path) -> None:
        path = root / "train2017/tr1.jpg"
        image = Image.open(path).copy()
        path.unlink()
        save(path, image)

    return edit


def with_orientation(value: int) -> Edit:
    exif = Image.Exif()
    exif[0x112] = value
    return picture(lambda path, image: image.save(path, exif=exif))


def with_long_text(path: Path, image: Image.Image) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("a", "x" * 30_000_000, zip=True)
    image.save(path, "PNG", pnginfo=info)


def no_change(root: Path) -> None:
    pass


BOMB = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10 if i else "a" * 20}">' for i in range(9))
OUTSIDE = "file outside data set"
CASES: list[tuple[str, str, Edit, str]] = [
    ("labelme", "a circle without end", shape(shape_type="circle", points=[[1e308, 1e308], [-1e308, -1e308]]),
     "not finite"),
    ("labelme", "a mask that is no picture", shape(shape_type="mask", mask=base64.b64encode(b"hello").decode()),
     "its mask is no PNG in base64"),
    ("labelme", "points of three numbers", shape(shape_type="polygon", points=[[1, 1, 1], [20, 1, 1], [20, 20, 1]]),
     "not finite"),
    ("labelme", "a link to the folder above", lambda r: (r / "json/train/loop").symlink_to(".."), ""),
    ("labelme", "labels elsewhere", lambda r: ((r / LABELME).unlink(), (r / LABELME).symlink_to("/etc/passwd")),
     "are outside the data set"),
    ("labelme", "a pipe", lambda r: ((r / LABELME).unlink(), os.mkfifo(r / LABELME)), "a pipe, a socket or a device"),
    ("labelme", "UTF-16", lambda r: (r / LABELME).write_text((r / LABELME).read_text(), "utf-16"), ""),
    ("cvat", "points of three numbers", text(CVAT, "</image>",
     '<polygon label="cat" points="1,1,1;20,1,1;20,20,1;1,20,1"/></image>'), "not finite"),
    ("cvat", "masks of 88 million pixels in 12 bytes", add_mask("0,88360000", 9400, 9400, 200),
     "more pixels than files of its size"),
    ("cvat", "a rotation without a value", text(CVAT, 'label="cat"', 'rotation="" label="cat"'), "3 tag"),
    ("cvat", "a track beside images", text(CVAT, "<annotations>", "<annotations><track/>"), "1 track"),
    ("cvat", "an image twice", text(CVAT, 'name="tr1.jpg"', 'name="tr0.jpg"'), "file listed twice"),
    ("cvat", "entities of entities", text(CVAT, "<annotations>", f"<!DOCTYPE a [{BOMB}]><annotations>" + "&e8;" * 20),
     "limit on input amplification"),
    ("cvat", "an entity that is a file", text(CVAT, "<annotations>",
     '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotations>&a;'), "undefined entity"),
    ("label studio", "run lengths that are a number", strokes(10**10), "run lengths that are no list"),
    ("label studio", "run lengths that end early", strokes([0, 0, 75, 0, 8]), "run lengths that end too early"),
    ("label studio", "a class that is no text", region(rectanglelabels=["\ud800"]), "undeclared category"),
    ("label studio", "a rotation of null", region(rotation=None), "mark of an upload"),
    ("label studio", "two classes", region(rectanglelabels=["cat", "dog"]), "1 further classes of regions"),
    ("label studio", "an address that is none", image_of("http://[x/tr0.jpg"), "the last part alone"),
    ("label studio", "a way out", image_of("/data/local-files/?d=../../../../etc/passwd"), OUTSIDE),
    ("csv", "a quote without an end", text(CSV, "tr2.jpg", '"tr2.jpg'), "unexpected end of data"),
    ("csv", "a line separator in a name", text(CSV, ",cat,", ",c\u2028t,"), "category in one split only"),
    ("csv", "a cell of 200,000 characters", text(CSV, ",cat,", f",{'c' * 200_000},"), "larger than field limit"),
    ("csv", "a way out", text(CSV, "tr0.jpg", "/etc/passwd"), OUTSIDE),
    ("open images", "a description without end", text("class-descriptions-boxable.csv", "cat", "c" * 200_000),
     "class-descriptions-boxable.csv' is no CSV"),
    ("open images", "descriptions without a header", no_change, ""),
    ("yolo", "classes called yes and no", of_yaml(names="[no, yes]"), ""),
    ("yolo", "half of a pair of surrogates", of_yaml(names='["\\ud800", a]'), "has a class called '\\ud800'"),
    ("yolo", "a class without a name", of_yaml(names='["", a]'), "has a class called ''"),
    ("yolo", "an image listed twice", lambda r: (of_yaml(train="train.txt")(r), (r / "train.txt").write_text(
     "images/train/tr1.jpg\nimages/train/tr1.jpg\n")), ""),
    ("yolo", "labels elsewhere", lambda r: ((r / "labels/train/tr1.txt").unlink(),
     (r / "labels/train/tr1.txt").symlink_to("/etc/passwd")), "are outside the data set"),
    ("coco", "a box of truth values", annotation(bbox=[True, True, True, True]), "not finite"),
    ("coco", "run lengths of another image", annotation(segmentation={"size": [10, 10], "counts": [50, 50]}),
     "run lengths of other size"),
    ("coco", "half of a pair of surrogates", category("\ud800"), "has a class called '\\ud800'"),
    ("coco", "a name of 100,000 characters", category("x" * 100_000), "of 100000 characters"),
    ("coco", "a file with other objects", listed_twice("tr0.jpg"), "file listed twice: image 99"),
    ("coco", "a file spelt otherwise", listed_twice("./tr0.jpg"), "file listed twice: image 99"),
    ("coco", "a file with the same objects", listed_twice("tr0.jpg", with_objects=True), ""),
    ("coco", "a link to itself", picture(lambda path, _: path.symlink_to(path.name)), "file unreadable"),
    ("coco", "a link to a device", picture(lambda path, _: path.symlink_to("/dev/zero")), OUTSIDE),
    ("coco", "an orientation that is none", with_orientation(255), ""),
    ("coco", "an orientation", with_orientation(6), "EXIF rotation ignored"),
    ("coco", "a PNG with 30 MB of text", picture(with_long_text), "Decompressed data too large"),
    ("coco", "16 bits in a file called .jpg", picture(lambda path, _: Image.fromarray(
     np.arange(4800, dtype=np.uint16).reshape(60, 80) * 13).save(path, "PNG")), ""),
    ("voc", "labels elsewhere", lambda r: ((r / VOC).unlink(), (r / VOC).symlink_to("/etc/passwd")),
     "are outside the data set"),
    ("voc", "1e400", text(VOC, "<xmin>10", "<xmin>1e400"), "not finite"),
    ("voc", "a document type elsewhere", text(VOC, "<annotation>",
     '<!DOCTYPE annotation SYSTEM "http://127.0.0.1:9/x.dtd"><annotation>'), ""),
    ("voc", "200,000 tags in each other", lambda r: (r / VOC).write_text(
     "<annotation>" + "<a>" * 200_000 + "</a>" * 200_000 + "</annotation>"), ""),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "edit", "expected"), [
    pytest.param(kind, edit, expected, id=f"{kind}: {what}") for kind, what, edit, expected in CASES
])  # fmt: skip
def test_data(tmp_path: Path, kind: str, edit: Edit, expected: str) -> None:
    root, started = written(tmp_path, kind, edit), time.monotonic()
    found = said(root)
    assert expected in found if expected else not found
    assert time.monotonic() - started < 10
    if not expected or "error:" not in found:
        open_folder(root, on_invalid="fix").with_files()


def test_classes_are_called_as_they_are_written(tmp_path: Path) -> None:
    root = written(tmp_path, "yolo", of_yaml(names="[010, 1.10]"))
    assert open_folder(root).class_names == ["010", "1.10"]
    (root / "data.yaml").unlink()
    root = written(tmp_path / "b", "open images", no_change)
    description = root / "class-descriptions-boxable.csv"
    description.write_text(description.read_text() + "/m/0xyz,horse\n")
    assert open_folder(root).class_names == ["cat", "dog"]  # the first line is no header


def test_an_image_in_the_list_twice_is_trained_on_twice(tmp_path: Path) -> None:
    root = written(tmp_path, "yolo", of_yaml(train="train.txt"))
    (root / "train.txt").write_text("images/train/tr1.jpg\nimages/train/tr1.jpg\n")
    assert len(open_folder(root).split("train")) == 2


@pytest.mark.parametrize(("method", "expected"), [
    (zipfile.ZIP_STORED, ""), (zipfile.ZIP_DEFLATED, ""), (zipfile.ZIP_BZIP2, "compressed by method 12"),
    (zipfile.ZIP_LZMA, "compressed by method 14"),
])  # fmt: skip
def test_methods_of_zip_files(tmp_path: Path, method: int, expected: str) -> None:
    root = written(tmp_path / "data", "coco", no_change)
    with zipfile.ZipFile(tmp_path / "data.zip", "w", method) as archive:
        for path in root.rglob("*.*"):
            archive.write(path, path.relative_to(root))
    found = said(tmp_path / "data.zip")
    assert expected in found if expected else not found


def link_member(kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo("train2017/tr1.jpg")
    member.type, member.linkname = kind, "/etc/passwd"
    return member


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE]
)
def test_what_is_no_file_in_a_tar_is_not_there(tmp_path: Path, kind: bytes) -> None:
    root = written(tmp_path / "data", "coco", no_change)
    (root / "train2017/tr1.jpg").unlink()
    with tarfile.open(tmp_path / "data.tar", "w") as archive:
        for path in root.rglob("*.*"):
            archive.add(path, path.relative_to(root))
        archive.addfile(link_member(kind))
    assert "file missing: image 6 'tr1.jpg'" in said(tmp_path / "data.tar")


def test_links_in_circles_end(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "x.jpg").touch()
    for number in range(6):
        (inner / f"up{number}").symlink_to("..")
        (tmp_path / f"a{number}").symlink_to("a")
    (inner / "root").symlink_to("/")
    (inner / "self").symlink_to("self")
    assert files_below(tmp_path) == ["a/b/self", "a/b/x.jpg"]


def test_objects_that_nobody_said_to_drop_are_lost(tmp_path: Path) -> None:
    root = written(tmp_path / "data", "cvat", text(CVAT, 'xtl="', 'xtl="nan'))
    result = command("convert_data", f"data.root={root}", "to=coco", f"out={tmp_path / 'a'}")
    assert result.returncode == 1 and "lost: 1 of 9 objects are not written" in result.stdout
    words = [f"data.root={root}", "to=coco", f"out={tmp_path / 'b'}", "data.on_invalid=fix"]
    assert command("convert_data", *words).returncode == 0


# Commands


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run and a picture in it."""
    folder = tmp_path_factory.mktemp("work")
    result = command(
        "train", *TINY["retinanet"], "trainer.max_steps=1", "data.num_train=4", "run_dir=run", cwd=folder
    )
    assert result.returncode == 0, result.stderr
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(folder / "a.png")
    return folder


MODEL = "checkpoint=run/model.safetensors"
DIGITS = ["data=digits", "data.size=96", "data.num_train=4", "data.num_val=4", "data.num_test=1"]
LINES: list[tuple[str, list[str], str]] = [
    ("evaluate", [MODEL, *DIGITS, "split=all"], "split=all is unknown; wanted train, val or test"),
    ("evaluate", ["checkpoint=a.png", *DIGITS], "a.png is not a checkpoint that can be read as data alone"),
    ("explain", [MODEL, *DIGITS, "split=q", "image=0"], "split=q is unknown"),
    ("tune", [MODEL, *DIGITS, "out=a.png"], "out=a.png cannot be written; give the name of a model file"),
    ("tune", [MODEL, *DIGITS, "out=nowhere/t.safetensors"], "in a folder that is there"),
    ("suspects", [MODEL, *DIGITS, "run_dir=run"], "run_dir=run is not empty"),
    ("suspects", [MODEL, *DIGITS, "pictures=x"], "pictures=x must be a whole number, at least 0"),
    ("suspects", [MODEL, *DIGITS, "number=0"], "number=0 must be a whole number, at least 1"),
    ("report", ["run", "pictures=nan"], "pictures=nan must be a whole number"),
    ("report", ["run", "pictures=-1"], "pictures=-1 must be a whole number"),
    ("compare", ["runs=[]"], "runs=[] names no runs"),
    ("compare", ["run", "run", "costs=maybe"], "costs=maybe must be true or false"),
    ("predict", [MODEL, "source=a.png", "scales=[nan]", "device=cpu"], "numbers above 0 and up to 8"),
    ("predict", [MODEL, "source=a.png", "scales=[1e9]", "device=cpu"], "numbers above 0 and up to 8"),
    ("predict", [MODEL, "source=", "device=cpu"], "source= is empty"),
    ("predict", [MODEL, "source=a.png", "output=", "device=cpu"], "output= is empty"),
    ("predict", [MODEL, "source={a,b}=c.png", "device=cpu"], "source={a,b}=c.png is not a picture"),
    ("show_data", ["task=detection", *DIGITS, "num_images=?"], "num_images=? must be a whole number"),
    ("show_data", ["task=detection", "data=[null]"], "data=None is not in configs/data/"),
    ("summarize", ["resnet18", "size=[100000]"], "size=100000 is not a size"),
    ("summarize", ["resnet18", "size=${x}"], "error: size: Interpolation key 'x' not found"),
    ("train", ["task=detection", *DIGITS, "metric.backend=(x"], "a text goes into two kinds of quotes"),
    ("push", ["run/model.safetensors", "repo=../x"], "repo=../x is not the name of a repository"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "words", "expected"), LINES, ids=lambda value: str(value)[-50:])
def test_command(run: Path, name: str, words: list[str], expected: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    result = command(name, *words, cwd=run)
    assert result.returncode == 2
    (sentence,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert expected in sentence and "weights_only" not in sentence
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_texts_of_a_card_are_taken_as_they_stand(run: Path) -> None:
    result = command("card", "run/model.safetensors", "licence=[/]<x>", "output=card", cwd=run)
    assert result.returncode == 0 and r"\[/\]\<x\>" in (run / "card/README.md").read_text()


def test_advice_never_is_to_run_a_files_code(tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(ValueError, match="damaged, or holds more than plain data"):
        load_data(tmp_path / "x.ckpt")


# Files of a run


def test_a_row_that_a_kill_has_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text('epoch,step,val/AP\n0,1,\n0,4,0.5\n1,"7\n2,')
    assert rows_before(path) == [{"epoch": "0", "step": "1"}, {"epoch": "0", "step": "4", "val/AP": "0.5"}]
    assert rows_before(path, 5, is_validation_due=True) == [{"epoch": "0", "step": "1"}]
    assert rows_before(path, 4) == [{"epoch": "0", "step": "1"}]
    assert rows_before(tmp_path / "none.csv") == []


@pytest.mark.parametrize(
    "text", ["step,a\n1,2,3,4\n", "", "step,a\n1," + "9" * 200_000, "step\n\x00\n", "a,a\n1,1\n"]
)
def test_a_report_of_odd_metrics(tmp_path: Path, text: str) -> None:
    (tmp_path / "metrics.csv").write_text(text)
    assert training_section(tmp_path).title == "Training"
