"""CIFAR-10 from one packed file: every image a small JPEG, all of them end to end in an `.npz`.

data      uint8, all JPEG files end to end
offsets   (I + 1,) int: image i is data[offsets[i] : offsets[i + 1]]
labels    (I,) int in 0 … K-1
split     (I,) int: 0 train, 1 test
names     (K,) text: the classes
"""

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from tasks.data.annotations.image_labels import ImageLabels
from tasks.data.loading.images import to_rgb
from tasks.data.sources import LabelSource
from tasks.data.splits import Split, SplitName

MEMBERS = ("data", "offsets", "labels", "split", "names")


class PackedSplit(Split[ImageLabels]):
    """Some of the images of a packed file, decoded when asked for."""

    def __init__(self, data: np.ndarray, offsets: np.ndarray, rows: np.ndarray, annotations: ImageLabels):
        super().__init__(annotations)
        self.data = data
        self.offsets = offsets
        self.rows = rows

    def image(self, index: int) -> np.ndarray:
        """uint8 (H, W, 3) RGB. Raises ValueError, with the image's number, where it cannot be decoded."""
        row = self.rows[index]
        packed = self.data[self.offsets[row] : self.offsets[row + 1]]
        try:
            with Image.open(io.BytesIO(packed.tobytes())) as image:
                return to_rgb(image)
        except (OSError, ValueError, SyntaxError, UnidentifiedImageError) as error:
            raise ValueError(f"image {row} of data.file is damaged ({error}); get the file again") from error


class Cifar10Data(LabelSource):
    """The 50,000 training images, and the 10,000 test images as both `val` and `test`: the paper and
    everyone after it report errors on them, and there is no third split."""

    def __init__(self, file: str | Path) -> None:
        """`file` is the packed file. Raises FileNotFoundError or ValueError where it is not one."""
        super().__init__()
        self.file = Path(file)
        if not self.file.is_file():
            raise FileNotFoundError(f"data.file={file} does not exist; give the packed .npz of CIFAR-10")
        self._arrays = read_packed(self.file)

    @property
    def class_names(self) -> list[str]:
        """Names by label."""
        return [str(name) for name in self._arrays["names"]]

    def read_split(self, name: SplitName) -> Split[ImageLabels]:
        """The split; `val` and `test` are the same."""
        rows = np.flatnonzero(self._arrays["split"] == (0 if name == "train" else 1))
        annotations = ImageLabels(
            class_names=self.class_names,
            category_ids=self.category_ids,
            image_ids=rows,
            labels=self._arrays["labels"][rows].astype(np.int64),
            file_names=np.array([f"{row:05d}.jpg".encode() for row in rows]),
        )
        return PackedSplit(self._arrays["data"], self._arrays["offsets"], rows, annotations)


def read_packed(path: Path) -> dict[str, np.ndarray]:
    """The arrays of the file, by name; `data` stays on disk (mapped) unless it is compressed.

    Raises:
        ValueError: no such arrays in it, or arrays that do not fit each other.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            if missing := [name for name in MEMBERS if f"{name}.npy" not in names]:
                raise ValueError(
                    f"{path} lacks the arrays {', '.join(missing)}; wanted an .npz with {', '.join(MEMBERS)}"
                )
            arrays = {name: _read(path, archive, f"{name}.npy") for name in MEMBERS}
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise ValueError(f"{path} is no readable .npz file ({error}); get it again") from None
    kinds = {name: arrays[name].dtype.kind for name in MEMBERS}
    if (
        any(kinds[name] not in "iu" for name in ("offsets", "labels", "split"))
        or arrays["data"].dtype != np.uint8
        or kinds["names"] != "U"
        or any(array.ndim != 1 for array in arrays.values())
    ):
        found = ", ".join(f"{name} {arrays[name].dtype} {arrays[name].shape}" for name in MEMBERS)
        raise ValueError(
            f"{path} holds {found}; wanted flat arrays: data of uint8, names of text, the others of integers"
        )
    arrays["offsets"] = arrays["offsets"].astype(
        np.int64
    )  # differences of unsigned ones would never be negative
    num_images, offsets = len(arrays["labels"]), arrays["offsets"]
    fits = (
        len(offsets) == num_images + 1
        and offsets[0] >= 0
        and len(arrays["split"]) == num_images
        and (np.diff(offsets) > 0).all()
        and offsets[-1] <= len(arrays["data"])
        and (num_images == 0 or 0 <= arrays["labels"].min() <= arrays["labels"].max() < len(arrays["names"]))
    )
    if not fits:
        raise ValueError(
            f"{path} is damaged: {num_images} labels, {len(offsets)} ascending offsets (one more wanted), "
            f"{len(arrays['split'])} marks of the split and labels below {len(arrays['names'])} do not fit "
            "each other; get it again"
        )
    return arrays


def _read(path: Path, archive: zipfile.ZipFile, member: str) -> np.ndarray:
    """One array: mapped where the archive stores it as it is, so that workers share it; else read."""
    info = archive.getinfo(member)
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read_header = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, fortran_order, dtype = read_header(file)
        if dtype.hasobject:
            raise ValueError(
                f"{path} holds Python objects in {member}, which could run code; pack it as numbers and text"
            )
        header_size = file.tell()
        if info.compress_type != zipfile.ZIP_STORED or fortran_order or 0 in shape:
            file.seek(0)
            return np.lib.format.read_array(file, allow_pickle=False)
    with open(path, "rb") as file:
        file.seek(info.header_offset + 26)  # the archive's own header: 30 bytes, name, extra field
        name_size, extra_size = np.frombuffer(file.read(4), "<u2").tolist()
    start = info.header_offset + 30 + name_size + extra_size + header_size
    return np.memmap(path, dtype, "r", start, shape)
