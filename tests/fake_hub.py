"""A server on this machine that answers as the Hugging Face hub does: to uploads and downloads."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
STATUS_OF_TOKEN = {"Bearer hf_known": 200, "Bearer hf_reader": 403}


class FakeHub(ThreadingHTTPServer):
    """What was asked of it, and what it holds."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []
        self.is_private: dict[str, bool] = {}
        self.files: dict[str, bytes] = {}
        """By REPO/NAME, once committed."""
        self.objects: dict[str, bytes] = {}
        """Large files by their SHA-256."""
        self.num_commits = 0
        self.refuses_commits = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """A running one."""
    with FakeHub() as hub:
        thread = threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, value: Any = None, status: int = 200, **headers: str) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, header in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), header)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(f"{self.command} {path}")
        if path == "/":
            return self._answer()
        if path.startswith("/api/models/"):
            repo = "/".join(path.split("/")[3:5])
            if repo not in self.server.is_private:
                return self._answer({"error": "no such repository"}, 404)
            private = self.server.is_private[repo]
            return self._answer({"id": repo, "private": private, "sha": COMMIT, "siblings": []})
        owner, name, _, _, file = path.strip("/").split("/", 4)
        content = self.server.files.get(f"{owner}/{name}/{file}")
        if content is None:
            return self._answer(b"", 404, X_Error_Code="EntryNotFound")
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        return self._answer(content, ETag=etag, X_Repo_Commit=COMMIT)

    def do_PUT(self) -> None:
        self.server.asked.append(f"PUT {self.path}")
        self.server.objects[self.path.removeprefix("/lfs/")] = self._body()
        self._answer()

    def do_POST(self) -> None:
        path, body = self.path.partition("?")[0], self._body()
        self.server.asked.append(f"POST {path}")
        if path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        status = STATUS_OF_TOKEN.get(self.headers.get("Authorization", ""), 401)
        if status != 200:
            return self._answer({"error": "no"}, status)
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**entry, "actions": {"upload": {"href": f"{self.server.url}/lfs/{entry['oid']}"}}}
                for entry in json.loads(body)["objects"]
            ]
            return self._answer({"transfer": "basic", "objects": objects})
        if "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = {True: "lfs", False: "regular"}
            files = [
                {
                    "path": name,
                    "uploadMode": modes[name.endswith(".safetensors")],
                    "shouldIgnore": False,
                }
                for name in names
            ]
            return self._answer({"files": files})
        assert path.endswith("/commit/main"), path
        return self._commit("/".join(path.split("/")[3:5]), body)

    def _create(self, asked: dict[str, Any]) -> None:
        repo = f"{asked['organization']}/{asked['name']}"
        url = {"url": f"{self.server.url}/{repo}"}
        if repo in self.server.is_private:
            return self._answer({**url, "error": "You already created this model repo"}, 409)
        is_private = asked.get("visibility") == "private" or asked.get("private")
        self.server.is_private[repo] = bool(is_private)
        return self._answer(url)

    def _commit(self, repo: str, body: bytes) -> None:
        if self.server.refuses_commits:
            return self._answer({"error": "the storage of this account is full"}, 422)
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                content = base64.b64decode(value["content"])
                self.server.files[f"{repo}/{value['path']}"] = content
            if line["key"] == "lfsFile":
                self.server.files[f"{repo}/{value['path']}"] = self.server.objects[value["oid"]]
        self.server.num_commits += 1
        url = f"{self.server.url}/{repo}/commit/{COMMIT}"
        return self._answer({"success": True, "commitUrl": url, "commitOid": COMMIT})
