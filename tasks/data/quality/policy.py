"""`data.on_invalid`: stops at bad annotations and images, fixes them or drops them; the doctor's checks, obeyed."""

import logging
import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from tasks.data.annotations.objects import Annotations
from tasks.data.formats.raw import RawSplit
from tasks.data.progress import step
from tasks.data.quality.annotation_checks import MASK_FAULTS, AnnotationDiagnosis, diagnose_annotations
from tasks.data.quality.image_checks import CheckImages, ImageFile, check_image_files, file_lengths
from tasks.data.quality.issues import (
    BAD_AREA,
    COPIED,
    DUPLICATE_ID,
    DUPLICATE_IMAGE_ID,
    FEW_LEVELS,
    MISSING,
    NO_ANNOTATION,
    NO_MASK,
    NOT_FINITE,
    POLYGON_OUTSIDE,
    SAME_FILE,
    Issue,
    IssueReport,
    Remedy,
)
from tasks.data.quality.split_checks import same_files
from tasks.data.splits import SPLITS, SplitName

if TYPE_CHECKING:
    from tasks.data.formats.object_files import ObjectFiles

logger = logging.getLogger(__name__)

OnInvalid = Literal["error", "fix", "drop", "fix_few"]
NUM_EXAMPLES = 5
MANY = 50_000
"""Annotations, of which checking them takes long enough to be shown."""
FEW = 0.05
"""Share of the images or annotations of a split that may be bad where `fix_few` fixes them; or one of each."""


class BadData(ValueError):
    """Data that cannot be used as it is; `findings` has everything that is wrong, the message a few of it."""

    def __init__(self, message: str, findings: list[IssueReport]):
        super().__init__(message)
        self.findings = findings


@dataclass
class Diagnosis:
    """What is wrong with one split, looked at alone or beside others."""

    raw: RawSplit
    annotations: AnnotationDiagnosis
    files: list[ImageFile]
    """(I,)."""
    images: dict[Issue, dict[int, str]]
    """Bad images by issue and index, with the detail; an image is listed once."""
    warned: dict[Issue, dict[int, str]]
    """Images that may be bad."""
    is_kept: np.ndarray
    """(I,) bool: images that can be used."""

    @property
    def is_bad(self) -> bool:
        """Whether there is any error."""
        return bool(self.annotations.rows or self.images)

    @property
    def has_few_errors(self) -> bool:
        """Whether few of the images and few of the annotations are bad."""
        of_images = few(int((~self.is_kept).sum()), len(self.raw))
        return of_images and few(int(self.annotations.is_bad.sum()), len(self.raw.ids))

    def add(self, issue: Issue, image: int, detail: str) -> None:
        """Notes an issue of an image that has no other yet."""
        if issue.severity == "warning":
            self.warned.setdefault(issue, {})[image] = detail
        elif not any(image in of_issue for of_issue in self.images.values()):
            self.images.setdefault(issue, {})[image] = detail
            self.is_kept[image] = False

    def errors(self) -> list[IssueReport]:
        """Every error, images first, each in the order of the files."""
        return self.image_findings(self.images, "dropped") + self.annotation_findings()

    def warnings(self) -> list[IssueReport]:
        """Of images; no policy changes anything about them."""
        return self.image_findings(self.warned, "unchanged")

    def image_findings(self, issues: Mapping[Issue, Mapping[int, str]], remedy: Remedy) -> list[IssueReport]:
        """One finding for each of these images."""
        listed = sorted((i, issue, text) for issue, images in issues.items() for i, text in images.items())
        return [
            IssueReport(
                issue,
                self.raw.name,
                f"image {as_written(self.raw, 'images', self.raw.image_ids[i])} '{self.raw.file_names[i]}'",
                text,
                remedy,
                image_id=int(self.raw.image_ids[i]),
                file_name=self.raw.file_names[i],
            )
            for i, issue, text in listed
        ]

    def annotation_findings(self, rows: Mapping[Issue, np.ndarray] | None = None) -> list[IssueReport]:
        """One finding for each bad annotation, or for each of `rows`, about which nothing is done."""
        issues = self.annotations.rows if rows is None else rows
        listed = sorted((row, issue) for issue, found in issues.items() for row in found.tolist())
        return [
            self.annotation_finding(
                row,
                issue,
                "unchanged" if rows is not None else "fixed" if self.annotations.is_fixed[row] else "dropped",
            )
            for row, issue in listed
        ]

    def annotation_finding(self, row: int, issue: Issue, remedy: Remedy) -> IssueReport:
        """The finding of one annotation."""
        raw = self.raw
        image = int(raw.images[row])
        where = f"image {as_written(raw, 'images', raw.written_images[row])}"
        if image >= 0:
            height, width = raw.sizes[image]
            where += f", '{raw.file_names[image]}', {width} wide and {height} high"
        category = raw.written_categories[row].item()
        if not isinstance(category, str):
            category = as_written(raw, "categories", category)
        box = raw.boxes[row].tolist()
        named = f"category '{category}'" if isinstance(category, str) else f"category_id {category}"
        detail = named
        if not np.isnan(box).all():  # of a polygon that gives none
            detail += f", bbox x, y, width, height = {numbers(box)}"
        if issue is POLYGON_OUTSIDE:
            detail += f", polygons from {numbers(self.annotations.bounds[row].tolist())}"
        if issue is BAD_AREA:
            detail += f", area {raw.areas[row]:g}"
        if text := next((of_issue[row] for of_issue in raw.row_issues.values() if row in of_issue), ""):
            detail += f", {text}"
        return IssueReport(
            issue,
            raw.name,
            f"annotation {as_written(raw, 'annotations', raw.ids[row])} ({where})",
            detail,
            remedy,
            image_id=int(raw.written_images[row]),
            annotation_id=int(raw.ids[row]),
            category=category,
            file_name=raw.file_names[image] if image >= 0 else None,
            box=(box[0], box[1], box[2], box[3]),
            after_fix=self.after_fix(row, issue) if remedy == "fixed" else "",
        )

    def after_fix(self, row: int, issue: Issue) -> str:
        """What fixing made of an annotation, in words."""
        fixed = self.annotations.fixed
        if issue is DUPLICATE_ID:
            return f"id {fixed.ids[row]}"
        if issue in MASK_FAULTS:
            masks = self.annotations.masks
            has_others = masks is not None and masks.objects[row] is not None
            return "its other polygons" if has_others else "its box without a mask"
        if issue in (NOT_FINITE, BAD_AREA):
            return f"area {fixed.areas[row]:g}"
        return f"bbox {numbers(fixed.boxes[row].tolist())}"


