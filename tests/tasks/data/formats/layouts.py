"""Small data sets in every layout that is found by itself, with what is in them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from PIL import Image

HEIGHT, WIDTH = 60, 80
NAMES = ("cat", "dog")


class Picture(NamedTuple):
    """One picture with its objects."""

    split: str
    stem: str
    objects: list[tuple[str, tuple[float, float, float, float]]]
    """Class, and x, y, width, height in pixels."""

    @property
    def file(self) -> str:
        return f"{self.stem}.jpg"


def pictures(splits: dict[str, int] | None = None) -> list[Picture]:
    """Pictures by split, each with one to three objects of both classes."""
    rng, found = np.random.default_rng(0), []
    for split, count in (splits or {"train": 6, "val": 3, "test": 2}).items():
        for index in range(count):
            objects = []
            for number in range(1 + index % 3):
                x, y = rng.integers(1, 30, 2).tolist()
                w, h = rng.integers(10, 25, 2).tolist()
                objects.append((NAMES[(index + number) % 2], (x, y, w, h)))
            found.append(Picture(split, f"{split[:2]}{index}", objects))
    return found


def numbered_anew(given: list[Picture]) -> list[Picture]:
    """Called by numbers that begin again in each split."""
    found: list[Picture] = []
    for picture in given:
        number = sum(p.split == picture.split for p in found)
        found.append(picture._replace(stem=f"{number:04d}"))
    return found


def whole(count: int = 10) -> list[Picture]:
    """Pictures of no split."""
    return [p._replace(split="", stem=f"img_{i}") for i, p in enumerate(pictures({"x": count}))]


def save_picture(path: Path, picture: Picture) -> None:
    """Different from all others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(ord(c) * 31**i for i, c in enumerate(picture.split + picture.stem))
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    Image.fromarray(pixels).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(path, quality=95)


def write(path: Path, text: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def by_split(given: list[Picture]) -> Iterator[tuple[str, list[Picture]]]:
    for split in dict.fromkeys(p.split for p in given):
        yield split, [p for p in given if p.split == split]


def coco_content(
    given: list[Picture], names: Callable[[Picture], str] = lambda p: p.file, **more: Any
) -> str:
    """COCO's JSON; ids have gaps."""
    annotations = [
        {"id": 10 * i + j + 1, "image_id": 5 + i, "category_id": 3 * NAMES.index(name) + 1, "bbox": list(box),
         "area": box[2] * box[3], "iscrowd": 0, "segmentation": []}
        for i, p in enumerate(given) for j, (name, box) in enumerate(p.objects)
    ]  # fmt: skip
    images = [
        {"id": 5 + i, "file_name": names(p), "height": HEIGHT, "width": WIDTH} for i, p in enumerate(given)
    ]
    categories = [{"id": 3 * i + 1, "name": n, "supercategory": "animals"} for i, n in enumerate(NAMES)]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories, **more})


def coco_own(root: Path, given: list[Picture]) -> None:
    for split, of in by_split(given):
        write(root / f"annotations/instances_{split}2017.json", coco_content(of))
        for p in of:
            save_picture(root / f"{split}2017" / p.file, p)


def roboflow_coco(root: Path, given: list[Picture]) -> None:
    for split, of in by_split(given):
        content = json.loads(coco_content(of))
        group = {"id": 0, "name": "animals", "supercategory": "none"}
        content["categories"] = [group, *content["categories"]]
        folder = root / {"val": "valid"}.get(split, split)
        write(folder / "_annotations.coco.json", json.dumps(content))
        for p in of:
            save_picture(folder / p.file, p)
    write(root / "README.roboflow.txt", "exported by Roboflow")


def coco_beside_images(root: Path, given: list[Picture]) -> None:
    write(root / "labels.json", coco_content(given))
    for p in given:
        save_picture(root / "pictures" / p.file, p)


def coco_two_files(root: Path, given: list[Picture]) -> None:
    for split, of in by_split(given):
        write(root / f"{split}.json", coco_content(of, lambda p: f"images\\{p.file}"))
    for p in given:
        save_picture(root / "images" / p.file, p)


