"""A pulled adapter folder in, nothing out: raises InputError before anything of it is loaded.

Weights are safetensors, settings are those that the trainer writes, the base is the one that the card names.
"""

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from unicodedata import category

from stages.params import read_section
from stages.records import InputError
from stages.settings import (
    CARD,
    CONFIG,
    DECODING,
    MOST,
    SENSES,
    SETTINGS,
    TEMPLATE,
    WEIGHTS,
    Field,
    Fields,
    is_text,
    is_text_or_null,
    number,
    one_of,
)

FILES = (CONFIG, WEIGHTS, CARD, TEMPLATE)
MAX_HEADER = 8 << 20  # bytes; 1,120 tensors (rank any, 80 layers, 7 projections) need 0.2 MB
MAX_TEXT = 4 << 20  # bytes of a JSON or template file
LONGEST_NAME = 240  # bytes: a file's name has 255, and an export adds `.gguf.partial`
UNWRITABLE = re.compile("[\0\ud800-\udfff]")
ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
CACHED = re.compile(r"/files/md5/[0-9a-f]{2}/[0-9a-f]{30}$")  # where DVC's symlinks lead
TENSOR = re.compile(r"base_model\.model\.[\w.]+\.lora_(A|B|magnitude_vector)(\.weight)?")
CODE = (".py", ".pyc", ".so", ".sh", ".dll")
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".npz", ".joblib")


def check_adapter(folder: Path) -> None:
    """Refuse the folder unless all of it is what `python -m stages.train` could have written."""
    check_files(folder)
    check_weights(folder / WEIGHTS)
    config, card = read_object(folder / CONFIG), read_object(folder / CARD)
    check_config(config, folder / CONFIG)
    check_card(card, folder / CARD)
    check_base(config, card, folder)


def refuse(where: Path, expected: str, got: str) -> InputError:
    """The error of an adapter that is not loaded."""
    return InputError(
        f"{where}: expected {expected}, got {got}; nothing of it was loaded\n"
        "hint: `dvc pull --force models/adapter` fetches it anew; if it stays so, do not trust who sent it"
    )


# --- files


def check_files(folder: Path) -> None:
    """The four files, each a plain one, none of them missing and nothing beside them."""
    if not folder.is_dir():
        raise InputError(f"expected an adapter in {folder}, found no such folder\nhint: `dvc pull models/adapter`")
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() and not _stays(path, folder):
            raise refuse(path, "a file of the folder", f"a link to {os.readlink(path)}")
        if name not in FILES:
            raise refuse(path, f"only {', '.join(FILES)}", _kind(path))
        if not path.is_file():
            raise refuse(path, "a plain file", "something else")
        if name != WEIGHTS and path.stat().st_size > MAX_TEXT:
            raise refuse(path, f"at most {MAX_TEXT:,} bytes", f"{path.stat().st_size:,}")
    for name in FILES:
        if not (folder / name).exists():
            raise refuse(folder, f"a file {name}", "none")


def _stays(link: Path, folder: Path) -> bool:
    target = link.resolve()
    return target.is_relative_to(folder.resolve()) or bool(CACHED.search(target.as_posix()))


def _kind(path: Path) -> str:
    kinds = {"a pickle, which can run any code": PICKLES, "code": CODE}
    return next((kind for kind, ends in kinds.items() if path.suffix.lower() in ends), "another file")


# --- weights


def check_weights(path: Path) -> None:
    """The safetensors header is small, fills the file exactly, and holds LoRA tensors alone."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(MAX_HEADER, size - 8):
            raise refuse(path, f"a safetensors header of at most {MAX_HEADER:,} bytes", f"one of {length:,}")
        header = _parse(file.read(length), path)
    header.pop("__metadata__", None)
    spans = sorted(_span(name, entry, path) for name, entry in header.items())
    ends = [0, *(end for _, end in spans)]
    if not spans or [start for start, _ in spans] != ends[:-1] or ends[-1] != size - 8 - length:
        raise refuse(path, "tensors that fill the file without gap or overlap", f"{len(spans)} that do not")


def _span(name: str, entry: Any, path: Path) -> tuple[int, int]:
    if not TENSOR.fullmatch(name):
        raise refuse(path, "LoRA tensors alone", f"a tensor {name[:80]!r}")
    match entry:
        case {"dtype": str(kind), "shape": list(shape), "data_offsets": [int(start), int(end)]} if (
            kind in ITEM_BYTES
            and all(type(side) is int and side > 0 for side in shape)
            and end - start == math.prod(shape) * ITEM_BYTES[kind]
        ):
            return start, end
    raise refuse(path, f"floats of the stated shape for {name}", repr(entry)[:200])


# --- settings


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object in which no key, at any depth, asks for code."""
    value = _parse(path.read_bytes(), path)
    for key in _keys(value):
        if key in ("auto_map", "trust_remote_code"):
            raise refuse(path, "settings alone", f"a key {key}, which loads code")
    return value


