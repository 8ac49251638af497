"""A data format of one's own: text files with a line an object, checked, trained on and converted.

`python examples/own_format.py FOLDER`, where FOLDER holds train.txt, val.txt and the images that they name. A line is
`image class x y width height`.
"""

import sys
from pathlib import Path

import numpy as np

from tasks.data.formats.convert import Split, convert
from tasks.data.formats.object_files import ObjectFiles
from tasks.data.formats.raw import RawSplit
from tasks.data.loading.storage import open_images
from tasks.data.quality.image_checks import image_size
from tasks.data.quality.report import examine
from tasks.data.splits import SplitName
from tasks.preprocessing import Preprocessing


class Lines(ObjectFiles):
    """Says where the files are and reads a split as it is written; checks come after it, the same for every format."""

    def __init__(self, root: str | Path, **options: object):
        super().__init__(root, **options)  # type: ignore[arg-type]

    def has_files(self, name: SplitName) -> bool:
        return (self.root / f"{name}.txt").is_file()

    def image_folder(self, name: SplitName) -> Path:
        return self.root

    def read(self, name: SplitName, *, masks: bool) -> RawSplit:
        rows = sorted(line.split() for line in (self.root / f"{name}.txt").read_text().splitlines())
        files = sorted({row[0] for row in rows})
        names = (self.root / "classes.txt").read_text().split()
        images = open_images(self.root, self.reading)
        return RawSplit.without_ids(
            name,
            str(self.root / f"{name}.txt"),
            self.root,
            class_names=names,
            category_ids=np.arange(len(names)),
            file_names=files,
            sizes=[image_size(images, file) for file in files],
            counts=[sum(row[0] == file for row in rows) for file in files],  # objects of each image
            categories=[row[1] for row in rows],
            labels=[names.index(row[1]) if row[1] in names else -1 for row in rows],
            boxes=np.array([row[2:] for row in rows], np.float64).reshape(-1, 4),
        )


if __name__ == "__main__":
    source = Lines(sys.argv[1])
    for finding in examine(source, Preprocessing()).findings:
        print(finding)
    splits = [Split(name, (s := source.split(name)).folder, s.annotations) for name in ("train", "val")]
    print(convert(splits, "coco", Path(sys.argv[1]) / "as_coco"))
