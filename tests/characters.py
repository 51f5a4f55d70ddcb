"""A whole adapter folder made small: a two-layer Gemma with sliding windows, a byte-level tokenizer, LoRA weights."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, Gemma3TextConfig, PreTrainedTokenizerFast

from stages.inference import State

SAID = ("我是高性能的机器人！", "夏生先生，今天吃什么？", "早上好，亚托莉。", "海边的风很舒服。", "嗯……（低下头）")
CONTROL = ["<pad>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]
TEMPLATE = Path("stages/templates/gemma.jinja")
WITH_SYSTEM = (  # a chat template whose system text is a turn of its own
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m['role'] }}\n{{ m['content'] }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>assistant\n{% endif %}"
)
DECODING = {"max_new_tokens": 24, "temperature": 0.9, "top_p": 0.95, "top_k": 20, "repetition_penalty": 1.1}
CARD = {
    "character": "亚托莉",
    "partner": "夏生",
    "user_name": "夏生",
    "persona": "你是亚托莉。和你说话的人叫{user}。",
    "narration": "opening",
    "revision": None,
    "decoding": DECODING,
}


def make_tokenizer(template: str | None = None) -> PreTrainedTokenizerFast:
    """Bytes and a few merges; Gemma's control tokens, and its chat template or another."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=CONTROL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SAID, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")
    fast.add_special_tokens({"extra_special_tokens": CONTROL[3:]})
    fast.chat_template = template or TEMPLATE.read_text(encoding="utf-8")
    return fast


def make_base(folder: Path, template: str | None = None) -> None:
    """A base model with random weights large enough to have opinions."""
    tokenizer = make_tokenizer(template)
    tokenizer.save_pretrained(folder)
    config = Gemma3TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=8,
        sliding_window=64,
        layer_types=["sliding_attention", "full_attention"],
        initializer_range=0.3,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def make_adapter(folder: Path, base: Path, **card: object) -> Path:
    """An adapter that changes what the base says, with the card that training writes beside it."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base)
    model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM"))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.5)
    model.save_pretrained(folder)
    (folder / "README.md").unlink()
    (folder / "chat_template.jinja").write_text(TEMPLATE.read_text(encoding="utf-8"), encoding="utf-8")
    row = {**CARD, "base_model": str(base), **card}
    (folder / "character.json").write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
    return folder


def force(patch: pytest.MonkeyPatch, wanted: Sequence[int]) -> None:
    """Make the model want these tokens, in this order, whatever was said; the last for ever."""
    steps = iter([*wanted, *[wanted[-1]] * 1000])

    def step(state: State, ids: torch.Tensor) -> State:
        state.logits = torch.zeros(len(ids), 400).scatter_(1, torch.full((len(ids), 1), next(steps)), 5.0)
        return state

    patch.setattr(State, "_run", step)
