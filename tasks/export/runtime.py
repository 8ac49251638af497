"""Pictures in, what an exported model finds in them out: numpy, Pillow, and onnxruntime or openvino.

python predict.py model.onnx photo.jpg …            one JSON line a picture
python predict.py model.onnx photo.jpg --draw DIR   and the pictures with what is found in them

from predict import Predictor
found = Predictor("model.onnx")("photo.jpg")         # found.boxes, .scores, .labels, .class_names; .draw(image)
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tasks.classification.result import ClassScores
from tasks.data.loading.images import (
    DEFAULT_READING,
    ImageError,
    Reading,
    open_image,
    read_regular,
    to_rgb,
)
from tasks.detection.result import Objects
from tasks.instance_segmentation.result import Instances
from tasks.metrics.operating_point import OperatingPoint
from tasks.preprocessing import Preprocessing
from tasks.semantic_segmentation.result import ClassMap
from tasks.targets import ObjectMask
from tasks.visualization.boxes import write_picture

METADATA_KEY = "vertebra"
INSTALL = (
    'pip install onnxruntime numpy pillow    (or openvino in place of onnxruntime, or "vertebra[export]")'
)
Arrays = dict[str, np.ndarray]
Picture = str | Path | Image.Image | np.ndarray


class Predictor:
    """Applies an exported model to pictures, as the predictor of the model that it was exported from does.

    `score_threshold` drops weaker objects than the model itself would. Without one, thresholds and calibrated scores
    are those that `vertebra tune` has stored. Up to `batch_size` pictures of like size go through the network at once.
    `engine` is "onnxruntime", "openvino", or "auto" for the first that is installed; `precision` is that of openvino,
    "fp32" or "bf16". A file of more than `max_pixels`, width times height, is not read; None stands for 89 million.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        score_threshold: float | None = None,
        batch_size: int = 8,
        engine: str = "auto",
        precision: str = "fp32",
        threads: int | None = None,
        max_pixels: int | None = None,
    ) -> None:
        if score_threshold is not None and not 0 <= score_threshold <= 1:
            raise ValueError(f"score_threshold={score_threshold} must be between 0 and 1")
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")
        self.run, metadata = open_engine(Path(path), engine, precision, threads)
        self.metadata = read_metadata(metadata, path)
        self.takes_pictures: bool = self.metadata["input"] == "pictures"
        self.class_names: list[str] = self.metadata["class_names"]
        self.task: str = self.metadata["task"]
        self.preprocessing = Preprocessing(**self.metadata["preprocessing"])
        self.reading = DEFAULT_READING if max_pixels is None else Reading(max_pixels)
        self.score_threshold, self.batch_size = score_threshold or 0.0, batch_size
        self.operating_point: OperatingPoint | None = None
        """What `vertebra tune` has stored, where no threshold was given."""
        if score_threshold is None:
            self.operating_point = OperatingPoint.in_header(
                self.metadata["provenance"], len(self.class_names)
            )

    def __call__(self, pictures: Picture | Sequence[Picture]) -> Any:
        """What is found in a picture, or in each of a list of them.

        A picture is a path, a PIL image (its EXIF orientation is respected) or an RGB uint8 array (H, W, 3).
        """
        if isinstance(pictures, str | Path | Image.Image | np.ndarray):
            return self([pictures])[0]
        found: list[Any] = []
        for start in range(0, len(pictures), self.batch_size):
            images = [self.read(picture) for picture in pictures[start : start + self.batch_size]]
            shape = np.shape if self.takes_pictures else self._output_size
            shapes = [shape(image) for image in images]
            results: dict[int, Any] = {}
            for one in dict.fromkeys(shapes):
                alike = [i for i, other in enumerate(shapes) if other == one]
                results.update(zip(alike, self._predict([images[i] for i in alike]), strict=True))
            found += [self._shown(results[i]) for i in range(len(images))]
        return found

    def _shown(self, found: Any) -> Any:
        point = self.operating_point
        return found.above(self.score_threshold) if point is None else point.applied(found)

    def read(self, picture: Picture) -> np.ndarray:
        """uint8 (H, W, 3) RGB, upright."""
        return read_picture(picture, self.reading) if isinstance(picture, str | Path) else to_rgb(picture)

    def _output_size(self, image: np.ndarray) -> tuple[int, int]:
        return self.preprocessing.output_size(*image.shape[:2])

    def _predict(self, images: list[np.ndarray]) -> list[Any]:
        originals = [image.shape[:2] for image in images]
        if self.takes_pictures:
            found = self.run({"pictures": np.stack(images)})
            sizes = [self._output_size(image) for image in images]
        else:
            resized = [resize(image, self.preprocessing) for image in images]
            sizes = [image.shape[:2] for image in resized]
            found = self.run({"images": pad(resized, self.preprocessing), "sizes": np.array(sizes, np.int64)})
            if "boxes" in found:
                scale = (np.array(originals) / np.array(sizes)).astype(np.float32)[:, None, [1, 0, 1, 0]]
                found["boxes"] = found["boxes"] * scale
        if self.task == "semantic_segmentation":
            padded = self.preprocessing.padded_size(list(sizes))
            maps = [
                class_map(logits, padded, size, original)
                for logits, size, original in zip(found["logits"], sizes, originals, strict=True)
            ]
            return [ClassMap(one, self.class_names) for one in maps]
        if self.task == "classification":
            return [class_scores(logits, self.class_names) for logits in found["logits"]]
        rows = ({name: values[i] for name, values in found.items()} for i in range(len(images)))
        return [objects(row, self.class_names, size) for row, size in zip(rows, originals, strict=True)]


