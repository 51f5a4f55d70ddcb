"""An adapter's files by name, and what its settings may be: the same for who trains it and for who loads it."""

import re
from collections.abc import Callable
from typing import Any

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
CARD, TEMPLATE = "character.json", "chat_template.jinja"
MOST = 1 << 20  # of any number without a nearer bound
SENSES = r".*\b(?:vision|audio)\w*\..*"  # towers of a base that also sees or hears: text alone teaches them nothing
MODULE = re.compile(r"\w+")

Field = tuple[str, Callable[[Any], bool]]  # what is expected of a value, and whether it is that
Fields = dict[str, Field]


def number(low: float, high: float) -> Field:
    """A number within bounds; true and false are none."""
    return f"a number from {low:,} to {high:,}", lambda value: type(value) in (int, float) and low <= value <= high


def integer(low: int, high: int) -> Field:
    """The same without a fraction."""
    return f"a whole number from {low:,} to {high:,}", lambda value: type(value) is int and low <= value <= high


def above_zero(high: float, kind: str = "number") -> Field:
    """A number within bounds that may not be zero."""
    return f"a {kind} above 0, at most {high:,}", lambda value: type(value) in (int, float) and 0 < value <= high


def one_of(*known: str) -> Field:
    """A name among those known."""
    return " or ".join(known), known.__contains__


def is_text(value: Any) -> bool:
    """Whether it is a text of more than blanks."""
    return isinstance(value, str) and bool(value.strip())


def is_text_or_null(value: Any) -> bool:
    """The same where there may be none."""
    return value is None or is_text(value)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _are_modules(value: Any) -> bool:
    """Names: a string would be a regular expression over all of the model."""
    return isinstance(value, list) and bool(value) and all(is_text(name) and MODULE.fullmatch(name) for name in value)


SETTINGS: Fields = {  # of adapter_config.json
    "peft_type": one_of("LORA"),
    "task_type": one_of("CAUSAL_LM"),
    "base_model_name_or_path": ("the name of a base model", is_text),
    "target_modules": ("a list of module names", _are_modules),
    "r": integer(1, 1024),
    "lora_alpha": number(0, 65536),
    "lora_dropout": number(0, 1),
    "revision": ("a commit or null", is_text_or_null),
    "peft_version": ("a version", is_text),
    "inference_mode": ("true or false", _is_flag),
    "use_rslora": ("true or false", _is_flag),
    "use_dora": ("true or false", _is_flag),
}
DECODING: Fields = {
    "max_new_tokens": integer(1, MOST),
    "temperature": number(0, MOST),
    "top_p": above_zero(1, "share"),
    "top_k": integer(0, MOST),
    "repetition_penalty": above_zero(MOST),
}
