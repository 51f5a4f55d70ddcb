"""params.yaml, read as YAML 1.2 (as DVC reads it) into a stage's own dataclass; the work's YAML is read alike."""

import shlex
from collections.abc import Iterator
from dataclasses import fields
from difflib import get_close_matches
from itertools import accumulate
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.records import InputError

PARAMS = Path("params.yaml")
LARGEST = 5_000_000  # characters of YAML with its aliases written out, which a few lines of them make millions of

Params = TypeVar("Params")


def load_params(section: str, kind: type[Params], path: Path = PARAMS) -> Params:
    """Fill the dataclass from its section; raises InputError for a missing, unknown or mistyped key."""
    values = read_section(section, path)
    names = {field.name: field for field in fields(kind)}
    for name in sorted(values.keys() - names.keys()):
        near = get_close_matches(str(name), names, 1) or names
        raise InputError(f"{path}: section `{section}` has an unknown key `{name}`\nhint: expected {', '.join(near)}")
    _complete(values, {name: _name(field.type) for name, field in names.items()}, section, path)
    for name, field in names.items():
        _check(f"{path}: `{section}.{name}`", values[name], field.type)
    return kind(**values)


def read_section(section: str, path: Path = PARAMS) -> dict[str, Any]:
    """One section of params.yaml as a plain dict."""
    if not path.is_file():
        raise InputError(
            f"expected {path} in {Path.cwd()}, found no such file\nhint: run from the top of the repository"
        )
    document = load_yaml(path) or {}
    values = document.get(section) if isinstance(document, dict) else document
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a section `{section}:`, got {type(values).__name__}")
    return values


def load_yaml(path: Path) -> Any:
    """A YAML file, read safely; a date that is none or a number of thousands of digits is a ValueError to Python."""
    text = read_text(path)
    try:
        document = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected YAML 1.2, got {error}") from error
    if any(size > LARGEST for size in accumulate(map(_length, _values(document)))):
        raise InputError(f"{path}: expected at most {LARGEST} characters, got more by its aliases (`*name`)")
    return document


def _values(document: Any) -> Iterator[Any]:
    """Every value inside, as often as aliases repeat it."""
    rest = [document]
    while rest:
        yield (value := rest.pop())
        rest += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str) else 1


def read_text(path: Path) -> str:
    """A file that a person wrote in UTF-8, with or without a byte order mark."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path}: expected UTF-8, got the byte {error.object[error.start]:#04x} in line {line}\n"
            f"hint: save it as UTF-8, or, if it was written in GB18030: {recoded(path)}"
        ) from error


def recoded(path: Path) -> str:
    """The command that makes a GB18030 file UTF-8; it cannot write the file that it reads."""
    name, new = shlex.quote(str(path)), shlex.quote(f"{path}.new")
    return f"iconv -f gb18030 -t utf-8 {name} > {new} && mv {new} {name}"


def look_up(values: Any, dotted: str) -> Any:
    """The value that a dotted key leads to; None where there is none."""
    for part in dotted.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def leads(path: Path = PARAMS) -> tuple[str, str]:
    """The names of the character and the partner, which later stages need beside their own section."""
    values = read_section("filter", path)
    _complete(values, {"character": "str", "partner": "str"}, "filter", path)
    return values["character"], values["partner"]


def _complete(values: dict[str, Any], kinds: dict[str, str], section: str, path: Path) -> None:
    """Every key must be there; all that are not are named at once."""
    if missing := sorted(kinds.keys() - values.keys()):
        raise InputError(
            f"{path}: section `{section}` lacks {', '.join(f'`{name}`' for name in missing)}\n"
            f"hint: keep the other lines of the section, or `git checkout {path}`; to add: "
            + ", ".join(f"`  {name}: <{kinds[name]}>`" for name in missing)
        )


def _name(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind))


def _check(where: str, value: Any, kind: Any) -> None:
    parts = get_args(kind) if get_origin(kind) is UnionType else (kind,)
    allowed = tuple(get_origin(part) or part for part in parts)
    if float in allowed:
        allowed += (int,)
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        raise InputError(f"{where}: expected {_name(kind)}, got {value!r} ({type(value).__name__})")