def few(num_bad: int, num_all: int) -> bool:
    """Whether `fix_few` fixes so many."""
    return num_bad <= max(1, FEW * num_all)


def as_written(raw: RawSplit, kind: str, number: Any) -> Any:
    """An id in the file's own words; `kind` as in `Annotations.written_ids`."""
    return raw.written_ids.get(kind, {}).get(int(number), number) if raw.written_ids else number


def numbers(values: Sequence[float]) -> str:
    """Numbers as they are told in messages."""
    return ", ".join(f"{value:g}" for value in values)


def diagnose(raw: RawSplit, check_images: CheckImages, *, fingerprints: bool = False) -> Diagnosis:
    """Looks at a split alone: its annotations, the records of its images, and their files.

    Raises FileNotFoundError where there is no file of any image: the folder is the wrong one.
    """
    annotations = diagnose_annotations(raw)
    files = check_image_files(raw.storage, raw.file_names, raw.sizes, check_images, fingerprints=fingerprints)
    num_missing = sum(file.issue is MISSING for file in files)
    if num_missing == len(files):
        raise FileNotFoundError(
            f"none of the {len(files)} images that the annotations in '{raw.source}' name is in '{raw.folder}': "
            f"{', '.join(repr(name) for name in raw.file_names[:3])}{', …' if len(files) > 3 else ''}; restore them, "
            f"or name the right folder with {raw.folder_option}="
        )
    found = Diagnosis(raw, annotations, files, {}, {}, np.ones(len(raw), bool))
    first: dict[int, int] = {}
    for i, image_id in enumerate(raw.image_ids.tolist()):
        if (twin := first.setdefault(image_id, i)) != i:
            same = raw.file_names[twin] == raw.file_names[i]
            found.add(DUPLICATE_IMAGE_ID, i, f"for '{raw.file_names[twin]}'")
            # Of two files with one id, nothing says whose the annotations are.
            found.is_kept[twin] &= same
    for i, twin in repeated_files(raw):
        found.add(SAME_FILE, i, f"as image {as_written(raw, 'images', raw.image_ids[twin])}")
    for i, why in raw.unreadable.items():
        found.add(NO_ANNOTATION, i, why)
    for i, file in enumerate(files):
        if file.issue is not None:
            found.add(file.issue, i, file.detail)
        if file.few_levels:
            found.add(FEW_LEVELS, i, file.few_levels)
    return found


