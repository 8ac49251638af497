"""The doctor for images of one class each and for class maps: every picture and every mask is read, the splits are
looked at beside each other, and nothing is changed."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from tasks.data.annotations.class_maps import ClassMaps
from tasks.data.annotations.image_labels import ImageLabels
from tasks.data.quality.image_checks import (
    ImageFile,
    check_image_files,
    digest,
    file_lengths,
    image_size,
    in_threads,
)
from tasks.data.quality.issues import (
    COPIED,
    EMPTY_MASK,
    FEW_LEVELS,
    NEARLY_COPIED,
    ONE_SPLIT_CATEGORY,
    TWO_CLASSES,
    UNREADABLE_SPLIT,
    UNUSABLE_MASK,
    UNUSED_CATEGORY,
    Issue,
    IssueReport,
)
from tasks.data.quality.report import Examined, Report
from tasks.data.quality.split_checks import near_pictures, same_files
from tasks.data.sources import ClassMapSource, LabelSource
from tasks.data.splits import FileSplit


@dataclass
class Pictures:
    """One split with what is wrong with its images."""

    split: FileSplit[ImageLabels] | FileSplit[ClassMaps]
    files: list[ImageFile]
    """(I,)."""
    counts: np.ndarray
    """(K,) images, or pixels, of each class."""
    issues: list[tuple[int, Issue, str]] = field(default_factory=list[tuple[int, Issue, str]])
    """Image by index, and the detail."""

    @cached_property
    def names(self) -> list[str]:
        """(I,) relative to the split's folder."""
        return [self.split.annotations.file_name(i) for i in range(len(self.split))]


def examine_pictures(source: LabelSource | ClassMapSource) -> Report:
    """Every issue of every split that `source` declares. Decodes every image and every mask.

    Raises ValueError where the pictures are in no files of their own, or there is no split at all.
    """
    findings: list[IssueReport] = []
    splits: dict[str, Pictures] = {}
    declared = source.expected_splits()
    if not declared:
        source.split("train")  # says what is missing
    for name in declared:
        try:
            split = source.unchecked_split(name) if isinstance(source, ClassMapSource) else source.split(name)
        except (FileNotFoundError, ValueError) as error:
            findings.append(IssueReport(UNREADABLE_SPLIT, name, f"split {name}", str(error)))
            continue
        if not isinstance(split, FileSplit):
            source.with_files()  # says that there are none
        assert isinstance(split, FileSplit)
        splits[name] = examine_split(split, len(source.class_names))
    add_copies(splits)
    for name, pictures in splits.items():
        for i, issue, detail in sorted(pictures.issues, key=lambda found: found[0]):
            file = pictures.names[i]
            findings.append(
                IssueReport(issue, name, f"image {i} '{file}'", detail, image_id=i, file_name=file)
            )
    findings += class_findings(source, splits)
    examined = {
        name: Examined(len(pictures.split), source.class_names, storage=pictures.split.storage)
        for name, pictures in splits.items()
    }
    return Report(findings, examined)


def examine_split(split: FileSplit[ImageLabels] | FileSplit[ClassMaps], num_classes: int) -> Pictures:
    """The split with what is wrong with each of its images alone."""
    pictures = Pictures(split, [], np.zeros(num_classes, np.int64))
    sizes = np.zeros((len(split), 2), np.int64)
    pictures.files = check_image_files(split.storage, pictures.names, sizes, "decode", fingerprints=True)
    for i, file in enumerate(pictures.files):
        if file.issue is not None:
            pictures.issues.append((i, file.issue, file.detail))
        if file.few_levels:
            pictures.issues.append((i, FEW_LEVELS, file.few_levels))
    if isinstance(split.annotations, ImageLabels):
        pictures.counts += np.bincount(split.annotations.labels, minlength=num_classes)
        pictures.issues += in_two_classes(pictures, split.annotations)
    else:
        for i, (counts, issue, detail) in enumerate(
            in_threads(mask_check(pictures), list(range(len(split))))
        ):
            pictures.counts += counts
            if issue is not None:
                pictures.issues.append((i, issue, detail))
    return pictures


def in_two_classes(pictures: Pictures, labels: ImageLabels) -> Iterator[tuple[int, Issue, str]]:
    """Images whose file is, byte by byte, also in the folder of another class; the later one of each pair."""
    names, store = pictures.names, pictures.split.storage
    of_length: dict[int, list[int]] = defaultdict(list)
    for i, length in enumerate(file_lengths(store, names)):
        of_length[length].append(i)
    for same_length in of_length.values():
        first: dict[bytes, int] = {}
        for i in same_length if len(same_length) > 1 else ():
            content = digest(store, names[i])
            twin = first.setdefault(content, i)
            if content and labels.labels[twin] != labels.labels[i]:
                yield i, TWO_CLASSES, f"as '{names[twin]}'"


def mask_check(pictures: Pictures) -> Callable[[int], tuple[np.ndarray, Issue | None, str]]:
    """What reads the class map of an image: pixels of each class, and what is wrong with the mask, in words."""
    maps, num_classes = pictures.split.annotations, len(pictures.counts)
    assert isinstance(maps, ClassMaps)

    def check(index: int) -> tuple[np.ndarray, Issue | None, str]:
        none = np.zeros(num_classes, np.int64)
        try:
            class_map = maps.read(index)
        except (FileNotFoundError, ValueError) as error:
            return none, UNUSABLE_MASK, str(error)
        (height, width), of_image = class_map.shape, image_size(pictures.split.storage, pictures.names[index])
        if min(of_image) > 0 and (height, width) != of_image:
            detail = f"{width} wide and {height} high, its image {of_image[1]} wide and {of_image[0]} high"
            return none, UNUSABLE_MASK, detail
        counts = np.bincount(class_map.ravel(), minlength=num_classes)[:num_classes]
        return counts, None if counts.any() else EMPTY_MASK, ""

    return check


def add_copies(splits: dict[str, Pictures]) -> None:
    """Notes pictures that are in a later split as well, or nearly, with the earlier one."""
    names = {name: pictures.names for name, pictures in splits.items()}
    stores = {name: pictures.split.storage for name, pictures in splits.items()}
    lengths = {name: file_lengths(stores[name], names[name]) for name in splits}
    order = list(splits)
    known: set[tuple[str, int]] = set()
    for name in splits:
        for i, other, j in same_files(name, lengths, stores, names):
            if order.index(other) > order.index(name) and (name, i) not in known:
                known.add((name, i))
                splits[name].issues.append((i, COPIED, f"as '{names[other][j]}', image {j} of {other}"))
    for name, i, other, j in near_pictures({name: pictures.files for name, pictures in splits.items()}):
        if (name, i) not in known:
            known.add((name, i))
            splits[name].issues.append((i, NEARLY_COPIED, f"as '{names[other][j]}', image {j} of {other}"))


def class_findings(
    source: LabelSource | ClassMapSource, splits: dict[str, Pictures]
) -> Iterator[IssueReport]:
    """Classes that occur in no split, or in one alone."""
    what = "pixels" if isinstance(source, ClassMapSource) else "images"
    for label, name in enumerate(source.class_names):
        counts = {split: int(pictures.counts[label]) for split, pictures in splits.items()}
        has = [split for split, count in counts.items() if count]
        subject = f"class {label} '{name}'"
        if not has and counts:
            yield IssueReport(UNUSED_CATEGORY, ", ".join(counts), subject, category=name)
        elif len(has) == 1 and len(counts) > 1:
            detail = f"{counts[has[0]]} {what} in {has[0]}"
            yield IssueReport(ONE_SPLIT_CATEGORY, has[0], subject, detail, category=name)
