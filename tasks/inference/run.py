"""A model applied to a source: pictures or frames with what is found in them, and files of all predictions.

Pictures are read ahead by threads, results go into a `Journal` as they come and become the files of a format at the
end. Ranks of torch.distributed share the pictures; they must see one file system.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tasks.data.loading.images import Reading, decode_image, read_image
from tasks.distributed import all_gather_objects
from tasks.inference.addresses import fetch_picture
from tasks.inference.formats import YoloWriter, check_format
from tasks.inference.journal import Journal
from tasks.inference.predictor import Predictor
from tasks.inference.sources import ADDRESSES, Picture, Video
from tasks.inference.video import Capture, Frame, VideoWriter, video_writer
from tasks.visualization.boxes import write_picture
from tasks.visualization.result import Result, WritesMasks

FEW = 20
"""Pictures, of each of which a line is said."""
MASK_TASKS = frozenset({"instance_segmentation", "semantic_segmentation"})
READERS = 4
"""Threads that read pictures ahead."""


class Progress(Protocol):
    """Shows how far a run is."""

    def start(self, total: int | None) -> None:
        """So many pictures are to be done; None where nobody knows."""
        ...

    def add(self, count: int) -> None:
        """So many more are done."""
        ...

    def stop(self) -> None:
        """Nothing more comes."""
        ...


@dataclass(frozen=True)
class Outputs:
    """What is written of predictions."""

    folder: Path
    format: str = "json"
    """A key of `tasks.inference.formats.FORMATS`."""
    draw: bool = True
    """Whether pictures are drawn with what is found in them."""
    masks: bool = False
    """Whether masks are written as PNG files."""


@dataclass(frozen=True)
class Written:
    """What a run has left."""

    num_pictures: int
    """That could be read; of a video, frames."""
    files: list[str]
    """Names of files and folders in the folder of outputs, beside drawn pictures and masks."""
    errors: list[str]
    """Of what could not be read, a sentence each."""


@dataclass(frozen=True)
class Job:
    """A predictor, what is written of its predictions, and who is told."""

    predictor: Predictor
    model: str
    """What files call it."""
    outputs: Outputs
    say: Callable[[str], None]
    progress: Progress

    def __post_init__(self) -> None:
        task = self.predictor.header.task
        check_format(self.outputs.format, task)
        if self.outputs.masks and task not in MASK_TASKS:
            raise ValueError(
                f"masks=true: the model is for task={task}, which has no masks; leave it out, or take a model of "
                f"{' or '.join(sorted(MASK_TASKS))}"
            )

    def finish(self, journal: Journal) -> Written:
        """Writes the files of all pictures and removes the journal."""
        header, folder = self.predictor.header, self.outputs.folder
        form = check_format(self.outputs.format, header.task)
        names = form.write(journal.records, folder, header, self.model)
        errors = [r["entry"]["error"] for r in journal.records() if "error" in r["entry"]]
        journal.remove()
        return Written(journal.num_pictures - len(errors), names, errors)


def predict_pictures(
    job: Job, pictures: Iterable[Picture], run: Mapping[str, Any], *, rank: int = 0, num_ranks: int = 1
) -> Written:
    """Predicts all of `pictures`, or goes on with what an earlier call in the same folder has left; what is written, on
    the first rank.

    An unreadable picture is noted and passed over, so that the others are not lost.

    Args:
        job: what is done with each.
        pictures: asked for where the run is new, by the first rank alone.
        run: what must be the same in a run that goes on, as plain values.
        rank: the number of this process.
        num_ranks: processes that share the pictures and call this together.
    """
    journal = Journal(job.outputs.folder)
    with journal.locked() if rank == 0 else nullcontext():
        if rank == 0 and _begin(journal, pictures, run, num_ranks):
            journal.open()
            done = sum(journal.num_done(shard) for shard in range(journal.num_shards))
            job.say(f"goes on with the run in {journal.folder}: {done} of {journal.num_pictures} are done")
        all_gather_objects(None)  # the list is there
        journal.open()
        mine = [(shard, journal.num_done(shard)) for shard in journal.shards_of(rank, num_ranks)]
        job.progress.start(sum(journal.size_of(shard) - done for shard, done in mine))
        say = job.say if journal.num_pictures <= FEW else _nothing
        with ExitStack() as stack:
            stack.callback(job.progress.stop)
            pool = stack.enter_context(ThreadPoolExecutor(min(READERS, os.cpu_count() or 1)))
            leave = _PictureOutputs(job)
            for shard, done in mine:
                if done < journal.size_of(shard):
                    _predict_shard(job, journal, shard, done, pool, leave, say)
        all_gather_objects(None)  # every shard is whole
        return job.finish(journal) if rank == 0 else Written(0, [], [])


def _begin(journal: Journal, pictures: Iterable[Picture], run: Mapping[str, Any], num_ranks: int) -> bool:
    """`Journal.begin`, which leaves nothing behind where the source turns out to be none."""
    try:
        return journal.begin(pictures, run, num_ranks)
    except BaseException:
        if not journal.is_begun:
            _leave_nothing(journal)
        raise


def _leave_nothing(journal: Journal) -> None:
    """Removes the journal, and the folder that it is in where that holds nothing else."""
    journal.remove()
    with suppress(OSError):
        journal.output.rmdir()


def _predict_shard(
    job: Job,
    journal: Journal,
    shard: int,
    done: int,
    pool: ThreadPoolExecutor,
    leave: "_PictureOutputs",
    say: Callable[[str], None],
) -> None:
    predictor = job.predictor
    with journal.appending(shard) as file:
        read = read_ahead(journal.pictures(shard, done), predictor.reading, pool, predictor.batch_size)
        for group in groups(read, predictor.window):
            found = iter(predictor([image for _, image in group if not isinstance(image, Exception)]))
            records = []
            for picture, image in group:
                if isinstance(image, Exception):
                    entry = {"file": picture.place, "error": str(image)}
                else:
                    result = next(found)
                    entry = leave.write(
                        picture.name, picture.file_name, {"file": picture.place}, image, result
                    )
                    say(f"{picture.place}: {result.summary()}")
                records.append({"name": picture.name, "file_name": picture.file_name, "entry": entry})
            file.add(records)
            job.progress.add(len(group))


def predict_video(job: Job, video: Video, *, every: int = 1) -> Written:
    """Predicts every `every`th frame, a line each as they come; what is missing at the end of the file is an error.

    A camera or a stream goes on until it ends or the user interrupts it (Ctrl-C), and then everything is whole. Of a
    killed run the lines stay, in the folder's journal.
    """
    predictor, outputs = job.predictor, job.outputs
    saves_frames = check_format(outputs.format, predictor.header.task).needs_images
    journal = Journal(outputs.folder)
    drawn_at = outputs.folder / f"{video.name}.mp4"
    if outputs.draw and _is_same_file(drawn_at, Path(str(video.place))):
        raise ValueError(
            f"the drawn video would be written over {drawn_at}, the source; give another folder with output=, or "
            "draw=false"
        )
    with Capture(video, predictor.reading, every) as capture, journal.locked(), ExitStack() as stack:
        journal.begin_video(is_live=video.is_live)
        outputs.folder.mkdir(parents=True, exist_ok=True)
        drawing: VideoWriter | None = None
        job.progress.start(capture.num_expected)
        stack.callback(job.progress.stop)
        leave = _PictureOutputs(job, drawn=False)
        # A camera's frames are told of as they come; a file's wait for a whole batch.
        frames = groups(capture.frames(), 1 if video.is_live else predictor.batch_size)
        with ExitStack() as written:
            file = written.enter_context(journal.appending(0, anew=True))
            is_stopped = False
            try:
                for group in frames:
                    records = []
                    results: list[Result] = predictor([frame.image for frame in group])
                    if outputs.draw and drawing is None:
                        drawing = written.enter_context(video_writer(drawn_at, capture.output_fps))
                    for frame, result in zip(group, results, strict=True):
                        records.append(_frame_record(video, frame, result, leave, saves_frames))
                        if drawing is not None:
                            drawing.add(result.draw(frame.image))
                    file.add(records)
                    job.progress.add(len(group))
            except KeyboardInterrupt:
                job.say("stopped")
                is_stopped = True
        missing = "" if is_stopped else capture.what_is_missing()
        count = journal.num_done(0)  # wherever it was interrupted
        if not count:
            _leave_nothing(journal)
            raise ValueError(missing or f"stopped before the first frame of '{video.place}'")
        journal.end_video(count)
        files = job.finish(journal).files
    return Written(count, files + [drawn_at.name] * (drawing is not None), [missing] if missing else [])


def _frame_record(
    video: Video, frame: Frame, result: Result, leave: "_PictureOutputs", saves_frames: bool
) -> dict[str, Any]:
    name = f"{video.name}-{frame.number:06d}"
    file_name = f"{name}.jpg"
    about = {"file": str(video.place), "frame": frame.number, "seconds": frame.seconds}
    if saves_frames:
        path = leave.folder / "images" / file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_picture(path, frame.image)
    entry = leave.write(name, file_name, about, frame.image, result)
    return {"name": name, "file_name": file_name, "entry": entry}


class _PictureOutputs:
    """Writes the files of single pictures."""

    def __init__(self, job: Job, *, drawn: bool = True) -> None:
        outputs = job.outputs
        self.folder = outputs.folder
        self._masks = outputs.masks
        is_yolo = outputs.format == "yolo"
        self._yolo = YoloWriter(outputs.folder, job.predictor.header) if is_yolo else None
        # Apart from labels, as nobody wants to train on pictures with boxes drawn on them.
        self._drawn = (
            (outputs.folder / "annotated" if is_yolo else outputs.folder) if outputs.draw and drawn else None
        )

    def write(
        self, name: str, file_name: str, about: Mapping[str, Any], image: np.ndarray, result: Result
    ) -> dict[str, Any]:
        """Writes what was asked for of one picture; its entry, which begins with what is known `about` it."""
        height, width = image.shape[:2]
        entry: dict[str, Any] = dict(about)
        if self._drawn is not None:
            path = self._drawn / f"{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            if _is_same_file(path, Path(str(entry["file"]))):
                raise ValueError(
                    f"the drawn picture would be written over {path}, a picture of the source; give another folder "
                    "with output=, or draw=false"
                )
            write_picture(path, result.draw(image))
            entry["annotated"] = path.relative_to(self.folder).as_posix()
        entry |= {"height": height, "width": width, **result.to_dict()}
        if self._masks and isinstance(result, WritesMasks):
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            for kind, file in result.write_masks(path.parent, path.name).items():
                entry[kind] = (path.parent / file).relative_to(self.folder).as_posix()
        if self._yolo is not None:
            self._yolo.write(name, file_name, image, entry)
        return entry


Read = tuple[Picture, np.ndarray | Exception]


def read_ahead(
    pictures: Iterable[Picture], reading: Reading, pool: ThreadPoolExecutor, ahead: int
) -> Iterator[Read]:
    """The pictures with their pixels, or why there are none; up to `ahead` of them are read before they are wanted."""
    waiting: deque[tuple[Picture, Future[np.ndarray]]] = deque()
    for picture in pictures:
        waiting.append((picture, pool.submit(_read, picture.place, reading)))
        if len(waiting) > ahead:
            yield _result(*waiting.popleft())
    while waiting:
        yield _result(*waiting.popleft())


def _read(place: str, reading: Reading) -> np.ndarray:
    if place.startswith(ADDRESSES):
        return decode_image(fetch_picture(place, reading.max_bytes), place, reading=reading).image
    return read_image(place, reading=reading)


def _result(picture: Picture, future: Future[np.ndarray]) -> Read:
    try:
        return picture, future.result()
    except (ValueError, OSError) as error:
        return picture, error


def groups(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """`size` at a time, the last ones fewer."""
    every = iter(items)
    while group := list(islice(every, size)):
        yield group


def _is_same_file(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:  # one of them is not there
        return False


def _nothing(text: str) -> None:
    pass


def digest_of(path: Path) -> str:
    """What tells a model file from any other."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