def repeated_files(raw: RawSplit) -> list[tuple[int, int]]:
    """Images whose file is that of an earlier one with other objects, which each would take for background: both by
    index. A list that names an image several times, to train on it more often, is right."""
    first: dict[str, int] = {}
    pairs = [(i, first.setdefault(posixpath.normpath(name), i)) for i, name in enumerate(raw.file_names)]
    pairs = [(i, twin) for i, twin in pairs if i != twin]
    if not pairs:
        return []
    columns = np.column_stack([raw.boxes, raw.labels])

    def objects_of(image: int) -> list[list[float]]:
        return sorted(columns[raw.images == image].tolist())

    return [(i, twin) for i, twin in pairs if objects_of(i) != objects_of(twin)]


def add_copies(diagnosis: Diagnosis, others: Sequence[RawSplit]) -> None:
    """Notes the files that are in one of the other splits too."""
    raw = diagnosis.raw
    lengths = {raw.name: [file.num_bytes for file in diagnosis.files]}
    lengths |= {other.name: file_lengths(other.storage, other.file_names) for other in others}
    stores = {split.name: split.storage for split in (raw, *others)}
    names = {split.name: split.file_names for split in (raw, *others)}
    by_name = {other.name: other for other in others}
    for i, name, j in same_files(raw.name, lengths, stores, names):
        other = by_name[name]
        diagnosis.add(COPIED, i, f"as '{other.file_names[j]}', image {other.image_ids[j]} of {name}")


def diagnose_beside(
    source: "ObjectFiles", name: SplitName, check_images: CheckImages, **options: bool
) -> Diagnosis:
    """`diagnose`, and files that are also in a split that comes later: training loses what is tested on."""
    raw = source.raw(name)
    if len(raw.ids) >= MANY:
        step("checking annotations", 0, 10)
    diagnosis = diagnose(raw, check_images, **options)
    if len(raw.ids) >= MANY:
        step("checking annotations", 10, 10)
    later = [source.raw(other) for other in SPLITS[SPLITS.index(name) + 1 :] if source.has_split(other)]
    # One annotation file for two splits is meant: whether a network can learn a few images by heart.
    later = [other for other in later if other.source != diagnosis.raw.source]
    if later and check_images != "none":
        add_copies(diagnosis, later)
    return diagnosis


def usable_annotations(
    source: "ObjectFiles", name: SplitName, on_invalid: OnInvalid, check_images: CheckImages
) -> Annotations:
    """The annotations of a split as `on_invalid` says. `error` raises `BadData` where anything is wrong; for the
    training split also what is wrong with that of validation, which training reads too. `fix_few` fixes where little is
    wrong, and is `error` where so much is that it has one cause."""
    diagnosis = diagnose_beside(source, name, check_images)
    asked = on_invalid
    if on_invalid == "fix_few":
        on_invalid = "fix" if diagnosis.has_few_errors else "error"
    if on_invalid == "error":
        beside: list[SplitName] = ["val"] if name == "train" and source.has_split("val") else []
        stop_at_errors([diagnosis, *(diagnose_beside(source, other, check_images) for other in beside)])
    for note in diagnosis.raw.notes:
        logger.warning("'%s': %s", diagnosis.raw.source, note)
    tell_few_levels(diagnosis)
    split, is_kept = diagnosis.raw, ~diagnosis.annotations.is_bad
    if on_invalid == "fix":
        split, is_kept = diagnosis.annotations.fixed, is_kept | diagnosis.annotations.is_fixed
    if diagnosis.is_bad:
        log_changes(diagnosis, on_invalid)
    if not diagnosis.is_kept.any():
        raise ValueError(
            f"'{split.source}': data.on_invalid={on_invalid} leaves none of its {len(split)} images: "
            f"{diagnosis.errors()[0]}; fix the files"
        )
    masks = diagnosis.annotations.masks
    if masks is not None and source.requires_masks:
        is_kept &= ~without_mask(diagnosis, is_kept, asked)
    if why := split.why_untrainable():
        logger.warning("'%s': nothing can be learned from the %s split: %s", split.source, name, why)
    return split.to_annotations(
        np.flatnonzero(is_kept), diagnosis.is_kept, None if masks is None else masks.objects
    )


