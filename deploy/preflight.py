"""A store's settings in, nothing out: raises InputError with one plain sentence for what fails, and its cure.

Everything goes through the file system that DVC itself uses, so that what passes here works there.
"""

import errno
import os
import secrets
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import asyncssh
import botocore.exceptions
from dvc.fs import FileSystem, get_cloud_fs

from stages.records import InputError

POLICY = "allow ListBucket on the bucket and GetObject, PutObject and DeleteObject on the path, for that key"
EXPORT = "export AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=… (the store's console shows them)"
REGION = "export AWS_DEFAULT_REGION=… with the region that the store's console shows for the bucket"
NETWORK = "check the address, the network, and that the store is running"

# What the store or the client calls it -> what it means, and what to do. {place} is the bucket or folder, {door} the
# address, {step} what was tried.
S3_ANSWERS = {
    "InvalidAccessKeyId": ("{door} does not know this key", f"copy both parts of the key anew: {EXPORT}"),
    "SignatureDoesNotMatch": ("the secret does not fit the key", f"copy both parts of the key anew: {EXPORT}"),
    "ExpiredToken": ("the key has expired", EXPORT),
    "AccessDenied": ("this key may not {step}", POLICY),
    "403": ("this key may not {step}", POLICY),
    "NoSuchBucket": ("there is no bucket {place}", "make it in the store's console, or correct the address"),
    "InvalidBucketName": ("{place} is no name of a bucket", "write s3://bucket/path, with the bucket's own name"),
    "AuthorizationHeaderMalformed": ("the bucket is in another region", REGION),
    "PermanentRedirect": ("the bucket is in another region", REGION),
    "301": ("the bucket is in another region", REGION),
    "RequestTimeTooSkewed": ("this machine's clock is wrong", "set it: `timedatectl set-ntp true`"),
    "QuotaExceeded": ("the store is full", "delete something there, or buy more room"),
}
# The first kind that fits counts.
FAILURES: tuple[tuple[tuple[type[BaseException], ...], str, str], ...] = (
    ((botocore.exceptions.NoCredentialsError,), "no key was given for {door}", EXPORT),
    ((botocore.exceptions.PartialCredentialsError,), "half of the key is missing", EXPORT),
    ((botocore.exceptions.ProfileNotFound,), "the profile that AWS_PROFILE names is not there",
     "export AWS_CONFIG_FILE with the file that has it"),
    ((botocore.exceptions.SSLError,), "{door} does not prove who it is (TLS)",
     "write http:// if it has no certificate"),
    ((botocore.exceptions.ConnectionError, botocore.exceptions.HTTPClientError), "nothing answers at {door}", NETWORK),
    ((asyncssh.PermissionDenied,), "{door} refuses the sign-in",
     "see that `ssh` to it works without a password (a key in ~/.ssh, or an agent)"),
    ((asyncssh.SFTPPermissionDenied,), "this user may not {step} in {place}", "let the folder belong to that user"),
    ((asyncssh.SFTPNoSuchFile,), "there is no folder {place}", "make its parent folder there first"),
    ((asyncssh.Error, ConnectionError), "nothing answers at {door}", NETWORK),
    ((TimeoutError,), "{door} does not answer in time", NETWORK),
    ((PermissionError,), "this user may not {step} in {place}", "choose another folder, or change its owner"),
    ((FileNotFoundError, NotADirectoryError), "there is no folder {place}", "make its parent folder first"),
)  # fmt: skip


def try_store(config: dict[str, Any]) -> None:
    """Reach, sign in, list, write, read back and delete, with the settings of a DVC remote."""
    fs, path = _open(config)
    probe, content = fs.join(path, f".preflight-{secrets.token_hex(8)}"), secrets.token_bytes(64)
    reach(config)
    _attempt("write", lambda: _write(fs, probe, content), config)
    try:
        if _attempt("read", lambda: fs.cat_file(probe), config) != content:
            raise InputError(
                f"{config['url']} gave back other bytes than were written\nhint: do not trust this store with anything"
            )
    finally:
        _attempt("delete", lambda: fs.remove(probe), config)


def reach(config: dict[str, Any]) -> None:
    """Reach, sign in and list: a store tells most plainly here what it does not like."""
    _attempt("list", lambda: _list(*_open(config)), config)


def _open(config: dict[str, Any]) -> tuple[FileSystem, str]:
    kind, settings, path = get_cloud_fs({}, **config)
    return kind(**settings), path


def _attempt(step: str, act: Callable[[], Any], config: dict[str, Any]) -> Any:
    try:
        return act()
    except Exception as error:  # each file system has its own
        raise explain(error, step, config) from error


def explain(error: BaseException, step: str, config: dict[str, Any]) -> InputError:
    """The failure of a step in plain words."""
    address = urlsplit(config["url"])
    words = {
        "door": config.get("endpointurl") or (address.netloc if address.scheme == "ssh" else None) or "the store",
        "place": address.netloc if address.scheme == "s3" else address.path,
        "step": step,
    }
    for cause in _causes(error):
        said = _plain(cause)
        if said:
            return InputError("{}\nhint: {}".format(*(text.format(**words) for text in said)))
    return InputError(f"could not {step} in {config['url']}: {error}\nhint: {NETWORK}")


def _plain(cause: BaseException) -> tuple[str, str] | None:
    if isinstance(cause, botocore.exceptions.ClientError):
        return S3_ANSWERS.get(cause.response["Error"]["Code"])
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return S3_ANSWERS["QuotaExceeded"]
    return next((tuple(said) for kinds, *said in FAILURES if isinstance(cause, kinds)), None)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The innermost first: it knows best."""
    if error is not None:
        yield from _causes(error.__cause__ or error.__context__)
        yield error


def _list(fs: FileSystem, path: str) -> None:
    if fs.protocol == "s3":
        bucket, _, prefix = path.partition("/")
        fs.fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=f"{prefix}/", MaxKeys=1)
    elif fs.exists(path):
        fs.ls(path)


def _write(fs: FileSystem, probe: str, content: bytes) -> None:
    if fs.protocol != "s3":
        parent = fs.parent(fs.parent(probe))
        if not fs.exists(parent):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), parent)
        fs.makedirs(fs.parent(probe), exist_ok=True)
    fs.pipe_file(probe, content)