def voc_xml(p: Picture) -> str:
    """Corners are the first and last pixel, counted from 1."""
    objects = "".join(
        f"<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
        f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
        for name, (x, y, w, h) in p.objects
    )
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    return f"<annotation><filename>{p.file}</filename>{size}{objects}</annotation>"


def voc_own(root: Path, given: list[Picture]) -> None:
    for split, of in by_split(given):
        write(root / f"VOC2012/ImageSets/Main/{split}.txt", "".join(f"{p.stem}\n" for p in of))
        for p in of:
            write(root / f"VOC2012/Annotations/{p.stem}.xml", voc_xml(p))
            save_picture(root / "VOC2012/JPEGImages" / p.file, p)


def voc_without_lists(root: Path, given: list[Picture]) -> None:
    for p in given:
        write(root / f"Annotations/{p.stem}.xml", voc_xml(p))
        save_picture(root / "JPEGImages" / p.file, p)


def roboflow_voc(root: Path, given: list[Picture]) -> None:
    for p in given:
        folder = root / {"val": "valid"}.get(p.split, p.split)
        write(folder / f"{p.stem}.xml", voc_xml(p))
        save_picture(folder / p.file, p)
    write(root / "README.roboflow.txt", "exported by Roboflow")


def xml_beside(root: Path, given: list[Picture]) -> None:
    for p in given:
        write(root / f"{p.stem}.xml", voc_xml(p))
        save_picture(root / p.file, p)


def xml_sibling(root: Path, given: list[Picture]) -> None:
    for p in given:
        write(root / "my boxes" / p.split / f"{p.stem}.xml", voc_xml(p))
        save_picture(root / "photos" / p.split / p.file, p)


def yolo_text(p: Picture) -> str:
    return "".join(
        f"{NAMES.index(name)} {(x + w / 2) / WIDTH:.7f} {(y + h / 2) / HEIGHT:.7f} {w / WIDTH:.7f} {h / HEIGHT:.7f}\n"
        for name, (x, y, w, h) in p.objects
    )


def yolo_own(root: Path, given: list[Picture]) -> None:
    for p in given:
        write(root / f"labels/{p.split}/{p.stem}.txt", yolo_text(p))
        save_picture(root / "images" / p.split / p.file, p)
    splits = {split: f"images/{split}" for split, _ in by_split(given)}
    write(
        root / "data.yaml",
        yaml.safe_dump({"path": "/somewhere/else", **splits, "names": dict(enumerate(NAMES))}),
    )


def roboflow_yolo(root: Path, given: list[Picture]) -> None:
    for p in given:
        folder = {"val": "valid"}.get(p.split, p.split)
        write(root / folder / f"labels/{p.stem}.txt", yolo_text(p))
        save_picture(root / folder / "images" / p.file, p)
    splits = {s: f"../{'valid' if s == 'val' else s}/images" for s in ("train", "val", "test")}
    write(
        root / "data.yaml",
        yaml.safe_dump({**splits, "nc": 2, "names": list(NAMES), "roboflow": {"version": 1}}),
    )


def yolo_bare(root: Path, given: list[Picture]) -> None:
    for p in given:
        write(root / f"labels/{p.split}/{p.stem}.txt", yolo_text(p))
        save_picture(root / "images" / p.split / p.file, p)
    write(root / "classes.txt", "cat\ndog\n")


def yolo_beside(root: Path, given: list[Picture]) -> None:
    for p in given:
        write(root / f"{p.stem}.txt", yolo_text(p))
        save_picture(root / p.file, p)
    write(root / "classes.txt", "cat\ndog\n")


def yolo_sibling(root: Path, given: list[Picture]) -> None:
    for p in given:
        write(root / f"txt/{p.stem}.txt", yolo_text(p))
        save_picture(root / "photos" / p.file, p)
    write(root / "txt/classes.txt", "cat\ndog\n")


def labelme_json(p: Picture, image_path: str) -> str:
    shapes = [
        {
            "label": name,
            "points": [[x + w, y + h], [x, y]],
            "shape_type": "rectangle",
            "group_id": None,
            "flags": {},
        }
        if number % 2 == 0
        else {
            "label": name,
            "points": [[x, y], [x + w, y], [x + w, y + h], [x, y + h]],
            "shape_type": "polygon",
        }
        for number, (name, (x, y, w, h)) in enumerate(p.objects)
    ]
    content = {"version": "5.0.1", "flags": {}, "shapes": shapes, "imagePath": image_path, "imageData": "AAAA",
               "imageHeight": HEIGHT, "imageWidth": WIDTH}  # fmt: skip
    return json.dumps(content)


