"""A server that speaks S3 (moto's), in a thread: it can be stopped and started again, be slow, and be throttled."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import pytest
from moto.backends import get_backend
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from segment.stores import requests

SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"


class Quiet(WSGIRequestHandler):
    """Logs nothing."""

    def log(self, *_: Any) -> None:
        return


class S3Server:
    """A server whose buckets outlive `stop` and `start`.

    failing: share of requests that are answered 503, and how many were. slow: seconds before each answer
    requests: method and path of each
    """

    def __init__(self) -> None:
        self._application: Any = DomainDispatcherApplication(create_backend_app)
        self._server: BaseWSGIServer | None = None
        self._port, self._chance = 0, random.Random(0)
        self.failing, self.slow = 0.0, 0.0
        self.requests: list[tuple[str, str]] = []
        self.refused = 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        time.sleep(self.slow)
        if self._chance.random() < self.failing:
            self.refused += 1
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response("503 Slow Down", [("Content-Type", "application/xml")])
            return [SLOW_DOWN]
        return self._application(environ, start_response)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        self._server = make_server("127.0.0.1", self._port, self, threaded=True, request_handler=Quiet)
        self._server.daemon_threads = True  # type: ignore[attr-defined]
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    @contextmanager
    def stopped_at(self, start: str, seconds: float | None = None) -> Iterator[None]:
        """Stops at the first request of a path that starts so; for some seconds, or until the end of the block."""
        over, stopped = threading.Event(), threading.Event()

        def stop() -> None:
            while not any(path.startswith(start) for _, path in self.requests):
                if over.wait(0.005):
                    return
            self.stop()
            stopped.set()
            if seconds is None:
                over.wait()
            else:
                time.sleep(seconds)
            self.start()

        thread = threading.Thread(target=stop)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
        assert stopped.is_set(), f"nothing was asked for at {start}"

    def client(self) -> Any:
        return boto3.client("s3")

    def files(self, bucket: str, prefix: str = "") -> dict[str, bytes]:
        """Every object below a prefix, by its name relative to it."""
        client, found = self.client(), {}
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for item in page.get("Contents", ()):
                body = client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
                found[item["Key"].removeprefix(prefix)] = body
        return found

    def put(self, bucket: str, key: str, data: bytes) -> None:
        self.client().put_object(Bucket=bucket, Key=key, Body=data)


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A server, to which the environment of this process and of those that it starts leads; with an empty `bucket`.

    Requests are tried again soon. One at a time: all servers of a process have the same buckets.
    """
    for account in get_backend("s3").values():
        account.reset()  # else the files of an earlier server are there
    server = S3Server()
    server.start()
    wanted = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_MAX_ATTEMPTS": "1",  # so that it is this program that asks again
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in wanted.items():
            patch.setenv(name, value)
        patch.setattr(requests, "FIRST_WAIT", 0.02)
        patch.setattr(requests, "LONGEST_WAIT", 0.3)
        requests.store_of.cache_clear()
        try:
            server.client().create_bucket(Bucket="bucket")
            yield server
        finally:
            server.stop()
            requests.store_of.cache_clear()
