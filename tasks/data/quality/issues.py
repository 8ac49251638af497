"""Everything that can be wrong with a data set, and `Finding`: one thing that is, with its ids."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

Severity = Literal["error", "warning"]
Remedy = Literal["mended", "dropped", "left"]


class Fault(NamedTuple):
    """A kind of fault. An error cannot be trained on, or teaches or measures something false; a warning may be
    meant, and no policy changes what it is about."""

    name: str
    severity: Severity
    text: str
    """What is said of an annotation, an image or a category that has it."""


# Of single annotations, in the order in which they are looked for: an annotation is told by its first.
UNKNOWN_IMAGE = Fault("unknown image", "error", "its image_id points nowhere")
UNKNOWN_CATEGORY = Fault("undeclared category", "error", "its category is not declared")
DUPLICATE_ID = Fault("duplicate annotation id", "error", "its id occurs before")
NOT_FINITE = Fault("not finite", "error", "its bbox or area is not made of finite numbers")
DEGENERATE = Fault("degenerate box", "error", "its width or height is zero")
CORNERS = Fault(
    "corners for extents", "error", "its bbox holds two corners where x, y, width, height are meant"
)
REVERSED = Fault(
    "wrong corner order", "error", "its corners are in the wrong order, its width or height negative"
)
FRACTIONS = Fault("normalised box", "error", "its box is in fractions of the image, not in pixels")
PIXELS = Fault("box not normalised", "error", "its box is in pixels where fractions of the image are meant")
BAD_CROWD = Fault("unclear crowd flag", "error", "its crowd flag is neither 0 nor 1")
WRONG_COLUMNS = Fault("wrong number of columns", "error", "its line is neither a box nor a polygon")
BAD_AREA = Fault("area not positive", "error", "its area is zero or negative")
NEGATIVE = Fault("negative coordinates", "error", "its box begins at negative coordinates")
OUTSIDE = Fault("box outside image", "error", "its box leaves the image")
BAD_SEGMENTATION = Fault("bad segmentation", "error", "its segmentation is neither polygons nor run lengths")
RUNS_OF_OTHER_SIZE = Fault(
    "run lengths of other size", "error", "its run lengths are of another size than its image"
)
FEW_POINTS = Fault("polygon of few points", "error", "a polygon of its has fewer than three points")
ODD_POLYGON = Fault("polygon of odd count", "error", "a polygon of its has an odd count of numbers")
POLYGON_OUTSIDE = Fault("polygon outside box", "error", "its polygons leave its box")
NO_MASK = Fault("object without mask", "error", "it has no mask, and others of its split have one")
DUPLICATE = Fault("duplicate annotation", "error", "it repeats an earlier annotation of its image")
# Of images.
DUPLICATE_IMAGE_ID = Fault("duplicate image id", "error", "its id is declared before")
NO_ANNOTATION = Fault("annotation unreadable", "error", "its annotation cannot be read")
MISSING = Fault("file missing", "error", "its file is missing")
UNREADABLE = Fault("file unreadable", "error", "its file is no image that can be read")
OUTSIDE_FILE = Fault("file outside data set", "error", "its file is not in the data set")
TRUNCATED = Fault("file truncated", "error", "its file is truncated or damaged")
OTHER_SIZE = Fault("other image size", "error", "its file is of another size than declared")
EXIF_IGNORED = Fault(
    "EXIF rotation ignored", "error", "its declared size ignores the EXIF rotation of its file"
)
EXIF_ROTATED = Fault("EXIF rotation", "warning", "its file is turned by EXIF, which some tools ignore")
FEW_LEVELS = Fault("few grey levels", "warning", "its values have most likely another range than is read")
# Of several splits.
COPIED = Fault("same picture in two splits", "error", "its file is also in another split")
NEARLY_COPIED = Fault("near copy in two splits", "warning", "its picture is much like one of another split")
# Of categories, and of objects as they are trained on.
UNUSED_CATEGORY = Fault("unused category", "warning", "no object has it")
ONE_SPLIT_CATEGORY = Fault("category in one split only", "warning", "objects of one split alone have it")
VANISHING = Fault("vanishes at training size", "warning", "it is smaller than a pixel at the training size")
ALL_CROWD = Fault(
    "category of crowds alone", "warning", "nothing of it can be learned: every object of it is a crowd"
)
# Of a split as a whole.
NOTHING_TO_LEARN = Fault("nothing to learn from", "warning", "it has not one object that can be learned")
UNREADABLE_SPLIT = Fault("split unreadable", "error", "it cannot be read")
DIFFERENT_CATEGORIES = Fault("categories differ", "error", "not every split declares it")

FAULTS = (
    UNREADABLE_SPLIT, NOTHING_TO_LEARN, DIFFERENT_CATEGORIES, DUPLICATE_IMAGE_ID, NO_ANNOTATION, MISSING, OUTSIDE_FILE,
    UNREADABLE, TRUNCATED, OTHER_SIZE, EXIF_IGNORED, COPIED, UNKNOWN_IMAGE, UNKNOWN_CATEGORY, DUPLICATE_ID, BAD_CROWD,
    WRONG_COLUMNS, NOT_FINITE, DEGENERATE, CORNERS, REVERSED, FRACTIONS, PIXELS, NEGATIVE, OUTSIDE, BAD_AREA,
    BAD_SEGMENTATION, RUNS_OF_OTHER_SIZE, FEW_POINTS, ODD_POLYGON, POLYGON_OUTSIDE, NO_MASK, DUPLICATE, EXIF_ROTATED,
    FEW_LEVELS, NEARLY_COPIED, UNUSED_CATEGORY, ONE_SPLIT_CATEGORY, ALL_CROWD, VANISHING,
)  # fmt: skip
"""In the order of a report."""


@dataclass(frozen=True)
class Finding:
    """One fault where it is; the ids are the data set's own, None where the fault is not of such a thing."""

    fault: Fault
    split: str
    subject: str
    """What has the fault, in words, with its ids and its file."""
    detail: str = ""
    """The numbers that are wrong."""
    remedy: Remedy = "left"
    """What `data.on_bad=fix` does about it."""
    image_id: int | None = None
    annotation_id: int | None = None
    category: int | str | None = None
    file_name: str | None = None
    becomes: str = ""
    """What mending makes of it, in words."""
    box: tuple[float, float, float, float] | None = None
    """x, y, width, height as read, where the fault is an annotation's."""

    def __str__(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self.subject}: {self.fault.text}{detail}"
