"""Baichuan as it was published, with q, k and v in one W_pack: a merged model, and an adapter, for others to load."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stages.baichuan import PACKED, BaichuanForCausalLM
from stages.records import InputError, write_json
from stages.settings import CONFIG, WEIGHTS
from stages.trust import read_object

PUBLISHED = ("tokenizer*", "special_tokens_map.json", "generation_config.json", "*.py")


def save_model(model: BaichuanForCausalLM, folder: Path, source: Path) -> None:
    """Write merged weights beside the files of `source` that other readers need: configuration, tokenizer, code."""
    model.save_pretrained(folder)
    published = json.loads((source / "config.json").read_text(encoding="utf-8"))
    shape = {"alibi": model.config.alibi, "norm_head": model.config.norm_head}
    write_json(folder / "config.json", {**published, **shape, "torch_dtype": str(model.dtype).removeprefix("torch.")})
    for file in sorted(file for pattern in PUBLISHED for file in source.glob(pattern)):
        shutil.copyfile(file, folder / file.name)


def export_adapter(source: Path, folder: Path) -> None:
    """Rewrite a trained adapter on q, k and v as one on W_pack; its scale, alpha over rank, stays."""
    config = read_object(source / CONFIG)
    beyond = [name for name in ("use_rslora", "use_dora") if config[name]]
    if beyond or not set(PACKED) <= set(config["target_modules"]):
        got = ", ".join(beyond or config["target_modules"])
        raise InputError(
            f"{source}: expected a plain LoRA on {', '.join(PACKED)}, got {got}\nhint: python -m deploy.export merged"
        )
    targets = ["W_pack", *(target for target in config["target_modules"] if target not in PACKED)]
    grown = {key: config[key] * len(PACKED) for key in ("r", "lora_alpha")}
    write_json(folder / CONFIG, {**config, **grown, "target_modules": targets})
    save_file(fuse(load_file(source / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})


def fuse(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """LoRA weights on W_pack, of three times the rank: the A of q, k and v below each other, their B on the diagonal.

    The other modules are padded with zeros to that rank, because readers such as vLLM know one rank for all.
    """
    fused: dict[str, Tensor] = {}
    for name, weight in weights.items():
        down = "lora_A" in name
        if ".q_proj." in name:
            parts = [weights[name.replace("q_proj", target)] for target in PACKED]
            fused[name.replace("q_proj", "W_pack")] = torch.cat(parts) if down else torch.block_diag(*parts)
        elif ".k_proj." not in name and ".v_proj." not in name:
            zeros = [torch.zeros_like(weight)] * (len(PACKED) - 1)
            fused[name] = torch.cat([weight, *zeros], dim=0 if down else 1)
    return fused
