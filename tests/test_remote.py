"""Object storage: addresses and settings, a folder as a store, every fault against a real one, and the whole way."""

import asyncio
import re
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import asyncssh
import psutil
import pytest
from dvc.fs import LocalFileSystem
from dvc.repo import Repo
from ruamel.yaml import YAML

from deploy.preflight import try_store
from deploy.remote import add, describe, s3_settings
from deploy.stored import check, repair
from stages.records import InputError
from tests.faults import FAULTS, PATIENCE, contents, flipped, git, make_environment, make_repository, play, stage
from tests.pipeline import ROOT, commit

# --- addresses and settings


@pytest.mark.parametrize(
    ("url", "endpoint", "complaint"),
    [
        ("s3://key:secret@bucket/path", None, "without a secret in it"),
        ("ssh://me:secret@host/path", None, "without a secret in it"),
        ("s3://bucket", None, "got no path"),
        ("s3:///path", None, "got no bucket"),
        ("s3://bucket/path", "s3.example.org", "expected https://host[:port]"),
        ("s3://bucket/path", "https://key:secret@s3.example.org", "expected https://host[:port]"),
        ("/a/folder", "https://s3.example.org", "expected an s3:// address with it"),
        ("gdrive://folder", None, "expected s3://bucket/path, ssh://user@host/path or a folder"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(url, endpoint, complaint):
    with pytest.raises(InputError, match=re.escape(complaint)) as error:
        describe(url, endpoint)
    assert "secret@" not in str(error.value), "a secret is not printed either"


@pytest.mark.parametrize("url", ["s3://bucket/path", "ssh://me@host/path", "a/folder"])
def test_every_remote_verifies_what_it_pulls(url):
    assert describe(url, None)["verify"] == "true"


def test_a_region_that_the_environment_names_travels_to_the_friend(monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "cn-north-1")
    assert describe("s3://bucket/path", None)["region"] == "cn-north-1"


@pytest.mark.parametrize(
    ("endpoint", "address"),
    [
        ("https://oss-cn-hangzhou.aliyuncs.com", "https://bucket.oss-cn-hangzhou.aliyuncs.com/key"),
        ("https://cos.ap-shanghai.myqcloud.com", "https://bucket.cos.ap-shanghai.myqcloud.com/key"),
        ("https://account.r2.cloudflarestorage.com", "https://account.r2.cloudflarestorage.com/bucket/key"),
        ("http://127.0.0.1:8333", "http://127.0.0.1:8333/bucket/key"),
    ],
)
def test_each_store_is_addressed_as_it_wants(endpoint, address, tmp_path, monkeypatch):
    from botocore.session import Session

    (tmp_path / "s3.ini").write_text(s3_settings(endpoint), encoding="utf-8")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "s3.ini"))
    client = Session().create_client(
        "s3", endpoint_url=endpoint, region_name="cn", aws_access_key_id="k", aws_secret_access_key="s"
    )
    signed = client.generate_presigned_url("get_object", {"Bucket": "bucket", "Key": "key"})
    assert signed.split("?")[0] == address
    assert client.meta.config.retries["total_max_attempts"] == 2, "a dead store is given up soon"


# --- a folder as a store, in this process


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A repository to copy."""
    root = tmp_path_factory.mktemp("first")
    make_repository(root / "mine", make_environment(root, {}))
    return root / "mine"


@pytest.fixture
def mine(first, tmp_path, monkeypatch):
    """A repository with data of its own; nothing of the user's is touched."""
    for name, value in make_environment(tmp_path, {}).items():
        monkeypatch.setenv(name, value)
    shutil.copytree(first, tmp_path / "mine", symlinks=True)
    monkeypatch.chdir(tmp_path / "mine")
    with Repo() as repo:
        yield repo


def stored(tmp_path, mine, name):
    """Where the folder keeps a file."""
    (found,) = (entry for entry in mine.index.outs if str(entry) == name)
    oid = found.hash_info.value
    return tmp_path / "store" / "files" / "md5" / oid[:2] / oid[2:]


def fails(act, mine):
    with pytest.raises(InputError) as error:
        act(mine)
    return str(error.value)


def test_a_folder_becomes_the_default_remote(mine, tmp_path):
    add(mine, str(tmp_path / "store"), None, "storage")
    text = Path(".dvc/config").read_text(encoding="utf-8")
    assert f"url = {tmp_path / 'store'}" in text and "verify = true" in text and "remote = storage" in text
    assert list((tmp_path / "store").iterdir()) == [], "the trial leaves nothing behind"


@pytest.mark.parametrize("name", ["", "../up", "a/b", "a b", ".", "a\nb"])
def test_a_name_that_is_no_part_of_a_files_name_is_refused(mine, tmp_path, name):
    with pytest.raises(InputError, match="--name: expected letters, digits"):
        add(mine, str(tmp_path / "store"), None, name)


def test_a_second_store_leaves_the_first_addressed_as_it_wants(mine, monkeypatch):
    tried = []
    monkeypatch.setattr("deploy.remote.try_store", lambda config: tried.append(Path(config["configpath"]).read_text()))
    add(mine, "s3://bucket/path", "https://oss-cn-hangzhou.aliyuncs.com", "oss")
    add(mine, "s3://bucket/path", "http://127.0.0.1:8333", "own")
    with Repo() as again:
        named = {name: Path(remote["configpath"]) for name, remote in again.config["remote"].items() if name != "up"}
    assert {name: path.name for name, path in named.items()} == {"oss": "s3.oss.ini", "own": "s3.own.ini"}
    assert [path.read_text(encoding="utf-8") for path in named.values()] == tried
    assert [text.count("style = virtual") for text in tried] == [1, 0]


def test_a_name_that_is_taken_by_another_store_is_refused_and_its_settings_stay(mine, tmp_path, monkeypatch):
    monkeypatch.setattr("deploy.remote.try_store", lambda config: None)
    add(mine, str(tmp_path / "store"), None, "storage")
    add(mine, "s3://bucket/path", "https://one.example.org", "far")
    before = Path(".dvc/config").read_text(encoding="utf-8")
    message = fails(lambda repo: add(repo, str(tmp_path / "other"), None, "storage"), mine)
    assert f"expected a new name for another store, got `storage`, which is {tmp_path / 'store'}" in message
    assert "hint: --name OTHER" in message
    message = fails(lambda repo: add(repo, "s3://bucket/path", "https://two.example.org", "far"), mine)
    assert "got `far`, which is s3://bucket/path at https://one.example.org" in message, "the bucket's name is the same"
    assert Path(".dvc/config").read_text(encoding="utf-8") == before


def test_the_same_store_is_added_again_with_what_was_set_by_hand(mine, tmp_path):
    tried = []
    add(mine, str(tmp_path / "store"), None, "storage")
    with mine.config.edit("repo") as config:
        config["remote"]["storage"] |= {"jobs": 3, "verify": False}
    with Repo() as again, pytest.MonkeyPatch.context() as patch:
        patch.setattr("deploy.remote.try_store", tried.append)
        add(again, f"{tmp_path}/store/", None, "storage")
    with Repo() as again:
        kept = again.config["remote"]["storage"]
    assert (kept["jobs"], kept["verify"], tried[0]["jobs"]) == (3, True, "3"), "as the file has it"


def test_a_store_that_fails_changes_nothing(mine, tmp_path):
    before = Path(".dvc/config").read_text(encoding="utf-8")
    message = fails(lambda repo: add(repo, str(tmp_path / "no" / "such" / "parent"), None, "storage"), mine)
    assert "there is no folder" in message and "make its parent folder first" in message
    assert Path(".dvc/config").read_text(encoding="utf-8") == before


def test_a_file_is_no_store(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="there is no folder"):
        try_store({"url": str(tmp_path / "file" / "store")})


def test_a_trial_that_fails_at_reading_leaves_nothing_behind(tmp_path, monkeypatch):
    def unreadable(self, path):
        raise PermissionError(path)

    monkeypatch.setattr(LocalFileSystem, "cat_file", unreadable)
    with pytest.raises(InputError, match="this user may not read"):
        try_store({"url": str(tmp_path / "store")})
    assert list((tmp_path / "store").iterdir()) == []


def test_a_check_without_a_remote_says_how_to_make_one(mine):
    assert "deploy.remote add" in fails(check, mine)


def test_before_the_first_push_the_check_says_so(mine, tmp_path):
    add(mine, str(tmp_path / "store"), None, "storage")
    assert "hint: `dvc push`: nothing was pushed yet" in fails(check, mine)


def test_a_whole_store_passes(mine, tmp_path, capsys):
    add(mine, str(tmp_path / "store"), None, "storage")
    mine.push()
    check(mine)
    assert "6 files, 1,692,742 bytes: all there, all intact" in capsys.readouterr().out


def test_lost_and_corrupted_objects_are_named_and_healed(mine, tmp_path, capsys):
    add(mine, str(tmp_path / "store"), None, "storage")
    mine.push()
    single, folder = stored(tmp_path, mine, "raw/lines.jsonl"), stored(tmp_path, mine, "raw/mygame")
    single.chmod(0o644)
    single.write_bytes(flipped(single.read_bytes()))
    folder.unlink()
    message = fails(check, mine)
    assert "corrupted: raw/lines.jsonl" in message and "lost: raw/mygame (" in message and "2 of 8" in message
    repair(mine)
    assert "pushed again, was corrupted: raw/lines.jsonl" in capsys.readouterr().out
    check(mine)


def test_a_cache_that_is_no_better_heals_nothing(mine, tmp_path):
    add(mine, str(tmp_path / "store"), None, "storage")
    mine.push()
    stored(tmp_path, mine, "raw/lines.jsonl").unlink()
    shutil.rmtree(".dvc/cache")
    message = fails(repair, mine)
    assert "cannot heal the store; nothing was changed" in message and "lost: raw/lines.jsonl" in message
    assert stored(tmp_path, mine, "raw/mygame").exists()


# --- a rented machine


@pytest.mark.parametrize(
    ("remote", "pulls", "code", "said"),
    [("", True, 1, "deploy.remote add"), ("storage", True, 0, ""), ("storage", False, 1, "")],
)
def test_a_rented_machine_ends_before_training_where_there_is_no_storage(remote, pulls, code, said, tmp_path):
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").write_text("")
    commands = {"sudo": "", "make": "", "git": "", "dvc": f'[ "$1" = pull ] && exec {"true" if pulls else "false"}\n'}
    for name, does in commands.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}echo {remote if name == 'dvc' else ''}\n")
        (tmp_path / name).chmod(0o755)
    setup = YAML(typ="safe").load(ROOT / "deploy" / "sky.yaml")["setup"]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(["bash", "-c", setup], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == code and said in done.stderr


@pytest.mark.parametrize(("own", "used"), [("", "character@localhost"), ("me@example.org", "me@example.org")])
def test_a_rented_machine_has_a_name_for_the_experiments_that_overrides_make(own, used, tmp_path):
    """DVC ends with "Git user name and email must be configured" where an edit of the folder is in no commit."""
    for name in ("sudo", "make"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / ".gitconfig").write_text(f"[user]\n  email = {own}\n  name = me\n" if own else "")
    setup = YAML(typ="safe").load(ROOT / "deploy" / "sky.yaml")["setup"]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1"}
    words = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
    subprocess.run(["git", "init", "-q"], check=True, **words)
    subprocess.run(["bash", "-c", setup], **words)
    assert subprocess.run(["git", "config", "user.email"], **words).stdout == f"{used}\n"
    assert subprocess.run(["git", "config", "user.name"], **words).stdout == f"{'me' if own else 'character'}\n"


@pytest.mark.parametrize(
    ("overrides", "trains", "pushes", "code"),
    [("", 0, 0, 0), ("", 3, 0, 3), ("-S train.rank=4", 3, 0, 3), ("-S train.rank=4", 0, 4, 4)],
)
def test_a_rented_machine_pushes_what_it_made_also_when_a_stage_failed(overrides, trains, pushes, code, tmp_path):
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").write_text("")
    dvc = f'echo "dvc $*"\n[ "$1" = push ] && exit {pushes}\nexit {trains}\n'
    for name, does in {"nvidia-smi": "", "make": f"exit {trains}\n", "dvc": dvc}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}")
        (tmp_path / name).chmod(0o755)
    work = YAML(typ="safe").load(ROOT / "deploy" / "sky.yaml")["run"]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "OVERRIDES": overrides, "HF_ENDPOINT": ""}
    done = subprocess.run(["bash", "-c", work], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == code and done.stdout.endswith("dvc push\n")
    assert (f"dvc exp run {overrides}" in done.stdout) == bool(overrides)


# --- faults against the real store


@pytest.fixture(scope="module")
def theatre(tmp_path_factory):
    """The store, the environment, the folder; afterwards nothing may still run."""
    root = tmp_path_factory.mktemp("faults")
    with stage(root) as (store, environment):
        yield root, store, environment
    left = [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])]
    assert [line for line in left if line and str(root) in " ".join(line)] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_nothing_is_lost_and_nothing_wrong_accepted(name, theatre):
    root, store, environment = theatre
    scene, lost = play(name, root, store, environment)
    shutil.rmtree(scene.root)
    assert (lost, scene.wrong) == (0, 0)
    assert "Traceback" not in scene.remote_said


