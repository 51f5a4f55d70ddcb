"""Everything that goes wrong between a repository and its store, against a real one.

`python -m tests.faults` prints the table: the fault, what DVC said, what `deploy.remote` said, what was lost.
Each fault ends with the cure; then a fresh clone must pull every byte.
"""

import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.store import Store, Wire, free_ports

ROOT = Path(__file__).parent.parent
TRACKED = ("models", "raw")
FILES = {  # of the repository that every fault starts from: name -> bytes
    "models/adapter/adapter_model.safetensors": 1_500_000,
    "models/adapter/character.json": 2_000,
    "models/adapter/chat_template.jinja": 300,
    "raw/mygame/script/第一章　夏の終わり.txt": 60_000,
    "raw/mygame/script/02 秋.ks": 40_000,
    "raw/lines.jsonl": 90_000,
}
PATIENCE = 120  # seconds for one command


@dataclass(frozen=True)
class Done:
    """How a command ended, and the last thing that it said."""

    code: int
    said: str


@dataclass
class Scene:
    """A fault's own repository `mine`, its place in the store, and what happened so far."""

    root: Path
    store: Store
    place: str
    environment: dict[str, str]
    seed: int = 0
    dvc_said: str = ""
    remote_said: str = ""
    tries: int = 0
    wrong: int = 0
    clones: list[Path] = field(default_factory=list)

    @property
    def mine(self) -> Path:
        return self.root / "mine"

    def run(self, where: Path, *command: str, **changes: str) -> Done:
        """Run in a process group of its own, ended as a whole."""
        with started(where, command, self.environment | changes) as process:
            try:
                said, _ = process.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                return Done(-1, f"no end after {PATIENCE} s")
        return Done(process.returncode, last_words(said))

    def dvc(self, where: Path, *command: str, **changes: str) -> Done:
        """A dvc command; a failed one is what the user of the table saw."""
        done = self.run(where, "dvc", *command, **changes)
        self.tries += 1
        if done.code:
            self.dvc_said = done.said
        return done

    def remote(self, where: Path, *command: str, **changes: str) -> Done:
        """A `deploy.remote` command."""
        done = self.run(where, sys.executable, "-m", "deploy.remote", *command, **changes)
        self.remote_said = self.remote_said if done.code == 0 and self.remote_said else done.said
        return done

    def push(self, where: Path | None = None, **changes: str) -> Done:
        return self.dvc(where or self.mine, "push", **changes)

    def pull(self, where: Path, **changes: str) -> Done:
        """Pull, and count the bytes that are not those of `mine` although they lie there as if they were."""
        done = self.dvc(where, "pull", **changes)
        truth = contents(self.mine)
        self.wrong += sum(len(data) for name, data in contents(where).items() if truth.get(name) != data)
        self.wrong += sum(len(data) for name, data in cached(where).items() if named_wrongly(name, data))
        return done

    def clone(self) -> Path:
        """A friend's clone, with nothing in its cache."""
        friend = self.root / f"friend{len(self.clones)}"
        git(self.root, "clone", "-q", "mine", str(friend), environment=self.environment)
        self.clones.append(friend)
        return friend

    def through(self, wire: Wire | str, *clones: Path) -> None:
        """Send the clones' traffic through a wire (or to another address)."""
        endpoint = wire if isinstance(wire, str) else wire.endpoint
        for clone in clones:
            local = f"['remote \"storage\"']\n    endpointurl = {endpoint}\n"
            (clone / ".dvc" / "config.local").write_text(local, encoding="utf-8")

    def straight(self, *clones: Path) -> None:
        """Send the clones' traffic straight to the store again."""
        for clone in clones:
            (clone / ".dvc" / "config.local").unlink(missing_ok=True)

    def object_of(self, name: str) -> str:
        """Where the store keeps a file of `mine`."""
        digest = hashlib.md5((self.mine / name).read_bytes()).hexdigest()
        return f"files/md5/{digest[:2]}/{digest[2:]}"

    def folders(self) -> list[str]:
        """Where the store keeps the lists of folders."""
        return [name for name in self.store.objects(self.place) if name.endswith(".dir")]

    def read(self, name: str) -> bytes:
        return self.store.client().get_object(**self._at(name))["Body"].read()

    def write(self, name: str, data: bytes) -> None:
        self.store.client().put_object(**self._at(name), Body=data)

    def delete(self, name: str) -> None:
        self.store.client().delete_object(**self._at(name))

    def _at(self, name: str) -> dict[str, str]:
        return {"Bucket": self.store.bucket, "Key": f"{self.place}/{name}"}


# --- the faults: each does harm, looks at what is said, and cures it


