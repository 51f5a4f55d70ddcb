"""The keys under which JSON and CSV scripts hold a message and its speaker, and a message made of them."""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from stages.formats.message import Message, Reject
from stages.formats.quotes import mixed_names, spoken

SEPARATORS = re.compile(r"[\s_\-\"'.]+")
NOTE = re.compile(
    r"[（(\[【/].*|[_\-. ](?:zh|cn|chs|cht|sc|tc|en|eng|ja|jp|ko|kr)(?:[_\-. ]?[a-z]{2,4})?\s*$", re.IGNORECASE
)


def fold(key: str) -> str:
    """speakerName, Speaker Name and speaker_name are one key."""
    return SEPARATORS.sub("", key).lower()


def bare(key: str) -> str:
    """A key without the note behind it: 台词（中文）, text_en."""
    return fold(NOTE.sub("", key))


NAMES = (
    *("name", "names", "speaker", "character", "chara", "char", "who", "role", "actor"),
    *("author", "sender", "talker", "nickname", "speakername", "charactername", "charname", "rolename", "actorname"),
    *("角色", "角色名", "角色名称", "角色名字", "人物", "人物名", "人物名称", "说话人", "说话者", "说话角色", "发言人"),
    *("发言者", "讲话人", "讲话者", "名字", "姓名", "說話者", "說話人", "發言人", "角色名稱"),
    *("名前", "話者", "話し手", "発言者", "発話者", "キャラ", "キャラ名", "キャラクター", "キャラクター名", "登場人物"),
)
TEXTS = (  # translations first, the later revision first: GalTransl and VNTextPatch keep them beside the original
    *("proofreaddst", "proofreadzh", "predst", "prezh", "postzhpreview", "postdstpreview"),
    *("edited", "checked", "translated", "translation", "译文", "翻译", "譯文", "翻譯", "訳文"),
    *("message", "msg", "mes", "text", "content", "dialogue", "dialog", "sentence", "utterance", "line"),
    *("dialoguetext", "dialogtext", "messagetext", "linetext", "dialogueline", "dialogline", "spokentext", "speech"),
    *(
        "台词",
        "臺詞",
        "对白",
        "內容",
        "内容",
        "对话",
        "文本",
        "台词内容",
        "对话内容",
        "对白内容",
        "台词文本",
        "对话文本",
    ),
    *("发言内容", "说话内容", "發言內容", "對話內容", "台詞內容", "對白", "對話", "正文"),
    *("テキスト", "セリフ", "台詞", "せりふ", "会話", "会話文", "発言", "発話", "メッセージ", "本文"),
    *("original", "原文", "postsrc", "presrc", "postjp", "prejp"),
)
CHOICES = (
    "choices",
    "choice",
    "options",
    "option",
    "selections",
    "answers",
    "选项",
    "選項",
    "選択肢",
)  # lists of what is offered
OFFERS = (
    "label",
    "title",
    "caption",
    "option",
    "choice",
    "选项",
    "選項",
    "選択肢",
)  # the words of one that has no text
SURROGATE = re.compile("[\ud800-\udfff]")
SCENES = ("scene", "label", "chapter", "场景", "场次", "章节", "シーン", "場面")


class Row(NamedTuple):
    """One object or table row: where it begins, and its keys folded."""

    line: int
    values: Mapping[str, Any]
    choice: bool = False


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
    for line, values, choice in rows:
        keys = present(tuple(values))
        name = "" if choice else _name(values, keys.names)
        found.append((line, name, _first(values, keys.texts), _first(values, keys.scenes), choice))
    mixed = mixed_names((name, text[0], 1) for _, name, text, _, _ in found if name and text)
    for line, name, text, scene, choice in found:
        if not text:
            yield Reject(line, name or "", "a record without words")
        elif name:
            yield spoken(line, name, text, scene, mixed)
        else:
            yield Message(line, None, text, "choice" if choice else "narration", scene)


def _name(values: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    """The speaker; of several at once, all of them with · between; of an object, its name."""
    for key in keys:
        value = values[key]
        if isinstance(value, dict):
            folded = {fold(part): name for part, name in value.items()}
            value = next((folded[part] for part in NAMES if part in folded), None)
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
