"""A page on this machine alone, where a person labels the images of a table.

It listens on 127.0.0.1, and answers nothing to who does not know the token of its address, which is
drawn anew for each start. Images are asked for by their row, never by a path.
"""

import io
import json
import re
import secrets
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from cotrain_dist.data.answers import Answers, ChangedError
from cotrain_dist.data.sources.decode import decode
from cotrain_dist.errors import UserError
from cotrain_dist.method.audit import CANNOT_TELL
from cotrain_dist.printable import printable

HOST = "127.0.0.1"

SIDES = {"large": 720, "small": 160}
"""Longest side of an image in pixels, one by one and in the grid."""

LONGEST_LABEL = 200
"""Letters of a class's name."""

LONGEST_REQUEST = 10_000
"""Bytes."""


class Annotator(ThreadingHTTPServer):
    """The server; `serve_forever` until the page, or Ctrl-C, ends it."""

    daemon_threads = True
    template = "annotate.html.jinja"

    def __init__(
        self,
        answers: Answers,
        folder: Path,
        class_names: Sequence[str],
        port: int = 0,
        *,
        is_audit: bool = False,
    ) -> None:
        """folder: that the table's paths lie in. port: 0 for any that is free.

        is_audit: whether `?` is an answer, for an image of which nobody can tell; a training would
        take it for a class. Raises UserError where an image is not there.
        """
        self.answers, self.class_names = answers, list(class_names)
        self.is_audit = is_audit
        self.files = self.find_files(folder)
        self.token = secrets.token_urlsafe(24)
        super().__init__((HOST, port), _Handler)

    def find_files(self, folder: Path) -> list[Path]:
        """The file of each row's image. Raises UserError where one is not there."""
        files = [folder / path for path in self.answers.paths]
        pairs = zip(self.answers.paths, files, strict=True)
        missing = [path for path, file in pairs if not file.is_file()]
        if missing:
            raise UserError(
                "--images",
                folder,
                f"does not hold {missing[0]} ({len(missing)} of {len(files)} are missing)",
                "give the folder that the table's paths lie in, the data.root of `queue`",
            )
        return files

    @property
    def url(self) -> str:
        """What to open in a browser."""
        return f"http://{HOST}:{self.server_address[1]}/{self.token}/"

    def state(self) -> dict[str, Any]:
        """For the page: the rows with their labels, and the classes in the order of their keys."""
        answers, labels = self.answers, self.answers.labels
        used = [label for label in labels if label and not self._is_unknown(label)]
        return {
            "rows": [
                {"path": printable(path), "label": label, "num_same": num_same}
                for path, label, num_same in zip(
                    answers.paths, labels, answers.num_same, strict=True
                )
            ],
            "classes": list(dict.fromkeys([*self.class_names, *used])),
            "is_audit": self.is_audit,
        }

    def _is_unknown(self, label: str) -> bool:
        return self.is_audit and label == CANNOT_TELL

    def objection(self, row: int, label: str) -> str:
        """Why a label cannot be an image's answer, for the person; empty where it can."""
        return ""

    def image(self, row: int, size: str) -> bytes:
        """A JPEG of a row's image. Raises UserError where it cannot be read."""
        file = self.files[row]
        try:
            content = file.read_bytes()
        except OSError as error:
            raise UserError("--images", file, "cannot be read", "put it back") from error
        image = decode(content, "--images", file).convert("RGB")
        image.thumbnail((SIDES[size], SIDES[size]))
        made = io.BytesIO()
        image.save(made, "JPEG", quality=85)
        return made.getvalue()


class _Handler(BaseHTTPRequestHandler):
    server: Annotator
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """The page, its state, and images."""
        path = self._path_within()
        if path is None:
            return
        if path == "":
            self._answer(HTTPStatus.OK, "text/html; charset=utf-8", _page(self.server.template))
        elif path == "state":
            self._answer_json(self.server.state())
        elif found := re.fullmatch(r"image/(\d{1,9})/(large|small)", path):
            row = int(found[1])
            try:
                content = self.server.image(row, found[2])
            except (UserError, LookupError):
                self._refuse(HTTPStatus.NOT_FOUND)
                return
            self._answer(HTTPStatus.OK, "image/jpeg", content)
        else:
            self._refuse(HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        """An answer, or the end."""
        path = self._path_within()
        if path is None:
            return
        # A page of another site may post a form, but neither JSON nor from this origin.
        length = self.headers.get("Content-Length", "")
        is_json = self.headers.get("Content-Type") == "application/json"
        if not is_json or not length.isdigit() or int(length) > LONGEST_REQUEST:
            self.close_connection = True  # what it has sent is not read
            self._refuse(HTTPStatus.BAD_REQUEST)
            return
        content = self.rfile.read(int(length))
        if path == "stop":
            self._answer_json({})
            self.server.shutdown()
        elif path == "answer":
            self._put(content)
        else:
            self._refuse(HTTPStatus.NOT_FOUND)

    def _put(self, content: bytes) -> None:
        try:
            values = json.loads(content)
            row, label = values["row"], values["label"]
            is_right = type(row) is int and 0 <= row < len(self.server.answers.labels)
            is_right = is_right and isinstance(label, str) and len(label) <= LONGEST_LABEL
        except (ValueError, LookupError, TypeError):
            is_right = False
        if not is_right or not (label == label.strip() and label.isprintable()):
            self._refuse(HTTPStatus.BAD_REQUEST)
            return
        if told := self.server.objection(row, label):
            self._answer_json({"error": told}, HTTPStatus.CONFLICT)
            return
        try:
            self.server.answers.put(row, label)
        except ChangedError:
            told = "another program has written the table: reload this page after a new start"
            self._answer_json({"error": told}, HTTPStatus.CONFLICT)
        except OSError as error:
            self._answer_json(
                {"error": f"not saved: {error.strerror}"}, HTTPStatus.INSUFFICIENT_STORAGE
            )
        else:
            self._answer_json({})

    def _path_within(self) -> str | None:
        """What follows the token; None, and refused, for who does not know it."""
        host = self.headers.get("Host", "")
        port = self.server.server_address[1]
        # By another name, this machine's own page could be another site's (DNS rebinding).
        is_own = host in (f"{HOST}:{port}", f"localhost:{port}")
        origin = self.headers.get("Origin", f"http://{host}")
        _, token, path = [*self.path.split("/", 2), "", ""][:3]
        is_known = secrets.compare_digest(token.encode(), self.server.token.encode())
        if is_own and is_known and origin == f"http://{host}":
            return path
        self.close_connection = True
        self._refuse(HTTPStatus.FORBIDDEN)
        return None

    def _refuse(self, status: HTTPStatus) -> None:
        self._answer(status, "text/plain; charset=utf-8", status.phrase.encode())

    def _answer_json(self, value: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._answer(status, "application/json", json.dumps(value).encode())

    def _answer(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")  # the address holds the token
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *values: object) -> None:
        """Nothing: the terminal is for the address."""


def _page(template: str) -> bytes:
    environment = Environment(
        loader=PackageLoader("cotrain_dist.reporting"), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template(template).render().encode()
