"""The doctor for objects: looks at all splits of a data set, by themselves and beside each other; changes nothing."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from tasks.data.formats.object_files import ObjectFiles
from tasks.data.formats.raw import RawSplit
from tasks.data.loading.storage import ImageStorage
from tasks.data.quality.issues import (
    ALL_CROWD,
    COPIED,
    DIFFERENT_CATEGORIES,
    NEARLY_COPIED,
    NO_MASK,
    NOTHING_TO_LEARN,
    ONE_SPLIT_CATEGORY,
    UNREADABLE_SPLIT,
    UNUSED_CATEGORY,
    VANISHING,
    IssueReport,
)
from tasks.data.quality.policy import Diagnosis, add_copies, diagnose
from tasks.data.quality.split_checks import near_pictures
from tasks.data.splits import SPLITS
from tasks.preprocessing import Preprocessing

VANISHING_SIDE = 1.0
"""Pixels of the resized image."""


@dataclass(frozen=True)
class Examined:
    """A split that could be read."""

    num_images: int
    class_names: list[str]
    storage: ImageStorage
    objects: RawSplit | None = None
    """Its annotations, where they are objects."""

    @property
    def notes(self) -> list[str]:
        """What was read otherwise than it is written, in words."""
        return [] if self.objects is None else self.objects.notes


@dataclass
class Report:
    """What the doctor found."""

    findings: list[IssueReport]
    """Errors and warnings, split by split."""
    splits: dict[str, Examined]
    """Those that could be read."""

    @property
    def has_policy(self) -> bool:
        """Whether `data.on_invalid` can say what is done about what is wrong."""
        return any(split.objects is not None for split in self.splits.values())

    @property
    def has_errors(self) -> bool:
        """Whether any finding is an error."""
        return any(finding.issue.severity == "error" for finding in self.findings)


def examine(source: ObjectFiles, preprocessing: Preprocessing) -> Report:
    """Every issue of every split that `source` declares. Decodes every image.

    Raises ValueError where there is no split at all.
    """
    findings: list[IssueReport] = []
    raws: dict[str, RawSplit] = {}
    diagnoses: dict[str, Diagnosis] = {}
    declared = source.expected_splits()
    if not declared:
        source.raw("train")  # says what is missing
    for name in declared:
        try:
            raws[name] = source.raw(name, segmentations=True)
            diagnoses[name] = diagnose(raws[name], "decode", fingerprints=True)
        except (FileNotFoundError, ValueError) as error:
            findings.append(IssueReport(UNREADABLE_SPLIT, name, f"split {name}", str(error)))
    for name, diagnosis in diagnoses.items():
        later = [d.raw for other, d in diagnoses.items() if SPLITS.index(other) > SPLITS.index(name)]
        add_copies(diagnosis, [raw for raw in later if raw.source != diagnosis.raw.source])
    add_near_copies(diagnoses)
    for diagnosis in diagnoses.values():
        findings += diagnosis.errors() + diagnosis.warnings()
        findings += diagnosis.annotation_findings({VANISHING: vanishing(diagnosis, preprocessing)})
        findings += mask_findings(diagnosis)
        if why := diagnosis.raw.why_untrainable():
            findings.append(
                IssueReport(NOTHING_TO_LEARN, diagnosis.raw.name, f"split {diagnosis.raw.name}", why)
            )
    findings += different_categories(raws)
    findings += category_findings(raws)
    splits = {name: Examined(len(raw), raw.class_names, raw.storage, raw) for name, raw in raws.items()}
    return Report(findings, splits)


def add_near_copies(diagnoses: Mapping[str, Diagnosis]) -> None:
    """Notes pictures that are nearly those of another split, with the split that comes first."""
    known = {name: diagnosis.images.get(COPIED, {}) for name, diagnosis in diagnoses.items()}
    for a, i, b, j in near_pictures({name: d.files for name, d in diagnoses.items()}):
        other = diagnoses[b].raw
        if i not in known[a] and other.source != diagnoses[a].raw.source:
            detail = f"as '{other.file_names[j]}', image {other.image_ids[j]} of {b}"
            diagnoses[a].add(NEARLY_COPIED, i, detail)


def mask_findings(diagnosis: Diagnosis) -> list[IssueReport]:
    """Objects without a mask in a split of which others have one."""
    masks, raw = diagnosis.annotations.masks, diagnosis.raw
    if masks is None:
        return []
    has_mask = np.array([mask is not None for mask in masks.objects], bool)
    rows = np.flatnonzero(~has_mask & ~raw.is_crowd & ~diagnosis.annotations.is_bad)
    return diagnosis.annotation_findings({NO_MASK: rows}) if has_mask.any() else []


def vanishing(diagnosis: Diagnosis, preprocessing: Preprocessing) -> np.ndarray:
    """Rows of good annotations whose boxes get narrower or lower than a pixel when their image is resized."""
    raw = diagnosis.raw
    good = np.append(diagnosis.is_kept & (raw.sizes.min(axis=1, initial=1) > 0), False)
    rows = np.flatnonzero(~diagnosis.annotations.is_bad & good[raw.images])
    sizes = raw.sizes.clip(1)
    resized = np.array([preprocessing.output_size(height, width) for height, width in sizes.tolist()])
    scale = (resized / sizes)[:, ::-1]
    sides = raw.boxes[rows, 2:] * scale[raw.images[rows]]
    return rows[sides.min(axis=1, initial=np.inf) < VANISHING_SIDE]


def different_categories(raws: Mapping[str, RawSplit]) -> Iterator[IssueReport]:
    """Categories that not every split declares with the same id and name."""
    declared = {
        name: set(zip(raw.category_ids.tolist(), raw.class_names, strict=True)) for name, raw in raws.items()
    }
    for category_id, class_name in sorted(set().union(*declared.values())):
        has = [name for name, pairs in declared.items() if (category_id, class_name) in pairs]
        if len(has) < len(raws):
            yield IssueReport(
                DIFFERENT_CATEGORIES,
                ", ".join(has),
                f"category {category_id} '{class_name}'",
                f"declared in {', '.join(has)} alone",
                category=category_id,
            )


def category_findings(raws: Mapping[str, RawSplit]) -> Iterator[IssueReport]:
    """Categories that no split has objects of, or only one."""
    counts = {
        name: Counter(raw.class_names[label] for label in raw.labels.tolist() if label >= 0)
        for name, raw in raws.items()
    }
    ids = {
        name: category_id
        for raw in raws.values()
        for name, category_id in zip(raw.class_names, raw.category_ids.tolist(), strict=True)
    }
    for name, raw in raws.items():
        known = Counter(raw.labels[raw.is_trainable].tolist())
        for label, count in sorted(Counter(raw.labels[raw.labels >= 0].tolist()).items()):
            if not known[label] and raw.is_trainable.any():
                category_id, class_name = int(raw.category_ids[label]), raw.class_names[label]
                yield IssueReport(
                    ALL_CROWD,
                    name,
                    f"category {category_id} '{class_name}'",
                    f"{count} {raw.crowds}",
                    category=category_id,
                )
    with_objects = [name for name, count in counts.items() if count]
    for class_name, category_id in ids.items():
        has = [name for name in with_objects if counts[name][class_name]]
        found = IssueReport(
            UNUSED_CATEGORY, ", ".join(raws), f"category {category_id} '{class_name}'", category=category_id
        )
        if not has:
            yield found
        elif len(has) == 1 and len(with_objects) > 1:
            detail = f"{counts[has[0]][class_name]} in {has[0]}"
            yield replace(found, issue=ONE_SPLIT_CATEGORY, split=has[0], detail=detail)
