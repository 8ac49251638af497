"""Pascal VOC's XML files without its folders: beside the images, or in a folder of any name, as LabelImg writes them.

An image is one that has an XML file of its name; Roboflow's exports in VOC's format are such.
"""

from pathlib import Path

from tasks.data.formats.file_names import pair_names
from tasks.data.formats.labelled import LabelledFiles, LabelledImage, LabelledObject, Labels
from tasks.data.formats.voc import read_xml_file
from tasks.data.loading.storage import ImageStorage, image_names, open_images
from tasks.data.quality.image_checks import image_size
from tasks.data.quality.issues import BAD_CROWD


class XmlData(LabelledFiles):
    """Boxes of the images that have an XML file."""

    in_folders = True
    crowds = "difficult"

    def parse(self, annotations: Path, folder: Path, storage: ImageStorage) -> Labels:
        labels = Labels([])
        files = [
            name for name in open_images(annotations, self.reading).names() if name.lower().endswith(".xml")
        ]
        images = image_names(storage)
        image_of, shared = pair_names(files, images)
        for file in files:
            image = LabelledImage(image_of.get(file, file[:-4] + ".jpg"), unreadable=shared.get(file, ""))
            labels.images.append(image)
            try:
                found = read_xml_file(annotations / file, storage, image.file)
            except (FileNotFoundError, ValueError) as error:
                image.unreadable = image.unreadable or str(error)
                image.size = image_size(storage, image.file)
                continue
            image.size = found.size
            image.objects = [
                LabelledObject(
                    name,
                    box,
                    is_crowd=bool(found.is_difficult[row]),
                    issue=(BAD_CROWD, found.unclear[row]) if row in found.unclear else None,
                )
                for row, (name, box) in enumerate(zip(found.names, found.boxes.tolist(), strict=True))
            ]
        if not files:
            labels.looked_for = f"there is no XML file in '{annotations}'"
        return labels
