"""`Tee`: a stream of which a file keeps a copy."""

from typing import TextIO


class Tee:
    """The copy lacks lines that a terminal redraws."""

    def __init__(self, stream: TextIO, file: TextIO) -> None:
        self._stream = stream
        self._file = file

    def write(self, text: str) -> int:
        if not self._file.closed and "\x1b" not in text and "\r" not in text:
            self._file.write(text)
            self._file.flush()
        return self._stream.write(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)