def open_engine(
    path: Path, engine: str, precision: str, threads: int | None
) -> tuple[Callable[[Arrays], Arrays], str | None]:
    """A function from inputs to outputs by name, and the file's metadata, by whichever engine is installed.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: neither is installed; says the one line that changes it.
        ValueError: it is not an ONNX file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no exported model at {path}")
    engines: dict[str, Callable[..., Any]] = {"onnxruntime": _onnxruntime, "openvino": _openvino}
    if engine != "auto" and engine not in engines:
        raise ValueError(f"engine={engine} is unknown; wanted auto, {' or '.join(engines)}")
    for name in engines if engine == "auto" else (engine,):
        try:
            return engines[name](path, precision, threads)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.split(".")[0] != name:
                raise
        except Exception as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise ValueError(
                f"{path} is not read as an ONNX model ({reason:.200}); export it again"
            ) from error
    raise ImportError(f"{'onnxruntime' if engine == 'auto' else engine} is not installed; {INSTALL}")


def _onnxruntime(path: Path, precision: str, threads: int | None) -> tuple[Callable[[Arrays], Arrays], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    providers = [p for p in onnxruntime.get_available_providers() if p.startswith(("CUDA", "CPU"))]
    session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Arrays) -> Arrays:
        found: Any = session.run(names, inputs)
        return dict(zip(names, found, strict=True))

    return run, session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)


def _openvino(path: Path, precision: str, threads: int | None) -> tuple[Callable[[Arrays], Arrays], Any]:
    import openvino

    kind = {"fp32": "f32", "bf16": "bf16"}[precision]
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": kind, "PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    model = openvino.Core().read_model(path)
    compiled = openvino.compile_model(model, "CPU", options)
    names = [output.get_any_name() for output in compiled.outputs]

    def run(inputs: Arrays) -> Arrays:
        found = compiled(inputs)
        return {name: found[i] for i, name in enumerate(names)}

    info = model.get_rt_info(["framework", METADATA_KEY]) if _has(model, METADATA_KEY) else None
    return run, None if info is None else info.value


def _has(model: Any, key: str) -> bool:
    return bool(model.has_rt_info(["framework", key]))


def read_metadata(text: str | None, path: str | Path) -> dict[str, Any]:
    """What the file says of itself; ValueError for one that says nothing."""
    if text is None:
        raise ValueError(f"{path} was not exported by this project: it has no {METADATA_KEY!r} metadata")
    values = json.loads(text)
    if (
        not isinstance(values, Mapping)
        or not {"task", "input", "class_names", "preprocessing", "provenance"} <= values.keys()
    ):
        raise ValueError(f"{path} has {METADATA_KEY!r} metadata of another kind; export it again")
    return dict(values)


def read_picture(path: str | Path, reading: Reading) -> np.ndarray:
    """uint8 (H, W, 3) RGB of a file, turned upright by its EXIF orientation. ValueError or FileNotFoundError, naming
    it, for what is not a picture."""
    try:
        content = read_regular(Path(path), reading.max_bytes)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"image file '{path}' does not exist") from None
    except OSError as error:
        raise ImageError(f"image file '{path}' cannot be read ({error.strerror or error})") from error
    with open_image(content, str(path), reading) as image:
        return to_rgb(image)


def resize(image: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """uint8 (H, W, 3) to the size that `preprocessing` asks for, to the bit as in training."""
    height, width = preprocessing.output_size(*image.shape[:2])
    if (height, width) != image.shape[:2]:
        if preprocessing.antialias:
            resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
            image = np.array(resized)
        else:
            image = bilinear(image, height, width)
    if (side := preprocessing.center_crop) is not None:
        top, left = round((height - side) / 2), round((width - side) / 2)  # halves to even
        image = image[top : top + side, left : left + side]
    return image


def bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """OpenCV's INTER_LINEAR on uint8 to the bit: weights of 11 bits, and two roundings."""
    left, right, a, b = _weights(image.shape[1], width)
    inner = (left >= 0) & (left < image.shape[1] - 1)  # beyond the middles of the first and last, no mixing
    a, b = np.where(inner, a, 2048), np.where(inner, b, 0)
    left, right = left.clip(0, image.shape[1] - 1), right.clip(0, image.shape[1] - 1)
    top, bottom, c, d = _weights(image.shape[0], height)
    top, bottom = top.clip(0, image.shape[0] - 1), bottom.clip(0, image.shape[0] - 1)
    values = image.astype(np.int32)
    lines = (values[:, left] * a[:, None] + values[:, right] * b[:, None]) >> 4
    mixed = ((lines[top] * c[:, None, None]) >> 16) + ((lines[bottom] * d[:, None, None]) >> 16)
    return ((mixed + 2) >> 2).astype(np.uint8)