def no_fault(scene: Scene) -> None:
    assert scene.push().code == 0
    assert scene.pull(scene.clone()).code == 0


def a_wrong_key(scene: Scene) -> None:
    wrong = {"AWS_SECRET_ACCESS_KEY": "not-the-secret"}
    assert scene.push(**wrong).code != 0
    assert "the secret does not fit the key" in scene.remote(scene.mine, "check", **wrong).said
    assert scene.push().code == 0


def no_key(scene: Scene) -> None:
    none = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    assert scene.push(**none).code != 0
    assert "no key was given" in scene.remote(scene.mine, "check", **none).said
    assert scene.push().code == 0


def a_missing_bucket(scene: Scene) -> None:
    config = scene.mine / ".dvc" / "config"
    right = config.read_text(encoding="utf-8")
    config.write_text(right.replace(f"s3://{scene.store.bucket}/", "s3://no-such-bucket/"), encoding="utf-8")
    assert scene.push().code != 0
    url = f"s3://no-such-bucket/{scene.place}"
    said = scene.remote(scene.mine, "add", url, "--endpoint", scene.store.endpoint).said
    assert "there is no bucket no-such-bucket" in said
    config.write_text(right, encoding="utf-8")
    assert scene.push().code == 0


def a_key_that_may_only_read(scene: Scene) -> None:
    reader = scene.store.keys("reader")
    assert scene.push(**reader).code != 0
    url = f"s3://{scene.store.bucket}/{scene.place}"
    assert "may not write" in scene.remote(scene.mine, "add", url, "--endpoint", scene.store.endpoint, **reader).said
    assert scene.push().code == 0
    assert scene.pull(scene.clone(), **reader).code == 0, "reading is enough to pull"


def a_dead_server(scene: Scene) -> None:
    scene.through(f"http://127.0.0.1:{free_ports(1)[0]}", scene.mine)
    begin = time.monotonic()
    assert scene.push().code not in (0, -1)
    assert time.monotonic() - begin < 60, "retries are bounded"
    assert "nothing answers at" in scene.remote(scene.mine, "check").said
    scene.straight(scene.mine)
    assert scene.push().code == 0


def a_server_killed_in_mid_push(scene: Scene) -> None:
    with Wire(scene.store.ports["s3.port"], rate=600_000) as wire:
        scene.through(wire, scene.mine)
        with started(scene.mine, ("dvc", "push"), scene.environment) as push:
            wait_until(lambda: wire.passed > 300_000)
            scene.store.kill()
            said, _ = push.communicate(timeout=PATIENCE)
    assert push.returncode != 0
    scene.dvc_said, scene.tries = last_words(said), scene.tries + 1
    assert "nothing answers at" in scene.remote(scene.mine, "check").said
    scene.store.start()
    scene.straight(scene.mine)
    assert scene.push().code == 0


def a_server_gone_in_mid_pull(scene: Scene) -> None:
    assert scene.push().code == 0
    friend = scene.clone()
    with Wire(scene.store.ports["s3.port"], limit=500_000) as wire:
        scene.through(wire, friend)
        assert scene.pull(friend).code != 0
        assert "nothing answers at" in scene.remote(friend, "check").said
    scene.straight(friend)
    assert scene.pull(friend).code == 0


def a_push_killed(scene: Scene) -> None:
    with Wire(scene.store.ports["s3.port"], rate=600_000) as wire:
        scene.through(wire, scene.mine)
        kill_amid(scene, scene.mine, "push", wire)
    scene.straight(scene.mine)
    assert scene.pull(scene.clone()).code != 0, "what was not pushed cannot be pulled"
    assert scene.push().code == 0


def a_pull_killed(scene: Scene) -> None:
    assert scene.push().code == 0
    friend = scene.clone()
    with Wire(scene.store.ports["s3.port"], rate=600_000) as wire:
        scene.through(wire, friend)
        kill_amid(scene, friend, "pull", wire)
    scene.straight(friend)
    assert scene.pull(friend).code == 0


def one_flipped_byte(scene: Scene) -> None:
    assert scene.push().code == 0
    where = scene.object_of("models/adapter/adapter_model.safetensors")
    scene.write(where, flipped(scene.read(where)))
    assert scene.pull(scene.clone()).code != 0, "wrong bytes are never taken for good ones"
    said = scene.remote(scene.mine, "check").said
    assert "corrupted: models/adapter/adapter_model.safetensors" in said
    assert scene.remote(scene.mine, "check", "--repair").code == 0


