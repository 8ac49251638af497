"""`Journal`: the results of a run as they come, in shards, so that one that was killed goes on where it was.

    OUTPUT/.unfinished/sources.jsonl   every picture, a line each, in order
    OUTPUT/.unfinished/run.json        what is run, and how many pictures make a shard
    OUTPUT/.unfinished/000000.jsonl    a shard: a line for each of its pictures that is done, in their order

Picture i is line i of the list and line i % shard_size of shard i // shard_size, whichever rank has worked on it, so
each is in the results exactly once, whatever the number of ranks before and after a kill. A line that a kill has torn
is cut off. Nothing is held in memory but where shards begin.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tasks.files import write_json, write_whole
from tasks.inference.sources import Picture

FOLDER = ".unfinished"
MAX_SHARD = 1024
"""Pictures in one."""
SHARDS_A_RANK = 8
"""At least, so that ranks end at about the same time."""


class Journal:
    """Of one run, in the folder of its output."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.folder = output / FOLDER
        self._starts = np.zeros(0, np.int64)
        self.num_pictures = 0
        self.shard_size = 1

    @property
    def is_begun(self) -> bool:
        """Whether a run of pictures was begun here, and has not ended."""
        return (self.folder / "run.json").is_file()

    def begin(self, pictures: Iterable[Picture], run: Mapping[str, Any], num_ranks: int) -> bool:
        """Writes down what is to be done, unless a run of the same kind was begun here; whether it was. Of several
        ranks the first does this.

        Args:
            pictures: all of them, asked for only where the run is new.
            run: what must be the same in a run that goes on, as plain values.
            num_ranks: that will share them.

        Raises:
            ValueError: an unfinished run of other settings is here.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "run.json"
        if self.is_begun:
            self._check_same(json.loads(path.read_text(encoding="utf-8"))["run"], run)
            return True
        self._remove_shards()
        count = 0
        with (
            write_whole(self.folder / "sources.jsonl") as partial,
            open(partial, "w", encoding="ascii") as file,
        ):
            for picture in pictures:
                file.write(json.dumps(picture) + "\n")
                count += 1
        size = min(max(-(-count // (SHARDS_A_RANK * num_ranks)), 1), MAX_SHARD)
        write_json(path, {"run": dict(run), "pictures": count, "shard_size": size})
        return False

    def begin_video(self, *, is_live: bool) -> None:
        """Makes room for the frames of a video, all of them in shard 0; `end_video` says how many there were.

        Raises ValueError where there are results that this would lose: of pictures, or of a camera.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.is_begun or (is_live and self.num_done(0)):
            raise ValueError(
                f"output={self.output} holds the results of a run that was killed, in {self.folder}; give another "
                "folder, or delete that one"
            )
        self._remove_shards()

    def end_video(self, num_frames: int) -> None:
        """So many frames have a line."""
        self.num_pictures, self.shard_size = num_frames, max(1, num_frames)

    def open(self) -> None:
        """Reads what `begin` wrote."""
        description = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
        self.num_pictures, self.shard_size = description["pictures"], description["shard_size"]
        starts = []
        with open(self.folder / "sources.jsonl", "rb") as file:
            place = 0
            for number, line in enumerate(file):
                if number % self.shard_size == 0:
                    starts.append(place)
                place += len(line)
        self._starts = np.array(starts, np.int64)

    @property
    def num_shards(self) -> int:
        """How many there are."""
        return -(-self.num_pictures // self.shard_size)

    def shards_of(self, rank: int, num_ranks: int) -> range:
        """The shards that a rank works on."""
        return range(rank, self.num_shards, num_ranks)

    def size_of(self, shard: int) -> int:
        """How many pictures are in a shard."""
        return min(self.shard_size, self.num_pictures - shard * self.shard_size)

    def num_done(self, shard: int) -> int:
        """How many pictures of a shard have a whole line."""
        try:
            with open(self._path(shard), "rb") as file:
                return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
        except FileNotFoundError:
            return 0

    def pictures(self, shard: int, start: int = 0) -> list[Picture]:
        """The pictures of a shard from the one at `start` on."""
        with open(self.folder / "sources.jsonl", "rb") as file:
            file.seek(self._starts[shard])
            lines = [file.readline() for _ in range(self.size_of(shard))]
        return [Picture(*json.loads(line)) for line in lines[start:]]

    @contextmanager
    def appending(self, shard: int, *, anew: bool = False) -> Iterator["Appender"]:
        """Writes lines behind those that are whole, or `anew`."""
        path = self._path(shard)
        with open(path, "ab") as file:
            file.truncate(0 if anew else _end_of_whole_lines(path))
            yield Appender(file)
            os.fsync(file.fileno())

    def records(self) -> Iterator[dict[str, Any]]:
        """What was written of every picture, in order. ValueError where one is missing."""
        for shard in range(self.num_shards):
            if (done := self.num_done(shard)) != self.size_of(shard):
                raise ValueError(
                    f"{done} of {self.size_of(shard)} pictures of shard {shard} are in {self.folder}; run the same "
                    "command again, which goes on there"
                )
            with open(self._path(shard), encoding="ascii") as file:
                yield from map(json.loads, islice(file, done))

    def remove(self) -> None:
        """Removes the journal, and nothing else, when all that it holds stands elsewhere."""
        (self.folder / "run.json").unlink(missing_ok=True)  # first: what is left without it is nobody's
        self._remove_shards()
        for name in ("sources.jsonl", "lock"):
            (self.folder / name).unlink(missing_ok=True)
        self.folder.rmdir()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps another run out of the folder. Raises ValueError where one is in it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                import fcntl
            except ImportError:  # Windows, where nobody is kept out
                pass
            else:
                file = stack.enter_context(open(self.folder / "lock", "w"))
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    raise ValueError(
                        f"another run is writing to output={self.output}; wait for it, or give another folder"
                    ) from None
            yield

    def _path(self, shard: int) -> Path:
        return self.folder / f"{shard:06d}.jsonl"

    def _remove_shards(self) -> None:
        for path in self.folder.glob("[0-9]*.jsonl"):
            path.unlink()

    def _check_same(self, before: Mapping[str, Any], run: Mapping[str, Any]) -> None:
        now = json.loads(json.dumps(run))
        differing = next((key for key in {**before, **now} if before.get(key) != now.get(key)), None)
        if differing is not None:
            raise ValueError(
                f"output={self.output} holds an unfinished run with {differing}={before.get(differing)}, and this one "
                f"has {differing}={now.get(differing)}; give another folder, or delete {self.folder} to begin again"
            )


class Appender:
    """Appends records to a shard."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def add(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Writes a line for each; they survive the end of this process."""
        self._file.write(b"".join(json.dumps(record).encode("ascii") + b"\n" for record in records))
        self._file.flush()


def _end_of_whole_lines(path: Path) -> int:
    """Where the last whole line ends."""
    end = path.stat().st_size
    with open(path, "rb") as file:
        while end > 0:
            start = max(0, end - (1 << 16))
            file.seek(start)
            place = file.read(end - start).rfind(b"\n")
            if place >= 0:
                return start + place + 1
            end = start
    return 0
