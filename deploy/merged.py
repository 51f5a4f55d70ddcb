"""An adapter's folder in, a model of its own out: the weights with the adapter added, as plain transformers loads them.

Added in the precision in which the model runs here, written in that of the base. Beside the weights: tokenizer, chat
template, the adapter's decoding as generation settings, and her card. A Baichuan stays as it was published, for its own
code and vLLM: W_pack in one piece, and its own generation settings, which name the tokens of the roles.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig, PreTrainedModel

from deploy.adapters import elsewhere
from deploy.wpack import save_model
from stages.baichuan import BaichuanForCausalLM, read_config
from stages.base_model import find_folder
from stages.conversation import stop_ids
from stages.inference import Character, load_character
from stages.records import InputError
from stages.settings import CARD, TEMPLATE


def merge(folder: Path, target: Path) -> Character:
    """Write the merged model to `target` and return it, as a character without an adapter."""
    character = load_character(folder, whole=True)
    card = character.card
    base = find_folder(card["base_model"], revision=card["revision"])
    if base.resolve() == target.resolve():
        raise InputError(f"{target}: expected another folder than that of the base model\nhint: --out FOLDER")
    model = character.model.merge_and_unload()
    model.to(stored_dtype(model, base))
    forget_code(model.config, character.tokenizer)
    target.mkdir(parents=True, exist_ok=True)
    if isinstance(model, BaichuanForCausalLM):
        save_model(model, target, base)
    else:
        model.generation_config = generation(character.tokenizer, card["decoding"])
        model.save_pretrained(target)
        character.tokenizer.save_pretrained(target)
        if (base / "tokenizer.model").is_file():  # llama.cpp's converter wants the scores in it
            shutil.copyfile(base / "tokenizer.model", target / "tokenizer.model")
    (target / TEMPLATE).write_text(character.tokenizer.chat_template, encoding="utf-8")
    shutil.copyfile(folder / CARD, target / CARD)
    return Character(model, character.tokenizer, card)


def forget_code(config: PreTrainedConfig, tokenizer: Any) -> None:
    """The base's `auto_map` names code of its makers, never run here: who loads the export shall not run it either."""
    parts = [getattr(config, name, None) for name in config.sub_configs]
    for part in (config, *filter(None, parts)):
        vars(part).pop("auto_map", None)
    tokenizer.init_kwargs.pop("auto_map", None)


def generation(tokenizer: Any, decoding: Mapping[str, Any]) -> GenerationConfig:
    """The adapter's decoding, as far as it bears it, and all tokens that end a reply."""
    decoding = elsewhere(decoding)
    greedy = decoding["temperature"] <= 0
    chance = {} if greedy else {name: decoding[name] for name in ("temperature", "top_p", "top_k")}
    return GenerationConfig(
        do_sample=not greedy,
        **chance,
        repetition_penalty=decoding["repetition_penalty"],
        max_new_tokens=decoding["max_new_tokens"],
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=stop_ids(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
    )


def stored_dtype(model: PreTrainedModel, base: Path) -> torch.dtype:
    """The precision of the base's own files."""
    if isinstance(model, BaichuanForCausalLM):
        return read_config(base).dtype or torch.float32
    return AutoConfig.from_pretrained(base, trust_remote_code=False).dtype or torch.float32
