"""As much of the Hugging Face hub as its client needs to make a repository, commit to it and download from it."""

import base64
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Hub:
    """Files by repository and path, and everything that was asked."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.is_private: dict[str, bool] = {}
        self.asked: list[str] = []
        self.tokens: set[str | None] = set()


@contextmanager
def serving() -> Iterator[tuple[str, Hub]]:
    """The address of a hub on this machine, and what it holds."""
    hub = Hub()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, value: Any, status: int = 200) -> None:
            self.send(json.dumps(value).encode(), status, {"Content-Type": "application/json"})

        def send(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, text in {"Content-Length": str(len(content)), **(headers or {})}.items():
                self.send_header(name, text)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            path = self.path.partition("?")[0]
            hub.asked.append(f"POST {path}")
            hub.tokens.add(self.headers.get("Authorization"))
            if self.headers.get("Authorization") != "Bearer hf_right":
                self.answer({"error": "Invalid credentials"}, 401)
            elif path == "/api/repos/create":
                asked = json.loads(body)
                name = (
                    f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
                )
                hub.files.setdefault(name, {})
                hub.is_private.setdefault(name, asked.get("private") or asked.get("visibility") == "private")
                self.answer({"url": f"{address}/{name}", "id": name})
            elif path == "/api/validate-yaml":
                self.answer({"errors": [], "warnings": []})
            elif "/preupload/" in path:
                files = json.loads(body)["files"]
                modes = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
                self.answer({"files": modes})
            elif "/commit/" in path:
                name = path.removeprefix("/api/models/").partition("/commit/")[0]
                for line in body.splitlines():
                    item = json.loads(line)
                    if item["key"] == "file":
                        content = base64.b64decode(item["value"]["content"])
                        hub.files[name][item["value"]["path"]] = content
                commit = hashlib.sha1(body).hexdigest()
                self.answer(
                    {"success": True, "commitOid": commit, "commitUrl": f"{address}/{name}/commit/{commit}"}
                )
            else:
                self.answer({"error": f"nothing at {path}"}, 404)

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            hub.asked.append(f"{self.command} {path}")
            name, _, rest = path.lstrip("/").partition("/resolve/")
            content = hub.files.get(name, {}).get(rest.partition("/")[2])
            if content is None:
                code = "EntryNotFound" if name in hub.files else "RepoNotFound"
                self.send(b"", 404, {"X-Error-Code": code})
            else:
                commit, tag = "0" * 40, hashlib.sha256(content).hexdigest()
                self.send(
                    content, 200, {"X-Repo-Commit": commit, "ETag": f'"{tag}"', "Accept-Ranges": "bytes"}
                )

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield address, hub
    finally:
        server.shutdown()
        server.server_close()
