"""Everything that can be wrong with a data set, and `IssueReport`: one thing that is, with its ids."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

Severity = Literal["error", "warning"]
Remedy = Literal["fixed", "dropped", "unchanged"]


class Issue(NamedTuple):
    """A kind of issue. An error cannot be trained on, or teaches or measures something false; a warning may be
    meant, and no policy changes what it is about."""

    name: str
    severity: Severity
    text: str
    """What is said of an annotation, an image or a category that has it."""


# Of single annotations, in the order in which they are looked for: an annotation is told by its first.
UNKNOWN_IMAGE = Issue("unknown image", "error", "its image_id points nowhere")
UNKNOWN_CATEGORY = Issue("undeclared category", "error", "its category is not declared")
DUPLICATE_ID = Issue("duplicate annotation id", "error", "its id occurs before")
NOT_FINITE = Issue("not finite", "error", "its bbox or area is not made of finite numbers")
DEGENERATE = Issue("degenerate box", "error", "its width or height is zero")
CORNERS = Issue(
    "corners for extents", "error", "its bbox holds two corners where x, y, width, height are meant"
)
REVERSED = Issue(
    "wrong corner order", "error", "its corners are in the wrong order, its width or height negative"
)
FRACTIONS = Issue("normalised box", "error", "its box is in fractions of the image, not in pixels")
PIXELS = Issue("box not normalised", "error", "its box is in pixels where fractions of the image are meant")
BAD_CROWD = Issue("unclear crowd flag", "error", "its crowd flag is neither 0 nor 1")
WRONG_COLUMNS = Issue("wrong number of columns", "error", "its line is neither a box nor a polygon")
BAD_AREA = Issue("area not positive", "error", "its area is zero or negative")
NEGATIVE = Issue("negative coordinates", "error", "its box begins at negative coordinates")
OUTSIDE = Issue("box outside image", "error", "its box leaves the image")
BAD_SEGMENTATION = Issue("bad segmentation", "error", "its segmentation is neither polygons nor run lengths")
RUNS_OF_OTHER_SIZE = Issue(
    "run lengths of other size", "error", "its run lengths are of another size than its image"
)
FEW_POINTS = Issue("polygon of few points", "error", "a polygon of its has fewer than three points")
ODD_POLYGON = Issue("polygon of odd count", "error", "a polygon of its has an odd count of numbers")
POLYGON_OUTSIDE = Issue("polygon outside box", "error", "its polygons leave its box")
NO_MASK = Issue("object without mask", "error", "it has no mask, and others of its split have one")
DUPLICATE = Issue("duplicate annotation", "error", "it repeats an earlier annotation of its image")
# Of images.
DUPLICATE_IMAGE_ID = Issue("duplicate image id", "error", "its id is declared before")
SAME_FILE = Issue("file listed twice", "error", "its file is listed before, with other objects")
NO_ANNOTATION = Issue("annotation unreadable", "error", "its annotation cannot be read")
MISSING = Issue("file missing", "error", "its file is missing")
UNREADABLE = Issue("file unreadable", "error", "its file is no image that can be read")
OUTSIDE_FILE = Issue("file outside data set", "error", "its file is not in the data set")
TRUNCATED = Issue("file truncated", "error", "its file is truncated or damaged")
OTHER_SIZE = Issue("other image size", "error", "its file is of another size than declared")
EXIF_IGNORED = Issue(
    "EXIF rotation ignored", "error", "its declared size ignores the EXIF rotation of its file"
)
EXIF_ROTATED = Issue("EXIF rotation", "warning", "its file is turned by EXIF, which some tools ignore")
FEW_LEVELS = Issue("few grey levels", "warning", "its values have most likely another range than is read")
TWO_CLASSES = Issue("same picture in two classes", "error", "its file is also in another class")
UNUSABLE_MASK = Issue("mask unusable", "error", "its mask cannot be used")
EMPTY_MASK = Issue("nothing in the mask", "warning", "every pixel of its mask is ignored")
# Of several splits.
COPIED = Issue("same picture in two splits", "error", "its file is also in another split")
NEARLY_COPIED = Issue("near copy in two splits", "warning", "its picture is much like one of another split")
# Of categories, and of objects as they are trained on.
UNUSED_CATEGORY = Issue("unused category", "warning", "nothing is of it")
ONE_SPLIT_CATEGORY = Issue("category in one split only", "warning", "it occurs in one split alone")
VANISHING = Issue("vanishes at training size", "warning", "it is smaller than a pixel at the training size")
ALL_CROWD = Issue(
    "category of crowds alone", "warning", "nothing of it can be learned: every object of it is a crowd"
)
# Of a split as a whole.
NOTHING_TO_LEARN = Issue("nothing to learn from", "warning", "it has not one object that can be learned")
UNREADABLE_SPLIT = Issue("split unreadable", "error", "it cannot be read")
DIFFERENT_CATEGORIES = Issue("categories differ", "error", "not every split declares it")

ISSUES = (
    UNREADABLE_SPLIT, NOTHING_TO_LEARN, DIFFERENT_CATEGORIES, DUPLICATE_IMAGE_ID, SAME_FILE, NO_ANNOTATION, MISSING,
    OUTSIDE_FILE,
    UNREADABLE, TRUNCATED, OTHER_SIZE, EXIF_IGNORED, COPIED, UNUSABLE_MASK, TWO_CLASSES,
    UNKNOWN_IMAGE, UNKNOWN_CATEGORY, DUPLICATE_ID, BAD_CROWD,
    WRONG_COLUMNS, NOT_FINITE, DEGENERATE, CORNERS, REVERSED, FRACTIONS, PIXELS, NEGATIVE, OUTSIDE, BAD_AREA,
    BAD_SEGMENTATION, RUNS_OF_OTHER_SIZE, FEW_POINTS, ODD_POLYGON, POLYGON_OUTSIDE, NO_MASK, DUPLICATE, EXIF_ROTATED,
    FEW_LEVELS, EMPTY_MASK, NEARLY_COPIED, UNUSED_CATEGORY, ONE_SPLIT_CATEGORY, ALL_CROWD, VANISHING,
)  # fmt: skip
"""In the order of a report."""


@dataclass(frozen=True)
class IssueReport:
    """One issue where it is; the ids are the data set's own, None where the issue is not of such a thing."""

    issue: Issue
    split: str
    subject: str
    """What has the issue, in words, with its ids and its file."""
    detail: str = ""
    """The numbers that are wrong."""
    remedy: Remedy = "unchanged"
    """What `data.on_invalid=fix` does about it."""
    image_id: int | None = None
    annotation_id: int | None = None
    category: int | str | None = None
    file_name: str | None = None
    after_fix: str = ""
    """What fixing makes of it, in words."""
    box: tuple[float, float, float, float] | None = None
    """x, y, width, height as read, where the issue is an annotation's."""

    def __str__(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self.subject}: {self.issue.text}{detail}"