def labelme_beside(root: Path, given: list[Picture]) -> None:
    for p in given:
        write(root / f"{p.stem}.json", labelme_json(p, p.file))
        save_picture(root / p.file, p)


def labelme_sibling(root: Path, given: list[Picture]) -> None:
    for p in given:
        write(root / f"json/{p.split}/{p.stem}.json", labelme_json(p, f"..\\..\\img\\{p.split}\\{p.file}"))
        save_picture(root / "img" / p.split / p.file, p)


def cvat_xml(given: list[Picture]) -> str:
    images = "".join(
        f'<image id="{i}" name="{p.file}" width="{WIDTH}" height="{HEIGHT}">'
        + "".join(
            f'<box label="{n}" source="manual" occluded="0" xtl="{x}" ytl="{y}" xbr="{x + w}" ybr="{y + h}"/>'
            if j % 2 == 0
            else f'<polygon label="{n}" points="{x},{y};{x + w},{y};{x + w},{y + h};{x},{y + h}"/>'
            for j, (n, (x, y, w, h)) in enumerate(p.objects)
        )
        + '<tag label="day"/></image>'
        for i, p in enumerate(given)
    )
    labels = "".join(f"<label><name>{name}</name><type>any</type></label>" for name in NAMES)
    meta = f"<version>1.1</version><meta><task><labels>{labels}</labels></task></meta>"
    return f"<annotations>{meta}{images}</annotations>"


def cvat(root: Path, given: list[Picture]) -> None:
    write(root / "annotations.xml", cvat_xml(given))
    for p in given:
        save_picture(root / "images" / p.file, p)


def cvat_splits(root: Path, given: list[Picture]) -> None:
    for split, of in by_split(given):
        cvat(root / split, of)


def label_studio_json(given: list[Picture]) -> str:
    tasks = []
    for number, p in enumerate(given):
        result: list[dict[str, Any]] = []
        for j, (name, (x, y, w, h)) in enumerate(p.objects):
            part = {"original_width": WIDTH, "original_height": HEIGHT, "id": f"r{j}", "from_name": "label"}
            percent = {
                "x": 100 * x / WIDTH,
                "y": 100 * y / HEIGHT,
                "width": 100 * w / WIDTH,
                "height": 100 * h / HEIGHT,
            }
            if j % 2 == 0:
                value = {**percent, "rotation": 0, "rectanglelabels": [name]}
                result.append({**part, "type": "rectanglelabels", "value": value})
            else:
                corners = [[x, y], [x + w, y], [x + w, y + h], [x, y + h]]
                points = [[100 * a / WIDTH, 100 * b / HEIGHT] for a, b in corners]
                result.append(
                    {**part, "type": "polygonlabels", "value": {"points": points, "polygonlabels": [name]}}
                )
        wrong = {"was_cancelled": True, "result": [{"type": "choices", "value": {"choices": ["bad"]}}]}
        done = {"was_cancelled": False, "result": result}
        image = f"/data/upload/3/0a1b2c3d-{p.file}"
        tasks.append(
            {"id": number, "data": {"image": image}, "annotations": [wrong, done], "predictions": []}
        )
    return json.dumps(tasks)


def label_studio(root: Path, given: list[Picture]) -> None:
    write(root / "project-3-at-2026.json", label_studio_json(given))
    for p in given:
        save_picture(root / "media" / "images" / p.file, p)
    save_picture(root / "media" / "thumbnail.png", Picture("", "thumbnail", []))


def label_studio_splits(root: Path, given: list[Picture]) -> None:
    for split, of in by_split(given):
        label_studio(root / split, of)


def csv_text(given: list[Picture], header: str, line: Callable[..., str]) -> str:
    rows = [line(p, name, *box) for p in given for name, box in p.objects]
    return "\n".join([header, *rows]) + "\n"