def without_mask(diagnosis: Diagnosis, is_kept: np.ndarray, on_invalid: OnInvalid) -> np.ndarray:
    """(M,) bool: objects of those kept (M,) that have no mask and are no crowds, where others have one.

    Raises `BadData` for `error`; else says that they are dropped. Where no object has one, the task says so."""
    masks = diagnosis.annotations.masks
    assert masks is not None
    has_mask = np.array([mask is not None for mask in masks.objects], bool)
    none = is_kept & ~has_mask & ~diagnosis.raw.is_crowd
    if not none.any() or not has_mask.any():
        return np.zeros_like(none)
    raw = diagnosis.raw
    what = (
        f"'{raw.source}': {int(none.sum())} of {len(raw.ids)} objects have no mask, which instance segmentation would "
        "take for empty ones"
    )
    findings = diagnosis.annotation_findings({NO_MASK: np.flatnonzero(none)})
    if on_invalid == "error" or (on_invalid == "fix_few" and not few(int(none.sum()), len(raw.ids))):
        raise BadData(
            f"{what}: {'; '.join(map(str, findings[:NUM_EXAMPLES]))}{', …' if len(findings) > NUM_EXAMPLES else ''}. "
            "Add the masks, pass data.on_invalid=drop (leaves these objects out), or task=detection",
            findings,
        )
    logger.warning("%s; data.on_invalid=%s dropped these", what, on_invalid)
    return none


def tell_few_levels(diagnosis: Diagnosis) -> None:
    """Warns of images that keep few grey levels, by the first of them."""
    if few := diagnosis.warned.get(FEW_LEVELS):
        image, why = min(few.items())
        logger.warning(
            "'%s': %d of %d images keep few grey levels: '%s' %s",
            diagnosis.raw.source,
            len(few),
            len(diagnosis.raw),
            diagnosis.raw.file_names[image],
            why,
        )


def stop_at_errors(diagnoses: Sequence[Diagnosis]) -> None:
    """Raises `BadData`, which has all errors and names the first, if there is any."""
    findings = [finding for diagnosis in diagnoses for finding in diagnosis.errors()]
    if not findings:
        return
    bad = [d for d in diagnoses if d.is_bad]
    num_images = sum(f.annotation_id is None for f in findings)
    counts = [
        f"{count} of {total} {things}"
        for count, total, things in (
            (num_images, sum(len(d.raw) for d in bad), "images"),
            (len(findings) - num_images, sum(len(d.raw.ids) for d in bad), "annotations"),
        )
        if count
    ]
    more = f"; and {len(findings) - NUM_EXAMPLES} more" if len(findings) > NUM_EXAMPLES else ""
    raise BadData(
        f"{' and '.join(repr(d.raw.source) for d in bad)}: {' and '.join(counts)} cannot be used: "
        f"{'; '.join(map(str, findings[:NUM_EXAMPLES]))}{more}. Fix the files (vertebra check-data lists all), or "
        "pass data.on_invalid=fix (fixes what can be fixed, clips boxes to their image, drops the rest) or "
        "data.on_invalid=drop (leaves these out)",
        findings,
    )


def log_changes(diagnosis: Diagnosis, on_invalid: OnInvalid) -> None:
    """Says how many of what were fixed and dropped, and why; each of them on a line of its own at level INFO."""
    raw, errors = diagnosis.raw, diagnosis.errors()
    remedies = ["dropped" if on_invalid == "drop" else finding.remedy for finding in errors]
    of_annotations = [
        r for r, finding in zip(remedies, errors, strict=True) if finding.annotation_id is not None
    ]
    num_dropped = int((~diagnosis.is_kept).sum())
    reasons = Counter((r, finding.issue) for r, finding in zip(remedies, errors, strict=True))
    logger.warning(
        "'%s': data.on_invalid=%s fixed %d and dropped %d of %d annotations%s: %s",
        raw.source,
        on_invalid,
        of_annotations.count("fixed"),
        of_annotations.count("dropped"),
        len(raw.ids),
        f" and dropped {num_dropped} of {len(raw)} images" if num_dropped else "",
        ", ".join(f"{count} {remedy} because {issue.text}" for (remedy, issue), count in reasons.items()),
    )
    for remedy, finding in zip(remedies, errors, strict=True):
        became = f"; becomes {finding.after_fix}" if remedy == "fixed" else ""
        logger.info("%s %s%s", remedy, finding, became)


def check_on_invalid(on_invalid: str) -> None:
    """Raises ValueError for a word that is no policy."""
    if on_invalid not in get_args(OnInvalid):
        raise ValueError(
            f"data.on_invalid={on_invalid} is unknown; wanted one of {', '.join(get_args(OnInvalid))}"
        )