def a_cut_object(scene: Scene) -> None:
    assert scene.push().code == 0
    where = scene.object_of("raw/lines.jsonl")
    scene.write(where, scene.read(where)[:1000])
    assert scene.pull(scene.clone()).code != 0
    assert "corrupted (1,000 bytes for 90,000): raw/lines.jsonl" in scene.remote(scene.mine, "check").said
    assert scene.remote(scene.mine, "check", "--repair").code == 0


def a_lost_object(scene: Scene) -> None:
    assert scene.push().code == 0
    scene.delete(scene.object_of("models/adapter/character.json"))
    assert scene.pull(scene.clone()).code != 0
    assert scene.push().code == 0
    assert scene.object_of("models/adapter/character.json") not in scene.store.objects(scene.place), (
        "if DVC heals this by itself, the repair has a simpler reason"
    )
    assert "lost: models/adapter/character.json" in scene.remote(scene.mine, "check").said
    assert scene.remote(scene.mine, "check", "--repair").code == 0


def a_lost_folder_list(scene: Scene) -> None:
    assert scene.push().code == 0
    for name in scene.folders():
        scene.delete(name)
    assert scene.pull(scene.clone()).code != 0
    assert "lost: models/adapter" in scene.remote(scene.mine, "check").said
    assert scene.remote(scene.mine, "check", "--repair").code == 0


def a_sick_cache(scene: Scene) -> None:
    assert scene.push().code == 0
    name = "models/adapter/character.json"
    where, before = scene.object_of(name), scene.store.objects(scene.place)
    scene.delete(where)
    copy = scene.mine / ".dvc" / "cache" / where
    whole = copy.read_bytes()
    copy.chmod(0o644)
    copy.write_bytes(flipped(whole))
    refusal = scene.remote(scene.mine, "check", "--repair")
    assert refusal.code == 1 and "cannot heal the store; nothing was changed" in refusal.said
    assert scene.store.objects(scene.place) == {key: size for key, size in before.items() if key != where}
    copy.write_bytes(whole)
    assert scene.remote(scene.mine, "check", "--repair").code == 0


def a_slow_server(scene: Scene) -> None:
    with Wire(scene.store.ports["s3.port"], rate=400_000) as wire:
        friend = scene.clone()
        scene.through(wire, scene.mine, friend)
        assert scene.push().code == 0
        assert scene.pull(friend).code == 0


def two_pushes_at_once(scene: Scene) -> None:
    other = scene.root / "other"
    shutil.copytree(scene.mine, other, symlinks=True)
    with started(scene.mine, ("dvc", "push"), scene.environment) as one:
        two = scene.push(other)
        one.communicate(timeout=PATIENCE)
    assert (one.returncode, two.code) == (0, 0)


def a_large_object(scene: Scene) -> None:
    big = scene.mine / "models" / "adapter" / "adapter_model.safetensors"
    big.unlink()
    big.write_bytes(random.Random(1).randbytes(200_000_000))
    assert scene.run(scene.mine, "dvc", "add", "-q", "models/adapter").code == 0
    git(scene.mine, "commit", "-qam", "large", environment=scene.environment)
    assert scene.push().code == 0
    assert "all there, all intact" in scene.remote(scene.mine, "check").said


FAULTS = {
    fault.__name__: fault
    for fault in (
        no_fault,
        a_wrong_key,
        no_key,
        a_missing_bucket,
        a_key_that_may_only_read,
        a_dead_server,
        a_server_killed_in_mid_push,
        a_server_gone_in_mid_pull,
        a_push_killed,
        a_pull_killed,
        one_flipped_byte,
        a_cut_object,
        a_lost_object,
        a_lost_folder_list,
        a_sick_cache,
        a_slow_server,
        two_pushes_at_once,
        a_large_object,
    )
}


# --- the stage they play on


@contextmanager
def stage(root: Path) -> Iterator[tuple[Store, dict[str, str]]]:
    """A store, an environment that touches nothing of the user's, and the repository to copy, `root/first`."""
    with Store(root / "store") as store:
        environment = make_environment(root, store.keys())
        make_repository(root / "first", environment)
        command = (
            sys.executable,
            "-m",
            "deploy.remote",
            "add",
            f"s3://{store.bucket}/first",
            "--endpoint",
            store.endpoint,
        )
        subprocess.run(command, cwd=root / "first", env=environment, check=True, capture_output=True)
        git(root / "first", "add", "-A", environment=environment)
        git(root / "first", "commit", "-qm", "storage", environment=environment)
        yield store, environment