def csv_torchvision(root: Path, given: list[Picture]) -> None:
    text = csv_text(
        given,
        "image,xmin,ymin,xmax,ymax,label",
        lambda p, n, x, y, w, h: f"{p.file},{x},{y},{x + w},{y + h},{n}",
    )
    write(root / "boxes.csv", text)
    for p in given:
        save_picture(root / "images" / p.file, p)


def csv_roboflow(root: Path, given: list[Picture]) -> None:
    for split, of in by_split(given):
        folder = root / {"val": "valid"}.get(split, split)
        text = csv_text(
            of,
            "filename,width,height,class,xmin,ymin,xmax,ymax",
            lambda p, n, x, y, w, h: f"{p.file},{WIDTH},{HEIGHT},{n},{x},{y},{x + w},{y + h}",
        )
        write(folder / "_annotations.csv", text)
        for p in of:
            save_picture(folder / p.file, p)


def csv_sides(root: Path, given: list[Picture]) -> None:
    text = csv_text(
        given,
        "label_name;bbox_x;bbox_y;bbox_width;bbox_height;image_name;image_width;image_height",
        lambda p, n, x, y, w, h: f"{n};{x};{y};{w};{h};{p.file};{WIDTH};{HEIGHT}",
    )
    write(root / "labels_my-project.csv", text)
    for p in given:
        save_picture(root / p.file, p)


def open_images(root: Path, given: list[Picture]) -> None:
    codes = {"cat": "/m/01yrx", "dog": "/m/0bt9lr"}
    for split, of in by_split(given):
        name = {"val": "validation"}.get(split, split)
        text = csv_text(
            of,
            "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside",
            lambda p, n, x, y, w, h: (
                f"{p.stem},xclick,{codes[n]},1,{x / WIDTH:.7f},{(x + w) / WIDTH:.7f},"
                f"{y / HEIGHT:.7f},{(y + h) / HEIGHT:.7f},0,0,0,0,0"
            ),
        )
        write(root / f"{name}-annotations-bbox.csv", text)
        for p in of:
            save_picture(root / name / p.file, p)
    write(root / "class-descriptions-boxable.csv", "/m/01yrx,cat\n/m/0bt9lr,dog\n/m/04rmv,mouse\n")


WITH_SPLITS: dict[str, tuple[Callable[[Path, list[Picture]], None], str]] = {
    "coco_own": (coco_own, "COCO"),
    "roboflow_coco": (roboflow_coco, "COCO, as Roboflow exports it"),
    "coco_two_files": (coco_two_files, "COCO"),
    "voc_own": (voc_own, "Pascal VOC"),
    "roboflow_voc": (roboflow_voc, "VOC's XML files, as Roboflow exports them"),
    "xml_sibling": (xml_sibling, "VOC's XML files, in my boxes/train for the pictures in photos/train"),
    "yolo_own": (yolo_own, "YOLO with data.yaml"),
    "roboflow_yolo": (roboflow_yolo, "YOLO, as Roboflow exports it"),
    "yolo_bare": (
        yolo_bare,
        "YOLO's text files, in labels/train for the pictures in images/train, classes from classes.txt",
    ),
    "labelme_sibling": (labelme_sibling, "labelme's JSON files, in json/train for the pictures in img/train"),
    "cvat_splits": (cvat_splits, "CVAT for images"),
    "csv_roboflow": (csv_roboflow, "CSV files of boxes"),
    "open_images": (open_images, "CSV files of boxes, as Open Images has them"),
}
"""What writes each layout of objects that has splits, and what it is called."""
WITHOUT_SPLITS: dict[str, tuple[Callable[[Path, list[Picture]], None], str]] = {
    "coco_beside_images": (coco_beside_images, "COCO, one file (labels.json)"),
    "voc_without_lists": (voc_without_lists, "Pascal VOC"),
    "xml_beside": (xml_beside, "VOC's XML files, beside the pictures"),
    "yolo_beside": (yolo_beside, "YOLO's text files, beside the pictures, classes from classes.txt"),
    "yolo_sibling": (
        yolo_sibling,
        "YOLO's text files, in txt for the pictures in photos, classes from txt/classes.txt",
    ),
    "labelme_beside": (labelme_beside, "labelme's JSON files, beside the pictures"),
    "cvat": (cvat, "CVAT for images"),
    "label_studio": (label_studio, "Label Studio's JSON"),
    "csv_torchvision": (csv_torchvision, "a CSV file of boxes"),
    "csv_sides": (csv_sides, "a CSV file of boxes"),
}
"""The same of those without."""


