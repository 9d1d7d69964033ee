"""An object store on loopback: moto's S3 server behind a gate that delays and fails requests."""

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

_BUSY = b"""<?xml version="1.0"?><Error><Code>SlowDown</Code>
<Message>Please reduce your request rate.</Message></Error>"""


class Gate:
    """What happens to requests for ranges of bytes on their way.

    Attributes:
      latency: seconds before each answer.
      faults: taken one a request, None for none: "busy" (503, as throttled), "error" (500), "cut"
        (half of the bytes), "forbidden" (403).
      ranges: answered so far, as (path, first byte, last byte).
      most: requests that were under way at once.
    """

    def __init__(self, app):
        self._app, self._lock = app, threading.Lock()
        self.latency, self.faults, self.ranges = 0.0, iter(()), []
        self.most = self._now = 0

    def __call__(self, environ, start_response) -> Iterable[bytes]:
        wanted = environ.get("HTTP_RANGE")
        if wanted is None:
            return self._app(environ, start_response)
        with self._lock:
            fault = next(self.faults, None)
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(self.latency)
        try:
            body = self._answer(environ, start_response, fault)
        finally:
            with self._lock:
                self._now -= 1
        if fault is None:
            first, last = wanted.removeprefix("bytes=").split("-")
            self.ranges.append((environ["PATH_INFO"], int(first), int(last)))
        return body

    def _answer(self, environ, start_response, fault: str | None) -> Iterable[bytes]:
        statuses = {"busy": "503 Slow Down", "error": "500 Oops", "forbidden": "403 Forbidden"}
        if fault in statuses:
            body = _BUSY if fault == "busy" else b""
            start_response(statuses[fault], [("Content-Length", str(len(body)))])
            return [body]
        body = b"".join(self._app(environ, start_response))
        return [body[: len(body) // 2]] if fault == "cut" else [body]


@contextlib.contextmanager
def object_store(monkeypatch) -> Iterator[Gate]:
    """Serves the bucket "bucket"; the environment leads s3fs and boto3 to it."""
    pytest.importorskip("moto")
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    quiet = type("Quiet", (WSGIRequestHandler,), {"log": lambda *_: None})
    gate = Gate(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, gate, threaded=True, request_handler=quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    try:
        yield gate
    finally:
        server.shutdown()


def upload(directory: Path, name: str) -> str:
    """Copies a directory into the bucket; returns its URL."""
    import boto3
    import botocore.exceptions

    client = boto3.client("s3")
    with contextlib.suppress(botocore.exceptions.ClientError):
        client.create_bucket(Bucket="bucket")
    for file in directory.rglob("*"):
        if file.is_file():
            key = f"{name}/{file.relative_to(directory)}"
            client.put_object(Bucket="bucket", Key=key, Body=file.read_bytes())
    return f"s3://bucket/{name}"
