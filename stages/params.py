"""params.yaml, read as YAML 1.2 (as DVC reads it) into a stage's own dataclass."""

from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.records import InputError

PARAMS = Path("params.yaml")

Params = TypeVar("Params")


def load_params(section: str, kind: type[Params], path: Path = PARAMS) -> Params:
    """Fill the dataclass from its section; raises InputError for a missing, unknown or mistyped key."""
    values = read_section(section, path)
    names = {field.name: field for field in fields(kind)}
    for name in sorted(values.keys() - names.keys()):
        near = get_close_matches(str(name), names, 1) or names
        raise InputError(f"{path}: section `{section}` has an unknown key `{name}`\nhint: expected {', '.join(near)}")
    for name in sorted(names.keys() - values.keys()):
        raise InputError(
            f"{path}: section `{section}` lacks the key `{name}`\nhint: add `  {name}: <{_name(names[name].type)}>`"
        )
    for name, field in names.items():
        _check(f"{path}: `{section}.{name}`", values[name], field.type)
    return kind(**values)


def read_section(section: str, path: Path = PARAMS) -> dict[str, Any]:
    """One section of params.yaml as a plain dict."""
    if not path.is_file():
        raise InputError(
            f"expected {path} in {Path.cwd()}, found no such file\nhint: run from the top of the repository"
        )
    try:
        document = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except YAMLError as error:
        raise InputError(f"{path}: expected YAML 1.2, got {error}") from error
    values = (document or {}).get(section)
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a section `{section}:`, got {type(values).__name__}")
    return values


def look_up(values: Any, dotted: str) -> Any:
    """The value that a dotted key leads to; None where there is none."""
    for part in dotted.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def leads(path: Path = PARAMS) -> tuple[str, str]:
    """The names of the character and the partner, which later stages need beside their own section."""
    values = read_section("filter", path)
    return values["character"], values["partner"]


def _name(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind))


def _check(where: str, value: Any, kind: Any) -> None:
    parts = get_args(kind) if get_origin(kind) is UnionType else (kind,)
    allowed = tuple(get_origin(part) or part for part in parts)
    if float in allowed:
        allowed += (int,)
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        raise InputError(f"{where}: expected {_name(kind)}, got {value!r} ({type(value).__name__})")