def save_mask(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)


def mask(p: Picture, background: int, values: dict[str, int]) -> np.ndarray:
    """The boxes of the objects, painted in their order."""
    found = np.full((HEIGHT, WIDTH), background, np.uint8)
    for name, (x, y, w, h) in p.objects:
        found[int(y) : int(y + h), int(x) : int(x + w)] = values[name]
    return found


def cityscapes(ending: str, background: int, values: dict[str, int]) -> Callable[[Path, list[Picture]], None]:
    def write_it(root: Path, given: list[Picture]) -> None:
        for p in given:
            stem = f"{p.split}/aachen/aachen_{p.stem}_000019"
            save_picture(root / f"leftImg8bit/{stem}_leftImg8bit.png", p)
            save_mask(root / f"gtFine/{stem}_gtFine_{ending}.png", mask(p, background, values))
            Image.new("RGB", (WIDTH, HEIGHT)).save(root / f"gtFine/{stem}_gtFine_color.png")
            write(
                root / f"gtFine/{stem}_gtFine_polygons.json", json.dumps({"imgHeight": HEIGHT, "objects": []})
            )

    return write_it


def camvid(root: Path, given: list[Picture]) -> None:
    for p in given:
        save_picture(root / p.split / f"{p.stem}.png", p)
        save_mask(root / f"{p.split}annot" / f"{p.stem}.png", mask(p, 11, {"cat": 3, "dog": 8}))


def bdd(root: Path, given: list[Picture]) -> None:
    for p in given:
        save_picture(root / f"bdd100k/images/10k/{p.split}/{p.file}", p)
        save_mask(
            root / f"bdd100k/labels/sem_seg/masks/{p.split}/{p.stem}.png", mask(p, 255, {"cat": 13, "dog": 0})
        )
        folder = root / f"bdd100k/labels/sem_seg/colormaps/{p.split}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / f"{p.stem}.png")


def bdd_old(root: Path, given: list[Picture]) -> None:
    for p in given:
        save_picture(root / f"seg/images/{p.split}/{p.file}", p)
        save_mask(root / f"seg/labels/{p.split}/{p.stem}_train_id.png", mask(p, 255, {"cat": 13, "dog": 0}))


def binary(root: Path, given: list[Picture]) -> None:
    for p in given:
        save_picture(root / "images" / p.file, p)
        save_mask(root / "masks" / f"{p.stem}_mask.png", mask(p, 0, {"cat": 255, "dog": 255}))


def masks_with_names(root: Path, given: list[Picture]) -> None:
    for p in given:
        save_picture(root / f"images/{p.split}/{p.file}", p)
        save_mask(root / f"masks/{p.split}/{p.stem}.png", mask(p, 2, {"cat": 0, "dog": 1}))
    write(root / "classes.txt", "cat\ndog\nvoid\n")


DRIVING = [f"class {i}" for i in range(19)]
MASKS: dict[str, tuple[Callable[[Path, list[Picture]], None], str, int, tuple[int, int], int]] = {
    "cityscapes_ids": (cityscapes("labelIds", 0, {"cat": 26, "dog": 7}), "Cityscapes (ids)", 19, (13, 0), 255),
    "cityscapes_train_ids": (
        cityscapes("labelTrainIds", 255, {"cat": 13, "dog": 0}), "Cityscapes (trainIds)", 19, (13, 0), 255,
    ),
    "camvid": (camvid, "CamVid's masks", 11, (3, 8), 255),
    "bdd": (bdd, "BDD100K's masks", 19, (13, 0), 255),
    "bdd_old": (bdd_old, "BDD100K's masks", 19, (13, 0), 255),
    "masks_with_names": (masks_with_names, "masks beside images, classes from classes.txt", 2, (0, 1), 255),
}  # fmt: skip
"""What writes each layout of masks, what it is called, its number of classes, the labels of cat and dog, and that of
what is neither."""


def class_folders(root: Path, given: list[Picture], *, val: str = "val") -> None:
    for p in given:
        folder = {"val": val}.get(p.split, p.split)
        save_picture(root / folder / p.objects[0][0] / p.file, p)