def _parse(data: bytes, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise refuse(path, "a JSON object", str(error)) from error
    if not isinstance(value, dict):
        raise refuse(path, "a JSON object", type(value).__name__)
    return value


def _keys(value: Any) -> Iterator[str]:
    todo = [value]
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            yield from value
            todo += value.values()
        elif isinstance(value, list):
            todo += value


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_name(value: Any) -> bool:
    """Fit to be shown and to name a file: no line break, no terminal's order, no half of a character."""
    shown = is_text(value) and all(sign.isprintable() or category(sign) == "Zs" for sign in value)
    return shown and len(value.encode()) <= LONGEST_NAME


def _is_whole_text(value: Any) -> bool:
    """A text that can be written down: JSON may hold NUL and halves of a surrogate pair."""
    return is_text(value) and not UNWRITABLE.search(value)


def _is_whole_or_null(value: Any) -> bool:
    return value is None or type(value) is int


# PEFT has settings that import modules (megatron_core, auto_mapping), unpickle files (corda_config, lora_ga_config)
# or multiply layers (layer_replication). What is not listed in SETTINGS must be empty or the default.
DEFAULTS = {
    "bias": "none",
    "init_lora_weights": True,
    "megatron_core": "megatron.core",
    "qalora_group_size": 16,
    "exclude_modules": SENSES,
}
NAME: Field = (f"a name of printable characters, at most {LONGEST_NAME} bytes", _is_name)
CARD_FIELDS: Fields = {
    "character": NAME,
    "partner": NAME,
    "user_name": NAME,
    "persona": ("a text without NUL or half a character", _is_whole_text),
    "narration": one_of("opening", "all"),
    "base_model": ("the name of a base model", _is_whole_text),
    "revision": ("a commit or null", is_text_or_null),
    "decoding": ("numbers by name", _is_object),
}
DECODING_BESIDE: Fields = {  # what a front may add
    "repeat_guard": number(0, MOST),
    "seed": ("a whole number or null", _is_whole_or_null),
}


def check_config(config: dict[str, Any], path: Path) -> None:
    """Only LoRA settings that change no code, no files and no other layers."""
    _check_fields(config, SETTINGS, path)
    for key in sorted(config.keys() - SETTINGS.keys()):
        if config[key] and config[key] != DEFAULTS.get(key):
            raise refuse(path, f"no `{key}`", repr(config[key])[:200])


def check_card(card: dict[str, Any], path: Path) -> None:
    """What a front reads, and of the right type."""
    _check_fields(card, CARD_FIELDS, path)
    if unfit := unfit_decoding(card["decoding"]):
        raise refuse(path, *unfit)


def _check_fields(values: dict[str, Any], table: Fields, path: Path) -> None:
    if unfit := _unfit(values, table):
        raise refuse(path, *unfit)


def unfit_decoding(values: Mapping[str, Any]) -> tuple[str, str] | None:
    """What was expected of a decoding and what was got, at the first key that does not fit; None if all do."""
    known = DECODING | DECODING_BESIDE
    if not DECODING.keys() <= values.keys() <= known.keys():
        return f"the keys {tuple(DECODING)} and perhaps {tuple(DECODING_BESIDE)}", str(tuple(values))[:200]
    return _unfit(values, {key: known[key] for key in values})


def _unfit(values: Mapping[str, Any], table: Fields) -> tuple[str, str] | None:
    for key, (expected, fits) in table.items():
        if key not in values or not fits(values[key]):
            return f"{expected} as `{key}`", repr(values.get(key))[:200]
    return None


# --- base


def check_base(config: dict[str, Any], card: dict[str, Any], folder: Path) -> None:
    """Config and card name one base: a hub id, or a folder that the repository's owner chose."""
    names = [config["base_model_name_or_path"], card["base_model"]]
    revisions = [config.get("revision"), card.get("revision")]
    if names[0] != names[1] or revisions[0] != revisions[1]:
        raise refuse(
            folder,
            f"the base {names[1]!r} (revision {revisions[1]}) that {CARD} names",
            f"an adapter for {names[0]!r} (revision {revisions[0]})",
        )
    if _leads_out(names[0]) and names[0] != _own_base():
        raise InputError(
            f"{folder}: expected a base model by hub id or by a path inside the repository, got {names[0]!r}; "
            "nothing of it was loaded\n"
            "hint: if that model is yours, set `train.base_model` in params.yaml to it"
        )


def _leads_out(name: str) -> bool:
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    absolute = posix.is_absolute() or windows.is_absolute() or bool(windows.drive) or name.startswith("~")
    return absolute or ".." in (*posix.parts, *windows.parts)


def _own_base() -> str | None:
    """The base of this repository's params.yaml, which its owner chose; None outside of one."""
    try:
        return read_section("train").get("base_model")
    except InputError:
        return None
