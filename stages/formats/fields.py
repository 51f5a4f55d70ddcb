"""The keys under which JSON and CSV scripts hold a message and its speaker, and a message made of them."""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from stages.formats.message import Message, Reject
from stages.formats.quotes import mixed_names, spoken

NAMES = (
    *("name", "names", "speaker", "character", "chara", "char", "who", "role", "actor"),
    *("author", "sender", "talker", "nickname", "角色", "角色名", "人物"),
    *("说话人", "名字", "姓名", "名前", "話者", "キャラ"),
)
TEXTS = (  # translations first, the later revision first: GalTransl and VNTextPatch keep them beside the original
    *("proofread_dst", "proofread_zh", "pre_dst", "pre_zh", "post_zh_preview", "post_dst_preview"),
    *("edited", "checked", "translated", "translation", "译文", "翻译"),
    *("message", "msg", "mes", "text", "content", "dialogue", "dialog", "sentence", "utterance", "line"),
    *("台词", "臺詞", "对白", "內容", "内容", "对话", "文本", "テキスト", "セリフ", "本文"),
    *("original", "原文", "post_src", "pre_src", "post_jp", "pre_jp"),
)
SURROGATE = re.compile("[\ud800-\udfff]")
SCENES = ("scene", "label", "chapter", "场景", "章节")


class Row(NamedTuple):
    """One object or table row: where it begins, and its keys in lower case."""

    line: int
    values: Mapping[str, Any]


class Present(NamedTuple):
    """Which of a record's keys hold its names, its text and its scene, the best first."""

    names: tuple[str, ...]
    texts: tuple[str, ...]
    scenes: tuple[str, ...]


@lru_cache
def present(keys: tuple[str, ...]) -> Present:
    """The keys that matter; records of a file share few sets of keys."""
    return Present(*(tuple(key for key in wanted if key in keys) for wanted in (NAMES, TEXTS, SCENES)))


def is_message(values: Mapping[str, Any]) -> bool:
    return any(_words(values[key]) is not None for key in present(tuple(values)).texts)


def messages(rows: Iterable[Row]) -> Iterator[Message | Reject]:
    """The messages of the rows, in order; reads all rows, because some names have prose under them too."""
    found = []
    for line, values in rows:
        keys = present(tuple(values))
        found.append((line, _name(values, keys.names), _first(values, keys.texts), _first(values, keys.scenes)))
    mixed = mixed_names((name, text[0], 1) for _, name, text, _ in found if name and text)
    for line, name, text, scene in found:
        if not text:
            yield Reject(line, name or "", "a record without words")
        elif name:
            yield spoken(line, name, text, scene, mixed)
        else:
            yield Message(line, None, text, "narration", scene)


def _name(values: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    """The speaker; of several at once, all of them with · between; of an object, its name."""
    for key in keys:
        value = values[key]
        if isinstance(value, dict):
            value = next((value[part] for part in NAMES if part in value), None)
        parts = value if isinstance(value, list) else [value]
        if name := "·".join(_clean(part) for part in parts if isinstance(part, str) and part.strip()):
            return name
    return ""


def _first(values: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    return next((_clean(words) for key in keys if (words := _words(values[key])) and words.strip()), "")


def _words(value: Any) -> str | None:
    """A text, or its lines."""
    if isinstance(value, list) and value and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    return value if isinstance(value, str) else None


def _clean(text: str) -> str:
    """Without the engine's indent; lone surrogates, which JSON can spell and UTF-8 cannot, replaced."""
    if text.isprintable():
        return text.strip()
    lines = text.replace("\r\n", "\n").replace("\r", "\n").strip().split("\n")
    return SURROGATE.sub("\ufffd", "\n".join(line.strip() for line in lines))
