"""Pascal VOC's XML files without its folders: beside the images, or in a folder of any name, as LabelImg writes them.

An image is one that has an XML file of its name; Roboflow's exports in VOC's format are such.
"""

from pathlib import Path

from tasks.data.formats.labelled import LabelledFiles, Labels, file_by_file
from tasks.data.formats.voc import read_xml
from tasks.data.loading.storage import ImageStorage, open_images


class XmlData(LabelledFiles):
    """Boxes of the images that have an XML file."""

    in_folders = True
    crowds = "difficult"

    def parse(self, annotations: Path, storage: ImageStorage) -> Labels:
        labels, store = Labels(), open_images(annotations, self.reading)
        for path, image, _ in file_by_file(labels, annotations, store, ".xml", storage):
            try:
                read_xml(path, storage, image)
            except (FileNotFoundError, ValueError) as error:
                image.unreadable = image.unreadable or str(error)
        return labels
