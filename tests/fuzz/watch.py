"""What a hostile input may do: end in one of the promised exceptions, soon, in little memory, and touch its own folder.

`watched` calls a function and gives back what it did wrong, in words; nothing where it kept every promise.
"""

import contextlib
import os
import resource
import sys
import sysconfig
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PROMISED = (ValueError, FileNotFoundError)
MOST_SECONDS = 10.0
MOST_MEMORY = 2 << 30
ROOT = Path(__file__).resolve().parents[2]
READABLE = tuple(
    os.path.realpath(folder)
    for folder in {
        *sysconfig.get_paths().values(), sys.prefix, sys.base_prefix, str(ROOT), "/proc", "/sys", "/dev", "/usr",
        "/etc/localtime", "/etc/ld.so.cache", "/etc/mime.types",
    }
    if os.path.exists(folder)
)  # fmt: skip
"""Where Python and its packages lie, which import more of themselves at any time."""
CHANGES = {
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "shutil.rmtree",
}
AT_FOLDER = {"os.remove", "os.rmdir"}
"""Those that may name a file by an open folder and its name there."""
RUNS = {"os.system", "subprocess.Popen", "os.exec", "os.fork", "os.posix_spawn", "os.startfile"}
REACHES = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request"}

_folder: str | None = None
_seen: list[str] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _folder is None:
        return
    if event == "subprocess.Popen" and list(arguments[1])[:3] == ["git", "-C", str(ROOT)]:
        return  # what code a run was made with
    if event == "subprocess.Popen" and list(arguments[1]) == ["uname", "-p"]:
        return  # Python's platform.processor
    if event in REACHES or event in RUNS:
        _seen.append(f"{event}{arguments!s:.100}")
    elif event == "open" and isinstance(arguments[0], str | bytes):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        writes = bool((arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))
        allowed = (_folder, os.devnull, "/dev/shm", *(() if writes else READABLE))
        if not path.startswith(allowed) and "__pycache__" not in path:
            _seen.append(f"{'writes' if writes else 'reads'} {path}")
    elif event in CHANGES:
        path = os.fsdecode(arguments[0])
        if event in AT_FOLDER and isinstance(arguments[1], int) and arguments[1] >= 0:
            path = os.path.join(os.readlink(f"/proc/self/fd/{arguments[1]}"), path)
        path = os.path.realpath(path)
        if not path.startswith(_folder) and "__pycache__" not in path:
            _seen.append(f"{event} {path}")


sys.addaudithook(_hook)


@contextlib.contextmanager
def _watching(folder: Path) -> Iterator[list[str]]:
    global _folder
    _seen.clear()
    _folder = os.path.realpath(folder)
    try:
        yield _seen
    finally:
        _folder = None


def watched(call: Callable[[], Any], folder: Path) -> str:
    """What `call` did wrong with an input in `folder`; "" for nothing."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    started = time.process_time()  # of the processor: other programs may have the clock
    wrong = ""
    with _watching(folder) as seen, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            call()
        except PROMISED as error:
            if "\n" in str(error).strip() or not str(error).strip():
                wrong = f"not one sentence: {error!s:.300}"
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            frame = traceback.extract_tb(error.__traceback__)[-1]
            ours = [f for f in traceback.extract_tb(error.__traceback__) if str(ROOT) in f.filename][-1]
            wrong = (
                f"{type(error).__name__}: {str(error)[:150]} ({Path(frame.filename).name}:{frame.lineno}, from "
                f"{Path(ours.filename).name}:{ours.lineno})"
            )
        did = list(dict.fromkeys(seen))
    seconds = time.process_time() - started
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    if did:
        wrong += f" touched {did[:3]}"
    if seconds > MOST_SECONDS:
        wrong += f" took {seconds:.0f} s"
    if grown > MOST_MEMORY:
        wrong += f" took {grown / 2**30:.1f} GB"
    return wrong.strip()
