"""A bucket of Google Cloud Storage on this machine: as much of its JSON API as runs make use of.

Generations and preconditions are kept, as tensorstore relies on them. Emulators from PyPI ignore
them.
"""

import contextlib
import http.server
import itertools
import json
import re
import threading
from collections.abc import Iterator
from urllib.parse import parse_qs, unquote, urlsplit

TIME = "2026-01-01T00:00:00.000000Z"


class Bucket:
    """What is in the bucket `runs`.

    Attributes:
      objects: name -> (bytes, generation).
      refuse: names that it matches cannot be written.
    """

    def __init__(self):
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.refuse: str | None = None
        self.lock = threading.RLock()
        self.generations = itertools.count(1)
        self.uploads: dict[str, tuple[str, bytearray]] = {}  # resumable, by number
        self.environment: dict[str, str] = {}

    def names(self, prefix: str = "") -> list[str]:
        """Names of objects without a prefix, sorted."""
        return sorted(n.removeprefix(prefix) for n in self.objects if n.startswith(prefix))

    def read(self, name: str) -> bytes:
        return self.objects[name][0]

    def describe(self, name: str) -> dict:
        data, generation = self.objects[name]
        return {
            "kind": "storage#object", "name": name, "bucket": "runs", "size": str(len(data)),
            "generation": str(generation), "metageneration": "1", "updated": TIME,
            "timeCreated": TIME, "contentType": "application/octet-stream",
        }  # fmt: skip


@contextlib.contextmanager
def serve_bucket() -> Iterator[Bucket]:
    """Serves the bucket; `environment` has the variables that lead there."""
    bucket = Bucket()
    handler = type("Handler", (_Handler,), {"bucket": bucket})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        bucket.environment = {"STORAGE_EMULATOR_HOST": url, "TENSORSTORE_GCS_HTTP_URL": url}
        yield bucket
        server.shutdown()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: Bucket

    def log_message(self, *_):
        pass

    def _answer(self, status: int, body: dict | bytes = b"", **headers: str) -> None:
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _read_request(self) -> None:
        url = urlsplit(self.path)
        self.query = {k: v[0] for k, v in parse_qs(url.query, keep_blank_values=True).items()}
        found = re.search(r"/b/([^/]+)(?:/o(?:/(.+))?)?$", url.path)
        self.in_bucket = found is not None and found[1] == "runs"
        self.is_list = url.path.endswith("/o")
        self.name = unquote(found[2]) if found and found[2] else self.query.get("name")
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                self.body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()

    def _generation(self) -> int:
        return self.bucket.objects.get(self.name, (b"", 0))[1]

    def _conditions_hold(self) -> bool:
        wanted = self.query.get("ifGenerationMatch", self._generation())
        return int(wanted) == self._generation()

    def do_GET(self) -> None:
        self._read_request()
        with self.bucket.lock:
            if not self.in_bucket:
                self._answer(404, {"error": {"code": 404, "message": "no such bucket"}})
            elif self.is_list:
                self._answer(200, self._list())
            elif self.name is None:
                self._answer(200, {"kind": "storage#bucket", "name": "runs", "id": "runs"})
            elif self.name not in self.bucket.objects:
                self._answer(404, {"error": {"code": 404, "message": "no such object"}})
            elif self.query.get("alt") == "media":
                self._answer_media()
            else:
                self._answer(200, self.bucket.describe(self.name))

    def _answer_media(self) -> None:
        data, generation = self.bucket.objects[self.name]
        if self.query.get("ifGenerationNotMatch") == str(generation):
            return self._answer(304)
        headers = {"x_goog_generation": str(generation)}
        part = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if part is None:
            return self._answer(200, data, **headers)
        first = int(part[1]) if part[1] else len(data) - int(part[2])
        last = min(int(part[2] or len(data) - 1), len(data) - 1) if part[1] else len(data) - 1
        if first >= len(data):
            return self._answer(416)
        headers["Content_Range"] = f"bytes {first}-{last}/{len(data)}"
        return self._answer(206, data[first : last + 1], **headers)

    def _list(self) -> dict:
        prefix, delimiter = self.query.get("prefix", ""), self.query.get("delimiter")
        items, prefixes = [], {}
        for name in self.bucket.names():
            if not name.startswith(prefix) or name < self.query.get("startOffset", ""):
                continue
            if (end := self.query.get("endOffset")) and name >= end:
                continue
            folder, found, _ = name.removeprefix(prefix).partition(delimiter or "\0")
            if found:
                prefixes[f"{prefix}{folder}{delimiter}"] = None
            else:
                items.append(self.bucket.describe(name))
        return {"kind": "storage#objects", "items": items, "prefixes": list(prefixes)}

    def do_POST(self) -> None:
        self._read_request()
        kind, number = self.query.get("uploadType"), self.query.get("upload_id")
        with self.bucket.lock:
            if number:
                return self._continue_upload(number)
            data = self.body
            if kind == "multipart":
                boundary = re.search('boundary="?([^"]+)', self.headers["Content-Type"])[1].encode()
                about, content = self.body.split(b"--" + boundary)[1:3]
                self.name = json.loads(about.split(b"\n\n", 1)[1])["name"]
                data = content.split(b"\n\n", 1)[1].removesuffix(b"\n")
            if self.bucket.refuse and re.search(self.bucket.refuse, self.name):
                return self._answer(403, {"error": {"code": 403, "message": "the bucket refuses"}})
            if kind == "resumable":
                number = str(next(self.bucket.generations))
                self.bucket.uploads[number] = (self.name, bytearray())
                where = f"http://{self.headers['Host']}{self.path}&upload_id={number}"
                return self._answer(200, Location=where)
            if not self._conditions_hold():
                return self._answer(412, {"error": {"code": 412, "message": "another generation"}})
            return self._put(data)

    do_PUT = do_POST  # noqa: N815

    def _continue_upload(self, number: str) -> None:
        self.name, data = self.bucket.uploads[number]
        data += self.body
        if self.headers["Content-Range"].endswith("/*"):
            return self._answer(308, Range=f"bytes=0-{len(data) - 1}")
        del self.bucket.uploads[number]
        return self._put(bytes(data))

    def _put(self, data: bytes) -> None:
        self.bucket.objects[self.name] = (data, next(self.bucket.generations))
        self._answer(200, self.bucket.describe(self.name))

    def do_DELETE(self) -> None:
        self._read_request()
        with self.bucket.lock:
            if self.name not in self.bucket.objects:
                self._answer(404, {"error": {"code": 404, "message": "no such object"}})
            elif not self._conditions_hold():
                self._answer(412, {"error": {"code": 412, "message": "another generation"}})
            else:
                del self.bucket.objects[self.name]
                self._answer(204)
