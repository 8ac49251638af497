"""Frames of videos, cameras and streams, and videos of annotated frames. OpenCV's FFmpeg reads and writes them."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from tasks.data.loading.images import Reading
from tasks.files import write_whole
from tasks.inference.sources import Video

USUAL_FPS = 25.0
"""Frames a second, where a source does not say, or says what cannot be."""
MAX_FPS = 1000.0
MAY_LACK = 0.02
"""Share of the frames that a file declares and may lack: some formats only estimate their number."""
CODEC = "mp4v"
"""MPEG-4 part 2: 5 ms a frame of 1280 x 720, where VP9 takes 190."""
FILES_ALONE = {"OPENCV_FFMPEG_CAPTURE_OPTIONS": "protocol_whitelist;file"}
"""What FFmpeg may open for a file: a playlist that calls itself a video would otherwise reach any address."""


class Frame(NamedTuple):
    """One frame."""

    number: int
    """From 0."""
    seconds: float
    """From the start."""
    image: np.ndarray
    """uint8 (H, W, 3) RGB."""


class Capture:
    """An open video, camera or stream; a context manager."""

    def __init__(self, video: Video, reading: Reading, every: int = 1) -> None:
        """`every` is the number of frames from one that is read to the next.

        Raises ValueError where it cannot be opened, or its frames have more than `reading.max_pixels`.
        """
        self.video, self.every = video, every
        with _environment({} if video.is_live else FILES_ALONE), _quiet_opencv():
            if isinstance(video.place, int):
                self._capture = cv2.VideoCapture(video.place)
            else:  # no other backend, as some take a name for the pattern of many
                self._capture = cv2.VideoCapture(video.place, cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise ValueError(_why_closed(video))
        width, height = (
            int(self._capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        if width * height > reading.max_pixels:
            self._capture.release()
            raise ValueError(
                f"'{video.place}' is too large: {width} wide and {height} high, more than {reading.max_pixels} "
                "pixels; if it is what it should be, raise max_pixels="
            )
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 0 < fps <= MAX_FPS else USUAL_FPS
        declared = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.num_declared = int(declared) if not video.is_live and 0 < declared < 1e9 else None
        self.num_read = 0

    def __enter__(self) -> "Capture":
        return self

    def __exit__(self, *_: object) -> None:
        self._capture.release()

    @property
    def output_fps(self) -> float:
        """Frames a second of those that are read."""
        return self.fps / self.every

    @property
    def num_expected(self) -> int | None:
        """How many frames are read, as far as the file says."""
        return None if self.num_declared is None else -(-self.num_declared // self.every)

    def frames(self) -> Iterator[Frame]:
        """Every `every`th frame, the first one first."""
        start = time.monotonic()
        while self._capture.grab():
            number = self.num_read
            self.num_read += 1
            if number % self.every:
                continue
            is_whole, image = self._capture.retrieve()
            if not is_whole or image is None:
                return
            seconds = time.monotonic() - start if self.video.is_live else number / self.fps
            if image.ndim == 2:
                image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
            yield Frame(number, seconds, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))

    def what_is_missing(self) -> str:
        """What is said, after the last frame, of a file that ends early; "" where it does not."""
        if self.num_read == 0:
            return (
                f"no frame of '{self.video.place}' can be read; the file is damaged, or its codec is unknown"
            )
        if self.num_declared is None or self.num_read >= (1 - MAY_LACK) * self.num_declared - 1:
            return ""
        return (
            f"{self.num_read} of {self.num_declared} frames of '{self.video.place}' can be read; the file is cut short "
            "or damaged"
        )


class VideoWriter:
    """Writes frames of any size into one video, whose size is that of the first, rounded up to even sides.

    What is larger is cut off at the right and below, what is smaller has a black border there.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self._path, self._fps = path, fps
        self._writer: cv2.VideoWriter | None = None
        self._canvas = np.zeros((0, 0, 3), np.uint8)

    def add(self, image: np.ndarray) -> None:
        """Appends uint8 (H, W, 3) RGB. Raises ValueError where no such video can be written here."""
        if self._writer is None:
            height, width = (side + side % 2 for side in image.shape[:2])
            self._canvas = np.zeros((height, width, 3), np.uint8)
            code = cv2.VideoWriter.fourcc(*CODEC)
            self._writer = cv2.VideoWriter(str(self._path), cv2.CAP_FFMPEG, code, self._fps, (width, height))
            if not self._writer.isOpened():
                raise ValueError(
                    f"OpenCV writes no video of {width} x {height} to '{self._path}' here; give draw=false"
                )
        height, width = (min(sides) for sides in zip(image.shape[:2], self._canvas.shape[:2], strict=True))
        self._canvas[:] = 0
        self._canvas[:height, :width] = image[:height, :width]
        self._writer.write(cv2.cvtColor(self._canvas, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Ends the file."""
        if self._writer is not None:
            self._writer.release()


@contextmanager
def video_writer(path: Path, fps: float) -> Iterator[VideoWriter]:
    """A writer of the video at `path`, which appears whole once the block is left, and not at all where that raises."""
    with write_whole(path) as partial:
        partial.touch()
        writer = VideoWriter(partial, fps)
        try:
            yield writer
        finally:
            writer.close()


def _why_closed(video: Video) -> str:
    if isinstance(video.place, int):
        return (
            f"source={video.place}: there is no camera of this number, or another program has it; give 0, 1, …, or "
            "the path of a video"
        )
    if video.is_live:
        return f"source={video.place}: nothing answers there that is a video; check the address"
    return f"'{video.place}' is not a video that OpenCV can read; it is damaged, or of an unknown kind"


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """With these variables, as OpenCV takes options of FFmpeg from nowhere else."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _quiet_opencv() -> Iterator[None]:
    """Without what OpenCV prints of what it cannot open, which our own sentence says."""
    logging = cv2.utils.logging
    level = logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(level)
