"""What labelme, CVAT, Label Studio and CSV files say beyond plain boxes, by hand."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

import tasks.data
from tasks.data.formats.cvat import CvatData
from tasks.data.formats.label_studio import decode_runs
from tasks.data.formats.labelled import pasted_mask
from tasks.data.formats.labelme import LabelmeData
from tests.tasks.data.formats import layouts

HEIGHT, WIDTH = layouts.HEIGHT, layouts.WIDTH
BITMAP = np.array([[1, 1, 0], [0, 1, 1]], np.uint8)


def full_mask(segmentation: Any) -> np.ndarray:
    if isinstance(segmentation, list):
        segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, HEIGHT, WIDTH))
    return coco_mask.decode(segmentation)


def only_image(root: Path) -> Path:
    layouts.save_picture(root / "a.jpg", layouts.Picture("", "a", []))
    return root


def objects(source: Any) -> list[tuple[str, list[float], Any]]:
    found = source.split("train").annotations
    return [
        (found.class_names[found.labels[row]], found.boxes[row].tolist(), found.segmentation(row))
        for row in range(len(found.ids))
    ]


def labelme(root: Path, shapes: list[dict[str, Any]], **options: Any) -> LabelmeData:
    only_image(root)
    content = {"shapes": shapes, "imagePath": "a.jpg", "imageHeight": HEIGHT, "imageWidth": WIDTH}
    (root / "a.json").write_text(json.dumps(content))
    return LabelmeData(root, train_images=".", train_annotations=".", masks=True, **options)


def test_labelme_shapes(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(BITMAP * 255).save(buffer, "PNG")
    found = objects(
        labelme(
            tmp_path,
            [
                {"label": "circle", "shape_type": "circle", "points": [[30, 20], [34, 23]]},
                {"label": "mask", "shape_type": "mask", "points": [[5, 7], [8, 9]],
                 "mask": base64.b64encode(buffer.getvalue()).decode()},
                {"label": "parts", "group_id": 1, "points": [[1, 1], [5, 1], [5, 5]]},
                {"label": "parts", "group_id": 1, "points": [[11, 11], [15, 11], [15, 15]]},
                {"label": "other", "group_id": 1, "points": [[1, 41], [5, 41], [5, 45]]},
                {"label": "dot", "shape_type": "point", "points": [[1, 1]]},
            ],
        )
    )  # fmt: skip
    assert [name for name, _, _ in found] == ["circle", "mask", "parts", "other"]
    np.testing.assert_allclose(found[0][1], [25, 15, 10, 10])
    assert abs(full_mask(found[0][2]).sum() - 25 * np.pi) < 3
    assert found[1][1] == [5, 7, 3, 2]
    np.testing.assert_array_equal(full_mask(found[1][2])[7:9, 5:8], BITMAP)
    assert found[2][1] == [1, 1, 14, 14]
    assert len(found[2][2]) == 2


def test_labelme_faults_are_told(tmp_path: Path) -> None:
    shapes = [{"label": "x", "shape_type": "mask", "points": [[5, 7], [8, 9]], "mask": "no"}]
    source = labelme(tmp_path, shapes)
    with pytest.raises(ValueError, match="neither polygons nor run lengths .*its mask is no PNG in base64"):
        source.split("train")
    fixed = labelme(tmp_path, shapes, on_invalid="fix")
    assert objects(fixed) == [("x", [5, 7, 3, 2], None)]
    (tmp_path / "a.json").write_text('{"shapes": 1}')
    with pytest.raises(ValueError, match="is JSON but not labelme's: it has no list 'shapes'"):
        LabelmeData(tmp_path, train_images=".", train_annotations=".").split("train")


def cvat(root: Path, shapes: str) -> CvatData:
    only_image(root)
    (root / "annotations.xml").write_text(
        f'<annotations><image id="0" name="a.jpg" width="{WIDTH}" height="{HEIGHT}">{shapes}</image></annotations>'
    )
    return CvatData(root, train_images=".", train_annotations="annotations.xml", masks=True)


def test_cvat_shapes(tmp_path: Path) -> None:
    found = objects(
        cvat(
            tmp_path,
            '<box label="turned" xtl="20" ytl="20" xbr="40" ybr="30" rotation="90">'
            '<attribute name="x">1</attribute></box>'
            '<ellipse label="round" cx="50" cy="30" rx="10" ry="5"/>'
            '<mask label="mask" rle="0, 2, 2, 2" left="5" top="7" width="3" height="2"/>'
            '<polyline label="line" points="1,1;5,5"/>',
        )
    )
    by_name = {name: (box, mask) for name, box, mask in found}
    assert set(by_name) == {"mask", "round", "turned"}
    np.testing.assert_allclose(by_name["turned"][0], [25, 15, 10, 20], atol=1e-9)
    np.testing.assert_allclose(by_name["round"][0], [40, 25, 20, 10], atol=1e-9)
    assert by_name["mask"][0] == [5, 7, 3, 2]
    np.testing.assert_array_equal(full_mask(by_name["mask"][1])[7:9, 5:8], BITMAP)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "<annotations><track/></annotations>",
            "is CVAT's format for video; export the task as CVAT for images 1.1",
        ),
        ("<annotations/>", "names no images"),
        ("<annotation/>", "is XML but not CVAT's for images: it begins with <annotation>"),
        ("<annotations><image/></annotations>", "image 0 has no name"),
        ("<annotations", "is no XML that can be read"),
    ],
)
def test_cvat_faults(tmp_path: Path, content: str, message: str) -> None:
    only_image(tmp_path)
    (tmp_path / "a.xml").write_text(content)
    with pytest.raises(ValueError, match=message):
        CvatData(tmp_path, train_images=".", train_annotations="a.xml").split("train")


def pack_bits(values: list[tuple[int, int]]) -> bytes:
    """The bits of (value, width) one after the other."""
    bits = "".join(f"{value:0{width}b}" for value, width in values)
    return bytes(int(bits[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(bits), 8))


def encoded(values: np.ndarray) -> list[int]:
    """Runs of bytes as Label Studio packs them, in words of 8 bits, counts in 3, 4, 8 or 16 bits."""
    flat, widths = values.ravel(), (3, 4, 8, 16)
    packed = [(flat.size, 32), (7, 5), *((w - 1, 4) for w in widths)]
    place = 0
    while place < flat.size:
        stop = place
        while stop < flat.size and flat[stop] == flat[place] and stop - place < 2**16:
            stop += 1
        which = next(i for i, w in enumerate(widths) if stop - place - 1 < 2**w)
        packed += [(1, 1), (which, 2), (stop - place - 1, widths[which]), (int(flat[place]), 8)]
        place = stop
    return list(pack_bits(packed))


def test_label_studio_regions(tmp_path: Path) -> None:
    only_image(tmp_path)
    alpha = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    alpha[7:9, 5:8] = BITMAP[:, :, None] * 255
    part = {"original_width": WIDTH, "original_height": HEIGHT}
    box = {"x": 50, "y": 50, "width": 25, "height": 10, "rotation": 90}
    plain = {"x": 10, "y": 10, "width": 20, "height": 20}
    strokes = {"format": "rle", "rle": encoded(alpha), "brushlabels": ["stroke"]}
    result = [
        {**part, "id": "1", "type": "rectanglelabels", "value": {**box, "rectanglelabels": ["turned"]}},
        {**part, "id": "2", "type": "brushlabels", "value": strokes},
        {**part, "id": "3", "type": "rectangle", "value": {**plain, "rotation": 0}},
        {**part, "id": "3", "type": "labels", "value": {**plain, "labels": ["apart"]}},
        {"id": "4", "type": "choices", "value": {"choices": ["sunny"]}},
    ]  # fmt: skip
    annotations = [{"result": [], "was_cancelled": False}, {"result": result, "ground_truth": True}]
    task = {"data": {"image": "/data/local-files/?d=shots%2Fa.jpg"}, "annotations": annotations}
    (tmp_path / "export.json").write_text(json.dumps([task, {"data": {"image": "b.jpg"}, "annotations": []}]))
    source = tasks.data.open(tmp_path, masks=True, split=[0.5, 0.5], on_invalid="drop")
    raw = source.with_files()._read("train")  # type: ignore[attr-defined]
    assert raw.left_out == {"regions of type choices": 1}
    assert "1 of 2 tasks have no annotation and are left out" in raw.notes
    whole = source.with_files().read("train", masks=True)
    found = {
        c: (b, s)
        for c, b, s in zip(
            whole.written_categories, whole.boxes.tolist(), whole.segmentations or [], strict=True
        )
    }
    assert set(found) == {"turned", "stroke", "apart"}
    # Turned by a right angle around its corner at (40, 30): 20 wide becomes 20 high, to the left.
    np.testing.assert_allclose(found["turned"][0], [34, 30, 6, 20], atol=1e-9)
    np.testing.assert_allclose(found["apart"][0], [8, 6, 16, 12], atol=1e-9)
    np.testing.assert_allclose(found["stroke"][0], [5, 7, 3, 2], atol=1e-9)
    np.testing.assert_array_equal(full_mask(found["stroke"][1])[7:9, 5:8], BITMAP)


def test_runs_by_hand() -> None:
    values = np.array([0, 0, 0, 7, 7, 1], np.uint8)
    np.testing.assert_array_equal(decode_runs(bytes(encoded(values)), 6), values)
    single = [(3, 32), (7, 5), *[(2, 4)] * 4, (0, 1), (0, 2), (2, 3), (5, 8), (6, 8), (7, 8)]
    np.testing.assert_array_equal(decode_runs(pack_bits(single), 3), [5, 6, 7])
    with pytest.raises(ValueError, match="end too early"):
        decode_runs(pack_bits(single)[:-2], 3)
    with pytest.raises(ValueError, match="of 3 values, where the image has 4"):
        decode_runs(pack_bits(single), 4)


def test_json_min(tmp_path: Path) -> None:
    only_image(tmp_path)
    region = {"x": 10, "y": 10, "width": 20, "height": 20, "rotation": 0, "rectanglelabels": ["cat"],
              "original_width": WIDTH, "original_height": HEIGHT}  # fmt: skip
    (tmp_path / "min.json").write_text(
        json.dumps([{"id": 1, "image": "a.jpg", "label": [region], "annotator": 1}])
    )
    whole = tasks.data.open(tmp_path).with_files().read("train", masks=False)
    assert whole.written_categories.tolist() == ["cat"]
    np.testing.assert_allclose(whole.boxes, [[8, 6, 16, 12]])


def test_csv_conventions(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        layouts.save_picture(tmp_path / f"{name}.jpg", layouts.Picture("", name, []))
    lines = ["path\tx1\ty1\tx2\ty2\tclass_name\tiscrowd", "a.jpg\t1\t2\t11\t22\tcat\t0", "b.jpg\t\t\t\t\t\t",
             "c.jpg\t3\t4\t13\t14\tdog\t1"]  # fmt: skip
    (tmp_path / "boxes.csv").write_text("\n".join(lines))
    whole = tasks.data.open(tmp_path).with_files().read("train", masks=False)
    assert whole.file_names == ["a.jpg", "b.jpg", "c.jpg"]
    assert whole.boxes.tolist() == [[1, 2, 10, 20], [3, 4, 10, 10]]
    assert whole.is_crowd.tolist() == [False, True]
    (tmp_path / "boxes.csv").write_text("path,x1,y1,class\na.jpg,1,2,cat\n")
    from tasks.data.formats.csv_boxes import CsvData

    source = CsvData(tmp_path, train_images=".", train_annotations="boxes.csv")
    with pytest.raises(ValueError, match=r"has no column for the box \(path, x1, y1, class\); name them"):
        source.split("train")


@pytest.mark.parametrize(("left", "top"), [(0, 0), (5, 7), (-1, -1), (WIDTH - 2, HEIGHT - 1)])
def test_pasted_masks_are_cut_at_the_border(left: int, top: int) -> None:
    canvas = np.zeros((HEIGHT + 10, WIDTH + 10), np.uint8)
    canvas[5 + top : 7 + top, 5 + left : 8 + left] = BITMAP
    canvas = canvas[5 : 5 + HEIGHT, 5 : 5 + WIDTH]
    box, runs = pasted_mask(BITMAP, left, top, (HEIGHT, WIDTH))
    np.testing.assert_array_equal(full_mask(runs), canvas)
    rows, columns = np.nonzero(canvas)
    assert box == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    assert pasted_mask(BITMAP, WIDTH, 0, (HEIGHT, WIDTH))[1] is None


def test_an_xml_bomb_is_refused(tmp_path: Path) -> None:
    only_image(tmp_path)
    entities = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 12))
    bomb = f'<!DOCTYPE x [<!ENTITY l0 "lol">{entities}]><annotations><image name="&l11;"/></annotations>'
    (tmp_path / "annotations.xml").write_text(bomb)
    with pytest.raises(ValueError, match="is no XML that can be read"):
        CvatData(tmp_path, train_images=".", train_annotations="annotations.xml").split("train")
    (tmp_path / "annotations.xml").write_text(
        '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]><annotations><image name="&f;"/></annotations>'
    )
    with pytest.raises(ValueError, match="is no XML that can be read|has no name"):
        CvatData(tmp_path, train_images=".", train_annotations="annotations.xml").split("train")