def _weights(source: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Along one side, for each new pixel: the pixels before and after its middle, and their weights of 2048."""
    scale = 1 / (target / source)
    place = ((np.arange(target) + 0.5) * scale - 0.5).astype(np.float32)
    first = np.floor(place)
    share = place - first
    a, b = (np.rint(one * np.float32(2048)).astype(np.int32) for one in (1 - share, share))
    return first.astype(np.int64), first.astype(np.int64) + 1, a, b


def pad(images: Sequence[np.ndarray], preprocessing: Preprocessing) -> np.ndarray:
    """uint8 (B, 3, H, W) of images (h, w, 3), zero below and to the right of each."""
    height, width = preprocessing.padded_size([image.shape[:2] for image in images])
    batch = np.zeros((len(images), 3, height, width), np.uint8)
    for place, image in zip(batch, images, strict=True):
        place[:, : image.shape[0], : image.shape[1]] = image.transpose(2, 0, 1)
    return batch


def class_scores(logits: np.ndarray, class_names: list[str]) -> ClassScores:
    """The classes of a picture by their softmax, of `logits` (K,)."""
    shares = np.exp(logits - logits.max())
    shares = shares / shares.sum()
    order = np.argsort(-shares, kind="stable")
    return ClassScores(shares[order], order, [class_names[k] for k in order])


def objects(found: Arrays, class_names: list[str], size: tuple[int, int]) -> Objects:
    """The objects of a picture of `size`, of its rows of boxes, scores, labels and, if there are any, masks."""
    keep = found["labels"] >= 0
    labels = found["labels"][keep]
    result = Objects(
        found["boxes"][keep], found["scores"][keep], labels, [class_names[label] for label in labels]
    )
    if "masks" not in found:
        return result
    masks = [paste(m, box, *size) for m, box in zip(found["masks"][keep], result.boxes, strict=True)]
    return Instances(**vars(result), bitmaps=masks, size=size)


def paste(mask: np.ndarray, box: np.ndarray, height: int, width: int) -> ObjectMask:
    """The mask of an object in a picture of `height` x `width`, of probabilities (S, S) on a grid over its box."""
    size = len(mask)
    padded = np.pad(
        mask.astype(np.float32), 1
    )  # a border of zeros, so that it fades out at the edge of its box
    centre, half = (box[2:] + box[:2]) * np.float32(0.5), (box[2:] - box[:2]) * np.float32(0.5)
    half = half * np.float32((size + 2) / size)
    (x0, y0), (x1, y1) = (corner.astype(np.int64).tolist() for corner in (centre - half, centre + half))
    h, w = max(1, y1 - y0 + 1), max(1, x1 - x0 + 1)
    left, top = max(x0, 0), max(y0, 0)
    right, bottom = min(x1 + 1, width), min(y1 + 1, height)
    rows = np.arange(max(0, top - y0), max(0, bottom - y0, top - y0))
    columns = np.arange(max(0, left - x0), max(0, right - x0, left - x0))
    (first, second, down), (before, after, across) = (
        _cells(*side, size + 2) for side in ((rows, h), (columns, w))
    )
    lines = padded[first] * (1 - down)[:, None] + padded[second] * down[:, None]
    values = lines[:, before] * (1 - across) + lines[:, after] * across
    return ObjectMask(left, top, (values > 0.5).astype(np.uint8))


def changes(bitmap: np.ndarray) -> np.ndarray:
    """`tasks.metrics.run_lengths._changes` without OpenCV: where a mask changes, read down each column and one 0."""
    columns = np.pad(bitmap.T, ((0, 0), (1, 0)))
    flat = np.append(columns.ravel(), np.uint8(0))
    return np.flatnonzero(flat[1:] != flat[:-1])


def _cells(pixels: np.ndarray, num_pixels: int, num_cells: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For these of `num_pixels` pixels along a side: the cells before and after their middles, and how far they lie
    from the first towards the second."""
    scale = np.float32(num_cells / num_pixels)
    places = np.maximum((pixels.astype(np.float32) + np.float32(0.5)) * scale - np.float32(0.5), 0)
    first = np.minimum(places.astype(np.int64), num_cells - 1)
    return first, np.minimum(first + 1, num_cells - 1), places - first


def class_map(
    logits: np.ndarray, padded: tuple[int, int], size: tuple[int, int], original: tuple[int, int]
) -> np.ndarray:
    """uint8 `original`: the class of every pixel of the picture that became the valid `size` of `padded` pixels, which
    the cells of `logits` (K, h, w) cover: the best one after interpolating between cells."""
    num_classes, *cells = logits.shape
    (top, bottom, down), (left, right, across) = (
        _neighbours(*side) for side in zip(original, size, padded, cells, strict=True)
    )
    result = np.empty(original, np.uint8)
    band = max(1, 2**23 // (num_classes * original[1]))  # rows at a time, in 32 MB
    for start in range(0, original[0], band):
        rows = slice(start, start + band)
        upper = logits[:, top[rows]]
        lines = upper + (logits[:, bottom[rows]] - upper) * down[rows, None]
        before = lines[:, :, left]
        result[rows] = (before + (lines[:, :, right] - before) * across).argmax(axis=0)
    return result


def _neighbours(
    num_pixels: int, valid: int, padded: int, num_cells: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Along one side, for each original pixel: the cells before and after its middle, and how far it lies from the
    first towards the second."""
    centres = (np.arange(num_pixels, dtype=np.float32) + np.float32(0.5)) * np.float32(valid / num_pixels)
    last = -(-valid * num_cells // padded) - 1
    places = (centres * np.float32(num_cells / padded) - np.float32(0.5)).clip(0, last)
    first = places.astype(np.int64)
    return first, (first + 1).clip(max=last), places - first


def main() -> int:
    """The command line; exit status 2 for what cannot be read."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("model", type=Path, help="the exported file")
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument(
        "--score-threshold", type=float, help="objects need so much; 0.5 for a model without its own"
    )
    parser.add_argument("--engine", default="auto", choices=["auto", "onnxruntime", "openvino"])
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"], help="of openvino")
    parser.add_argument("--draw", type=Path, metavar="DIR", help="where pictures with results go")
    arguments = parser.parse_args()
    options = {name: getattr(arguments, name) for name in ("score_threshold", "engine", "precision")}
    try:
        predictor = Predictor(arguments.model, **options)
        if arguments.score_threshold is None and predictor.operating_point is None:
            predictor.score_threshold = 0.5
        for path in arguments.pictures:
            image = predictor.read(path)
            found = predictor(image)
            print(json.dumps({"file": str(path), **found.to_dict()}), flush=True)
            if arguments.draw is not None:
                arguments.draw.mkdir(parents=True, exist_ok=True)
                write_picture(arguments.draw / f"{path.stem}.jpg", found.draw(image))
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
