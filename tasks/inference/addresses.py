"""A picture from an address, as far as a limit goes."""

import http.client
import urllib.error
import urllib.request
from email.message import Message
from typing import IO

TIMEOUT = 30
"""Seconds without a byte."""
ALLOWED = ("http://", "https://")


class _NoOtherScheme(urllib.request.HTTPRedirectHandler):
    """A redirection leads to another http or https address; Python's own would follow one to ftp."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if not newurl.startswith(ALLOWED):
            raise urllib.error.HTTPError(
                newurl, code, "it leads to no http address", headers or Message(), fp
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch_picture(address: str, max_bytes: int) -> bytes:
    """The content at `address`.

    Raises ValueError, naming it, where nothing comes or it has more than `max_bytes`.
    """
    request = urllib.request.Request(address, headers={"User-Agent": "vertebra"})
    opener = urllib.request.build_opener(_NoOtherScheme)
    try:
        with opener.open(request, timeout=TIMEOUT) as response:
            content = response.read(max_bytes + 1)
    except (OSError, ValueError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it is the answer, too
        raise ValueError(
            f"'{address}' cannot be fetched ({getattr(error, 'reason', None) or error})"
        ) from None
    if len(content) > max_bytes:
        raise ValueError(f"'{address}' has more than the {max_bytes} bytes that are read")
    return content
