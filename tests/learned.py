"""A character who has learned a few replies by heart: a two-layer model with a LoRA adapter, in three seconds."""

import json
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM

from stages.conversation import IGNORE, encode_supervised, fill_persona, label_ids
from stages.train import save_adapter
from tests import characters
from tests.characters import WITH_SYSTEM, make_base, make_tokenizer

REPLIES = {
    "早上好，亚托莉。": "早上好，夏生先生！今天的海边很舒服。",
    "今天吃什么？": "蟹味薯片！\n还有炸豆腐！",
    "你是谁？": "我是高性能的机器人！",
}
CARD = {
    **characters.CARD,
    "base_model": "base",
    "decoding": {"max_new_tokens": 60, "temperature": 0.7, "top_p": 0.9, "top_k": 50, "repetition_penalty": 1.0},
}
PERSONA = CARD["persona"]


def make_character(folder: Path) -> Path:
    """An adapter's folder; load it with `folder` as the working directory, where its base lies."""
    make_base(folder / "base", WITH_SYSTEM)
    tokenizer = make_tokenizer(WITH_SYSTEM)
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    learn_by_heart(model, tokenizer)
    model.save_pretrained(folder / "base")
    names = ["q_proj", "k_proj", "v_proj"]
    config = LoraConfig(task_type="CAUSAL_LM", base_model_name_or_path="base", target_modules=names, r=2)
    model.name_or_path = "base"
    adapted = get_peft_model(model, config)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)  # differs from the base, and still knows its replies
    save_adapter(adapted, tokenizer, CARD, folder / "adapter")
    return folder / "adapter"


def learn_by_heart(model, tokenizer, steps: int = 120) -> None:
    """Full training until the replies are certain."""
    rows = [lesson(tokenizer, asked, said, name) for asked, said in REPLIES.items() for name in ("夏生", "小满")]
    ids, labels = zip(*rows, strict=True)
    ids = pad_sequence(ids, batch_first=True)
    labels = pad_sequence(labels, batch_first=True, padding_value=IGNORE)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(steps):
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1, f"the tiny model did not learn its replies: {loss}"


def lesson(tokenizer, asked: str, said: str, name: str):
    """Ids and labels of one round."""
    messages = [
        {"role": "system", "content": fill_persona(PERSONA, name)},
        {"role": "user", "content": asked},
        {"role": "assistant", "content": said.replace("夏生", name)},
    ]
    ids, supervised = encode_supervised(tokenizer, messages)
    return torch.tensor(ids), torch.tensor(label_ids(tokenizer, ids, supervised))


def edit(path: Path, **changes) -> None:
    """Change values of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")