# --- SSH


@contextmanager
def ssh_server(root, client_key):
    """A real SSH server on loopback that serves files to who has the key; yields its port."""
    ready, end, ports = threading.Event(), threading.Event(), []

    async def serve():
        key = asyncssh.generate_private_key("ssh-ed25519")
        (root / "authorized").write_bytes(client_key.export_public_key())
        server = await asyncssh.listen(
            "127.0.0.1", 0, server_host_keys=[key], authorized_client_keys=str(root / "authorized"), sftp_factory=True
        )
        ports.append(server.get_port())
        ready.set()
        await asyncio.to_thread(end.wait)
        server.close()
        await server.wait_closed()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(20)
        yield ports[0]
    finally:
        end.set()
        thread.join(20)


def command(where, environment, *words):
    done = subprocess.run(
        words, cwd=where, env=environment, capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_a_machine_of_ones_own_is_a_store(first, tmp_path):
    environment = make_environment(tmp_path, {})
    shutil.copytree(first, tmp_path / "mine", symlinks=True)
    key = asyncssh.generate_private_key("ssh-ed25519")
    remote = (sys.executable, "-m", "deploy.remote")
    with ssh_server(tmp_path, key) as port:
        url = f"ssh://me@127.0.0.1:{port}{tmp_path}/shelf"
        code, said = command(tmp_path / "mine", environment, *remote, "add", url)
        assert code == 1 and "refuses the sign-in" in said
        (tmp_path / "home" / ".ssh").mkdir()
        (tmp_path / "home" / ".ssh" / "id_ed25519").write_bytes(key.export_private_key())
        code, said = command(tmp_path / "mine", environment, *remote, "add", f"{url}/no/such")
        assert code == 1 and "make its parent folder" in said
        assert command(tmp_path / "mine", environment, *remote, "add", url)[0] == 0
        commit(tmp_path / "mine", environment, "storage")
        assert command(tmp_path / "mine", environment, "dvc", "push")[0] == 0
        git(tmp_path, "clone", "-q", "mine", "friend", environment=environment)
        code, said = command(tmp_path / "friend", environment, "dvc", "pull")
        assert code == 0, said
        assert contents(tmp_path / "friend") == contents(tmp_path / "mine")
        assert "all there, all intact" in command(tmp_path / "friend", environment, *remote, "check")[1]
    code, said = command(tmp_path / "mine", environment, *remote, "check")
    assert code == 1 and "nothing answers at me@127.0.0.1" in said
