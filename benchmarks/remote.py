"""Seconds of `dvc push` and `dvc pull` against a plain boto3 copy of the same bytes to the same store, in one run.

    python -m benchmarks.remote     three rounds, in turns; SeaweedFS on loopback; needs requirements-bench.txt

Both are processes of their own, from start to end. boto3 copies files and compares nothing; DVC asks first what is
there, hashes, and with `verify` reads every pulled byte once more.
"""

import hashlib
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults import git, make_environment
from tests.store import Store

ROUNDS = 3
THREADS = 16
SHAPES = {  # name: (files, bytes each)
    "an adapter and its data": [(1, 40_000_000), (12, 1_000_000)],
    "one large file": [(1, 200_000_000)],
    "many small files": [(500, 10_000)],
}


def copy_up(folder: Path, endpoint: str, bucket: str, prefix: str) -> None:
    """What a careful script does: upload_file of every file, in threads."""
    import boto3

    client = boto3.client("s3", endpoint_url=endpoint)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda path: client.upload_file(path, bucket, f"{prefix}/{path.relative_to(folder)}"), files))


def copy_down(folder: Path, endpoint: str, bucket: str, prefix: str) -> None:
    """And download_file of every object."""
    import boto3

    client = boto3.client("s3", endpoint_url=endpoint)
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    keys = [row["Key"] for page in pages for row in page["Contents"]]
    targets = {key: folder / key.removeprefix(f"{prefix}/") for key in keys}
    for parent in {path.parent for path in targets.values()}:
        parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda key: client.download_file(bucket, key, targets[key]), keys))


COPIES: dict[str, Callable[[Path, str, str, str], None]] = {"up": copy_up, "down": copy_down}


def timed(where: Path, environment: Mapping[str, str], *command: str) -> float:
    begin = time.perf_counter()
    subprocess.run(command, cwd=where, env=environment, check=True, capture_output=True)
    return time.perf_counter() - begin


def make_data(folder: Path, shape: list[tuple[int, int]], seed: int) -> None:
    dice = random.Random(seed)
    for kind, (count, size) in enumerate(shape):
        for number in range(count):
            path = folder / f"part{number % 8}" / f"{kind}-{number}.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(dice.randbytes(size))


def digest(folder: Path) -> str:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return hashlib.md5(b"".join(path.read_bytes() for path in files), usedforsecurity=False).hexdigest()


def one_round(root: Path, store: Store, environment: Mapping[str, str], shape: list, seed: int) -> dict[str, float]:
    """Seconds of each: new bytes, new places, so that nothing is there yet."""
    mine, friend, plain = root / "mine", root / "friend", root / "plain"
    make_data(mine / "data", shape, seed)
    git(mine, "init", "-q", environment=environment)
    for line in ("dvc init -q", "dvc add -q data"):
        subprocess.run(line.split(), cwd=mine, env=environment, check=True, capture_output=True)
    address = (f"s3://{store.bucket}/dvc{seed}", "--endpoint", store.endpoint)
    subprocess.run([sys.executable, "-m", "deploy.remote", "add", *address], cwd=mine, env=environment, check=True,
                   capture_output=True)  # fmt: skip
    git(mine, "add", "-A", environment=environment)
    git(mine, "commit", "-qm", "data", environment=environment)
    git(root, "clone", "-q", "mine", "friend", environment=environment)
    copy = (sys.executable, "-m", "benchmarks.remote")
    place = (store.endpoint, store.bucket, f"plain{seed}")
    seconds = {
        "boto3 up": timed(mine, environment, *copy, "up", str(mine / "data"), *place),
        "dvc push": timed(mine, environment, "dvc", "push"),
        "dvc push again": timed(mine, environment, "dvc", "push"),
        "boto3 down": timed(root, environment, *copy, "down", str(plain), *place),
        "dvc pull": timed(friend, environment, "dvc", "pull"),
        "check": timed(friend, environment, sys.executable, "-m", "deploy.remote", "check"),
    }
    assert digest(mine / "data") == digest(plain) == digest(friend / "data")
    for folder in (mine, friend, plain):
        shutil.rmtree(folder)
    return seconds


def compare() -> None:
    print("shape | MB | " + " | ".join(["boto3 up", "dvc push", "ratio", "dvc push again", "boto3 down", "dvc pull",
                                        "ratio", "check"]))  # fmt: skip
    for at, (name, shape) in enumerate(SHAPES.items()):
        with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "store") as store:
            root = Path(folder)
            environment = make_environment(root, store.keys())
            rounds = [one_round(root, store, environment, shape, at * 100 + number) for number in range(ROUNDS)]
        median = {key: statistics.median(seconds[key] for seconds in rounds) for key in rounds[0]}
        up, down = median["dvc push"] / median["boto3 up"], median["dvc pull"] / median["boto3 down"]
        size = sum(count * each for count, each in shape) / 1e6
        row = [median["boto3 up"], median["dvc push"], up, median["dvc push again"], median["boto3 down"]]
        print(
            " | ".join([name, f"{size:.0f}", *(f"{x:.2f}" for x in [*row, median["dvc pull"], down, median["check"]])])
        )


def main() -> None:
    if len(sys.argv) == 1:
        compare()
    else:
        way, folder, *place = sys.argv[1:]
        COPIES[way](Path(folder), *place)


if __name__ == "__main__":
    main()
