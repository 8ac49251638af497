"""Resizing inside of a graph and in the runtime against OpenCV's, byte by byte."""

import numpy as np
import pytest

from tasks.data.loading.collate import batch_images
from tasks.export.pixels import check_preprocessing, pixels_onnx
from tasks.export.runtime import pad, resize
from tasks.preprocessing import Preprocessing

onnxruntime = pytest.importorskip("onnxruntime")
SHAPES = [(480, 640), (1, 1), (31, 33), (333, 500), (640, 427), (900, 31), (97, 97), (194, 400)]
SETTINGS = [
    Preprocessing(),
    Preprocessing(short_side=97, max_size=200, pad_multiple=1),
    Preprocessing(short_side=None, pad_multiple=64),
    Preprocessing(short_side=90, center_crop=77),
]


@pytest.mark.parametrize("preprocessing", SETTINGS, ids=lambda p: f"{p.short_side}-{p.center_crop}")
def test_no_byte_differs(preprocessing: Preprocessing) -> None:
    model = pixels_onnx(preprocessing, 10, 20)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    generator = np.random.default_rng(0)
    for height, width in SHAPES:
        pictures = generator.integers(0, 256, (2, height, width, 3), np.uint8)
        expected = batch_images(list(pictures), preprocessing)
        images, sizes, scale = session.run(None, {"pictures": pictures})
        np.testing.assert_array_equal(images, expected.images.numpy())
        np.testing.assert_array_equal(sizes, expected.sizes.numpy())
        ratio = (expected.original_sizes / expected.sizes)[0].flip(0).repeat(2)
        np.testing.assert_array_equal(scale, ratio.numpy())
        np.testing.assert_array_equal(
            pad([resize(p, preprocessing) for p in pictures], preprocessing), expected.images.numpy()
        )


def test_sizes_are_rounded_as_python_rounds_them() -> None:
    """Of every height that comes out a pixel short of the wanted one in double precision, too."""
    preprocessing = Preprocessing(short_side=800, max_size=1333)
    session = onnxruntime.InferenceSession(pixels_onnx(preprocessing, 10, 20).SerializeToString())
    odd = [n for n in range(1, 3000) if int(n * (800 / n)) != 800][:5]
    assert odd
    for side in odd:
        picture = np.zeros((1, side, 1, 3), np.uint8)
        _, sizes, _ = session.run(["images", "sizes", "scale"], {"pictures": picture.transpose(0, 2, 1, 3)})
        assert tuple(sizes[0]) == preprocessing.output_size(1, side)


def test_antialiasing_is_pillows_in_the_runtime_and_refused_in_a_graph() -> None:
    preprocessing = Preprocessing(short_side=90, center_crop=77, antialias=True)
    picture = np.random.default_rng(0).integers(0, 256, (200, 301, 3), np.uint8)
    np.testing.assert_array_equal(
        pad([resize(picture, preprocessing)], preprocessing), batch_images([picture], preprocessing).images
    )
    with pytest.raises(ValueError, match="give input=network"):
        check_preprocessing(preprocessing)