def play(name: str, root: Path, store: Store, environment: Mapping[str, str]) -> tuple[Scene, int]:
    """One fault and its cure; returns what happened, and the bytes that a fresh clone does not get back."""
    scene = Scene(root / name, store, name, dict(environment))
    shutil.copytree(root / "first", scene.mine, symlinks=True)
    config = scene.mine / ".dvc" / "config"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace(f"s3://{store.bucket}/first", f"s3://{store.bucket}/{name}"), encoding="utf-8")
    git(scene.mine, "commit", "-qam", "a place of its own", environment=scene.environment)
    FAULTS[name](scene)
    friend = scene.clone()
    done = scene.pull(friend)
    assert done.code == 0, done.said
    got = contents(friend)
    return scene, sum(len(data) for file, data in contents(scene.mine).items() if got.get(file) != data)


def make_environment(root: Path, keys: Mapping[str, str]) -> dict[str, str]:
    """The given keys; home, caches and settings below the root."""
    home = root / "home"
    home.mkdir(parents=True, exist_ok=True)
    bin_folder = Path(sys.executable).parent
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "DVC_", "GIT_"))},
        **keys,
        "AWS_EC2_METADATA_DISABLED": "true",
        "HOME": str(home),
        "DVC_SITE_CACHE_DIR": str(root / "site"),
        "DVC_GLOBAL_CONFIG_DIR": str(home / "dvc"),
        "DVC_SYSTEM_CONFIG_DIR": str(home / "dvc-system"),
        "DVC_NO_ANALYTICS": "1",
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GIT_{who}_{what}": "tests@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }


def make_repository(folder: Path, environment: Mapping[str, str]) -> None:
    """A repository whose adapter and raw text are DVC's."""
    dice = random.Random(7)
    for name, size in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(dice.randbytes(size))
    git(folder, "init", "-q", "-b", "main", environment=environment)
    for command in (["dvc", "init", "-q"], ["dvc", "add", "-q", "models/adapter", "raw/mygame", "raw/lines.jsonl"]):
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    git(folder, "add", "-A", environment=environment)
    git(folder, "commit", "-qm", "data", environment=environment)


def git(where: Path, *command: str, environment: Mapping[str, str]) -> None:
    subprocess.run(["git", *command], cwd=where, env=environment, check=True, capture_output=True)


@contextmanager
def started(where: Path, command: tuple[str, ...], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A running command whose whole process group is dead afterwards."""
    process = subprocess.Popen(
        command,
        cwd=where,
        env=environment,
        text=True,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def kill_amid(scene: Scene, where: Path, command: str, wire: Wire) -> None:
    """Kill -9 while bytes flow."""
    with started(where, ("dvc", command), scene.environment) as process:
        wait_until(lambda: wire.passed > 300_000)
        assert process.poll() is None
    scene.dvc_said, scene.tries = "(killed)", scene.tries + 1


def wait_until(true: Callable[[], bool]) -> None:
    """Poll for half a minute."""
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


def contents(repository: Path) -> dict[str, bytes]:
    """The tracked files that lie in the workspace."""
    paths = [path for part in TRACKED for path in sorted((repository / part).rglob("*")) if path.is_file()]
    data = [path for path in paths if path.suffix != ".dvc" and path.name != ".gitignore"]
    return {path.relative_to(repository).as_posix(): path.read_bytes() for path in data}


def cached(repository: Path) -> dict[str, bytes]:
    """The objects in a clone's cache, by the hash that their names claim."""
    folder = repository / ".dvc" / "cache" / "files" / "md5"
    found = [path for path in folder.glob("??/*") if re.fullmatch(r"[0-9a-f]{30}(\.dir)?", path.name)]
    return {path.parent.name + path.name: path.read_bytes() for path in found}


def named_wrongly(name: str, data: bytes) -> bool:
    return hashlib.md5(data).hexdigest() != name.removesuffix(".dir")


def flipped(data: bytes) -> bytes:
    """The same with one bit turned in the middle."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def last_words(said: str) -> str:
    """What stands at the end: an error and what follows it, else the last line."""
    lines = [line for line in said.replace("\r", "\n").splitlines() if line.strip()]
    errors = [number for number, line in enumerate(lines) if line.lower().startswith("error")]
    return "\n".join(lines[errors[-1] :] if errors else lines[-1:])


def main() -> None:
    names = sys.argv[1:] or list(FAULTS)
    print("fault | dvc runs | dvc said | deploy.remote said | bytes lost | wrong bytes accepted")
    with tempfile.TemporaryDirectory() as folder, stage(Path(folder)) as (store, environment):
        for name in names:
            scene, lost = play(name, Path(folder), store, environment)
            words = [text.replace("\n", " / ").replace(folder, "…") for text in (scene.dvc_said, scene.remote_said)]
            print(" | ".join([name, str(scene.tries), *words, str(lost), str(scene.wrong)]), flush=True)


if __name__ == "__main__":
    main()
