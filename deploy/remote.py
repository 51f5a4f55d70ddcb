"""Object storage for the data and the adapters, beside plain `dvc push` and `dvc pull`.

python -m deploy.remote add s3://bucket/path [--endpoint URL] [--name NAME]   try a store, then make it the remote
python -m deploy.remote check [--repair]      is everything there, and intact? with --repair: push what is not
"""

import argparse
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from dvc.exceptions import NotDvcRepoError
from dvc.repo import Repo

from deploy.preflight import try_store
from deploy.stored import check, repair
from stages.cli import run
from stages.records import InputError

S3_SETTINGS = ".dvc/s3.{name}.ini"  # one a remote: stores differ in how they are addressed
TIMEOUTS = {"connect_timeout": "10", "read_timeout": "20"}  # seconds of silence
VIRTUAL = ("aliyuncs.com", "myqcloud.com", "myhuaweicloud.com", "volces.com")  # refuse https://host/bucket
S3_TEXT = """\
# What the S3 client needs beside .dvc/config, in AWS's format. Commit it. No secrets: keys belong into the environment
# or into .dvc/config.local. To use profiles of your own, export AWS_CONFIG_FILE.
[default]
# a dead store is given up after seconds, not minutes
retry_mode = standard
max_attempts = 2
# stores other than Amazon's know no newer checksums
request_checksum_calculation = when_required
response_checksum_validation = when_required
s3 =
  addressing_style = {style}
"""


def describe(url: str, endpoint: str | None) -> dict[str, str]:
    """The settings of a DVC remote for the address; raises InputError for one that cannot be used."""
    address = urlsplit(url)
    if address.password or (address.username and address.scheme == "s3"):
        raise InputError(
            f"{_hide(url)}: expected an address without a secret in it, for git would keep that\n"
            "hint: export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use `dvc remote modify --local`"
        )
    if endpoint and address.scheme != "s3":
        raise InputError(f"--endpoint: expected an s3:// address with it, got {url}")
    if address.scheme == "s3":
        return _describe_s3(url, endpoint)
    if address.scheme == "ssh":
        return {"url": url, "verify": "true", "timeout": "30"}
    if "://" in url:
        raise InputError(f"{url}: expected s3://bucket/path, ssh://user@host/path or a folder")
    return {"url": str(Path(url).expanduser().resolve()), "verify": "true"}


def _describe_s3(url: str, endpoint: str | None) -> dict[str, str]:
    if not urlsplit(url).netloc or not urlsplit(url).path.strip("/"):
        raise InputError(f"{url}: expected s3://bucket/path, got no {'path' if urlsplit(url).netloc else 'bucket'}")
    if endpoint and not re.fullmatch(r"https?://[^/@\s]+/?", endpoint):
        raise InputError(f"--endpoint: expected https://host[:port], got {_hide(endpoint)}")
    config = {"url": url, "verify": "true", **TIMEOUTS}
    region = os.environ.get("AWS_DEFAULT_REGION")
    return config | ({"endpointurl": endpoint} if endpoint else {}) | ({"region": region} if region else {})


def _hide(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//…@", url)


def s3_settings(endpoint: str | None) -> str:
    """The text of .dvc/s3.<name>.ini."""
    host = urlsplit(endpoint or "").hostname or "amazonaws.com"
    virtual = endpoint is None or host.endswith(VIRTUAL)
    return S3_TEXT.format(style="virtual" if virtual else "path")


def add(repo: Repo, url: str, endpoint: str | None, name: str) -> dict[str, str]:
    """Try the store, then write .dvc/config (and .dvc/s3.<name>.ini); if it does not pass, nothing is changed."""
    check_name(name)
    known = repo.config.load_one("repo")["remote"].get(name, {})
    config = describe(url, endpoint)
    check_same(known, config, name)
    config = known | config
    own = repo.config.load_one("local")["remote"].get(name, {})
    s3 = urlsplit(url).scheme == "s3"
    with tempfile.TemporaryDirectory() as folder:
        try_store(config | own | (settings_in(Path(folder, "s3.ini"), endpoint) if s3 else {}))
    if s3:
        config |= settings_in(Path(repo.root_dir, S3_SETTINGS.format(name=name)), endpoint)
    save(repo, config, name)
    return config


def check_name(name: str) -> None:
    """It becomes part of a file's name."""
    if not re.fullmatch(r"[\w-]+(\.[\w-]+)*", name):
        raise InputError(f"--name: expected letters, digits, `_`, `-` and `.` between them, got {name!r}")


def check_same(known: Mapping[str, str], config: Mapping[str, str], name: str) -> None:
    """Refuse a name that another store has: its address and what else was set for it would be gone."""
    was, now = ([store[key].rstrip("/") for key in ("url", "endpointurl") if key in store] for store in (known, config))
    if known and was != now:
        raise InputError(
            f"--name: expected a new name for another store, got `{name}`, which is {_hide(' at '.join(was))}\n"
            f"hint: --name OTHER keeps both; `dvc remote remove {name}` gives the name free"
        )


def settings_in(file: Path, endpoint: str | None) -> dict[str, str]:
    """Write the client's settings there; the key of a DVC remote that names them."""
    file.write_text(s3_settings(endpoint), encoding="utf-8")
    return {"configpath": os.path.relpath(file)}  # DVC keeps it relative to .dvc/config


def save(repo: Repo, config: dict[str, str], name: str) -> None:
    """Make it the default remote in .dvc/config."""
    with repo.config.edit("repo") as written:
        written["remote"][name] = config
        written["core"] |= {"remote": name, "analytics": "false"}


def open_repo() -> Repo:
    """The repository of the current folder."""
    try:
        return Repo()
    except NotDvcRepoError as error:
        raise InputError(f"expected a repository with .dvc in {Path.cwd()}, found none") from error


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    adding = commands.add_parser("add", help="try a store, then make it the default remote")
    adding.add_argument("url", help="s3://bucket/path, ssh://user@host/path or a folder")
    adding.add_argument("--endpoint", help="of an S3-compatible store: https://host[:port]")
    adding.add_argument("--name", default="storage", help="of the remote (default: storage)")
    checking = commands.add_parser("check", help="compare the store with what dvc.lock and the .dvc files name")
    checking.add_argument("--repair", action="store_true", help="replace what is lost or corrupted from the cache")
    return parser.parse_args()


def main() -> None:
    options = parse()
    with open_repo() as repo:
        if options.command == "add":
            config = add(repo, options.url, options.endpoint, options.name)
            print(f"{config['url']} can be listed, written, read and cleaned; it is the remote `{options.name}` now")
            print("`git add .dvc && git commit` keeps that; `dvc push` stores the data there")
        elif options.repair:
            repair(repo)
        else:
            check(repo)


if __name__ == "__main__":
    run(main)
