"""Files of weights from the network: verified before use, resumed after a break, from a mirror where one is set.

Settings, all optional:
    VERTEBRA_CACHE    folder of downloaded files; torch.hub's (``~/.cache/torch/hub/checkpoints``) otherwise, so
                      that what torchvision has downloaded is found
    VERTEBRA_MIRROR   folder or URL that holds files of the same names, tried before the published address
"""

import hashlib
import http.client
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

CHUNK = 1 << 20
PART = ".vertebra-part"  # ends the name of what is still being downloaded, and of no other program's files
TIMEOUT = 30  # seconds without a byte


def fetch(url: str, *, cache: str | Path | None = None, mirror: str | None = None) -> Path:
    """The local file of `url`, downloaded unless the cache holds it already.

    The SHA-256 of the content must begin with the hex digits that end the file's name
    (``resnet50-0676ba61.pth``, torchvision's and timm's convention: 8 digits, of which this checks all) and with
    those in the address (``…#sha256=…``). A file of which neither says anything is taken as it comes, and kept in
    a folder for its address alone, so that it is never taken for another of the same name.

    A file that is in the cache already and is not the right one may be somebody else's: it stays as it is, and the
    right one goes into a folder beside it.

    Args:
        url: http, https or file.
        cache: folder; see above for the default.
        mirror: folder or URL; see above for the default.

    Raises:
        ValueError: no source could be reached, what came is not the file it should be, or the address contradicts
            the name. Says which file to put where.
    """
    address, _, fragment = url.partition("#")
    name = Path(urllib.parse.unquote(urllib.parse.urlparse(address).path)).name
    if not name:
        raise ValueError(f"{url} names no file; give the address of a .pth or .safetensors file")
    digest = expected_digest(name, fragment)
    folder = Path(cache or os.environ.get("VERTEBRA_CACHE") or Path(torch.hub.get_dir()) / "checkpoints")
    folder = folder.expanduser()
    target = folder / name if digest else folder / hashlib.sha256(address.encode()).hexdigest()[:16] / name
    sources = [address]
    if mirror := mirror or os.environ.get("VERTEBRA_MIRROR"):
        base = mirror if "://" in mirror else Path(mirror).expanduser().absolute().as_uri()
        sources.insert(0, f"{base.rstrip('/')}/{urllib.parse.quote(name)}")
    if target.is_file():  # before the lock: the folder may be read-only
        if _matches(target, digest):
            return target
        _say(
            f"{target} is not the file that is wanted: its SHA-256 does not begin with {digest}; it stays as it is"
        )
        target = folder / digest[:16] / name
        if target.is_file() and _matches(target, digest):
            return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = _lock(target)
    except OSError as error:
        raise ValueError(
            f"cannot write to the cache folder {target.parent} ({error.strerror}); set VERTEBRA_CACHE to another"
        ) from None
    with lock:  # the processes of one machine share one download
        if target.is_file():
            if _matches(target, digest):
                return target
            raise ValueError(
                f"{target} is not the file that is wanted: its SHA-256 does not begin with {digest}; move it away"
            )
        reasons: list[str] = []
        for source in sources:
            try:
                _download(source, target, digest)
                return target
            except (OSError, ValueError, http.client.HTTPException) as error:
                reasons.append(f"{source}: {getattr(error, 'reason', None) or error}")
    raise ValueError(
        f"could not download {name} ({'; '.join(reasons)}). Without a network, get {address} elsewhere and put "
        f"it at {target}, or set VERTEBRA_MIRROR to a folder that holds {name}"
    )


def with_digest(url: str, sha256: str) -> str:
    """The address together with what the file's SHA-256 begins with, as `fetch` reads it; alone where that is ""."""
    return f"{url}#sha256={sha256}" if sha256 else url


def expected_digest(name: str, fragment: str = "") -> str:
    """The hex digits that the SHA-256 of a file called `name` begins with, or "" where nothing says.

    An address may add digits to those of the name and never replace them: torch.hub's cache is shared, and others
    load from it by name. ValueError where the two contradict each other.
    """
    found = re.search(r"-([0-9a-f]{8,64})\.[a-z]+$", name)
    of_name = found[1] if found else ""
    if not fragment.startswith("sha256="):
        return of_name
    of_address = fragment.removeprefix("sha256=").lower()
    if not re.fullmatch("[0-9a-f]{8,64}", of_address):
        raise ValueError(f"#{fragment} is not a SHA-256; give 8 to 64 hexadecimal digits")
    shorter, longer = sorted((of_name, of_address), key=len)
    if not longer.startswith(shorter):
        raise ValueError(
            f"#{fragment} contradicts the name {name}, by which the SHA-256 begins with {of_name}; leave it out, or "
            "rename the file"
        )
    return longer


def _download(source: str, target: Path, digest: str) -> None:
    """`source` to `target`, whole and verified or not at all; a part left by an earlier try is continued."""
    part = target.with_name(target.name + PART)
    if not digest:  # nothing would tell that an old part is of another file
        part.unlink(missing_ok=True)
    resumed = part.is_file() and part.stat().st_size > 0
    try:
        _transfer(source, part)
    except BROKEN:
        _transfer(source, part)  # continues where the connection broke; a second break is final
    if not _matches(part, digest):
        part.unlink()
        if resumed:  # the old part may have been of another file
            return _download(source, target, digest)
        raise ValueError(f"the file that came is damaged: its SHA-256 does not begin with {digest}")
    os.replace(part, target)


class _Incomplete(OSError):
    """The connection ended before the announced length."""


BROKEN = (_Incomplete, ConnectionError, TimeoutError, http.client.HTTPException)


def _transfer(source: str, part: Path) -> None:
    start = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(source, headers={"User-Agent": "vertebra"})
    if start and not source.startswith("file:"):
        request.add_header("Range", f"bytes={start}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # the part is as long as the file already, or longer: begin again
            raise
        part.unlink()
        request.remove_header("Range")
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    with response:
        if getattr(response, "status", None) != 206:
            start = 0  # the server sends the whole file, whatever was asked for
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        with part.open("ab" if start else "wb") as file:
            _copy(response, file, part.name.removesuffix(PART), start, total)
        if total is not None and part.stat().st_size < total:
            raise _Incomplete(f"the connection ended after {part.stat().st_size} of {total} bytes")


def _copy(response: Any, file: Any, name: str, done: int, total: int | None) -> None:
    """Copies with progress on stderr: one line that is rewritten on a terminal, first and last otherwise."""
    size = f"{total / 1e6:.1f} MB" if total else "unknown size"
    live = sys.stderr.isatty()
    _say(f"downloading {name} ({size})", end="" if live else "\n")
    while chunk := response.read(CHUNK):
        file.write(chunk)
        done += len(chunk)
        if live:
            share = f", {done / total:.0%}" if total else ""
            _say(f"\rdownloading {name} ({size}): {done / 1e6:.1f} MB{share}", end="")
    _say("" if live else f"downloaded {name}: {done / 1e6:.1f} MB")


def _matches(path: Path, digest: str) -> bool:
    if not digest:
        return True
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().startswith(digest)


def _lock(target: Path) -> AbstractContextManager[object]:
    """Holds other processes off `target` until it is left. Raises OSError where nothing can be written."""
    # left in place: removing it would let a third process lock another file of the same name
    lock = target.with_name(target.name + ".lock").open("w")
    try:
        import fcntl
    except ImportError:  # Windows: processes that download at once each start over
        return lock
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def _say(text: str, end: str = "\n") -> None:
    print(text, end=end, file=sys.stderr, flush=True)
