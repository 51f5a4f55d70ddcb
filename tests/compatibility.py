"""Tiny checkpoints of the supported families, made from nothing; run as a module, a table of how they fare.

python -m tests.compatibility      prints both tables in Markdown
"""

import io
import json
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import sentencepiece
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from deploy.wpack import export_adapter, save_model
from stages.base_model import load_base, lora_targets
from stages.conversation import OPTIONS, encode, encode_supervised, label_ids

SENTENCES = (
    "我是高性能的机器人，亚托莉！今天也会好好努力的。",
    "夏生先生，早上好。大海真漂亮啊，我们去看看吧？",
    "The quick brown fox jumps over the lazy dog, 42 times!",
    "哼哼，这点小事，对高性能的我来说不算什么……不要小看我哦。",
)
TEXTS = (
    *(
        "你好",
        "亚托莉，高性能！",
        "hello world",
        " 两头有空格 ",
        "a\n\nb\tc",
        "😀🤖",
        "龘靐",
        "",
        "12345",
        "<reserved_9>x",
    ),
    *(" ", "\n", "大海真漂亮啊  真的", "The fox…… <h1>", "全角：ＡＢＣ，。", "<tag3>与<SEP>"),
)


# --- Baichuan, in the layout that it was published in


class BaichuanCase(NamedTuple):
    """One of the four models, small: what its config.json says of it, and what must be found out from that."""

    name: str
    config: dict[str, Any]
    alibi: bool
    norm_head: bool
    role_offset: int  # N of `<reserved_N>` at id 195


SIZES = {"hidden_size": 64, "intermediate_size": 88, "num_hidden_layers": 2, "rms_norm_eps": 1e-6, "hidden_act": "silu"}
ROTARY, ALIBI = {"max_position_embeddings": 4096}, {"model_max_length": 4096}
BAICHUAN = (
    BaichuanCase(
        "Baichuan-7B", {"architectures": ["BaiChuanForCausalLM"], **ROTARY, "num_attention_heads": 4}, False, False, 102
    ),
    BaichuanCase(
        "Baichuan-13B", {"architectures": ["BaichuanForCausalLM"], **ALIBI, "num_attention_heads": 4}, True, False, 102
    ),
    BaichuanCase(
        "Baichuan2-7B",
        {"architectures": ["BaichuanForCausalLM"], **ROTARY, **ALIBI, "num_attention_heads": 4, "z_loss_weight": 0},
        False,
        True,
        106,
    ),
    BaichuanCase(
        "Baichuan2-13B", {"architectures": ["BaichuanForCausalLM"], **ALIBI, "num_attention_heads": 8}, True, True, 106
    ),
)


def sentencepiece_model(role_offset: int, dummy_prefix: bool) -> bytes:
    """A model file with Baichuan's flags, on which piece 195 is `<reserved_{role_offset}>`."""
    fillers = 195 - 3 - 4 - role_offset
    symbols = [
        "<SEP>",
        "<CLS>",
        "\n",
        "\t",
        *(f"<tag{n}>" for n in range(fillers)),
        *(f"<reserved_{n}>" for n in range(role_offset + 5)),
    ]
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 3),
        model_writer=out,
        model_type="bpe",
        vocab_size=640,
        hard_vocab_limit=False,
        character_coverage=1.0,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        add_dummy_prefix=dummy_prefix,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        user_defined_symbols=symbols,
        pad_id=-1,
        minloglevel=2,
    )
    return out.getvalue()


def baichuan_checkpoint(
    case: BaichuanCase, folder: Path, weights: str = "safetensors", dtype: torch.dtype = torch.float32
) -> dict[str, torch.Tensor]:
    """Write the checkpoint and give its weights back; `weights` is safetensors, bin, or bin-shards."""
    folder.mkdir(parents=True, exist_ok=True)
    model = sentencepiece_model(case.role_offset, dummy_prefix=not case.norm_head)
    (folder / "tokenizer.model").write_bytes(model)
    size = sentencepiece.SentencePieceProcessor(model_proto=model).vocab_size()
    config = {**SIZES, **case.config, "vocab_size": size, "model_type": "baichuan", "torch_dtype": "float32"}
    config |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False}
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_baichuan.BaichuanForCausalLM"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_baichuan.py").write_text("raise SystemExit('code that came with a model was run')\n")
    tokenizer = {
        "tokenizer_class": "BaichuanTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_baichuan.BaichuanTokenizer", None]},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    tensors = {name: tensor.to(dtype) for name, tensor in _baichuan_tensors(case, size)}
    _save(tensors, folder, weights)
    return tensors


def _baichuan_tensors(case: BaichuanCase, size: int) -> Iterable[tuple[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(len(case.name) + case.role_offset)
    hidden, inner = SIZES["hidden_size"], SIZES["intermediate_size"]
    projections = {"self_attn.W_pack": (3 * hidden, hidden), "self_attn.o_proj": (hidden, hidden)}
    projections |= {"mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner)}
    shapes = {"model.embed_tokens": (size, hidden), "lm_head": (size, hidden), "model.norm": (hidden,)}
    for layer in range(SIZES["num_hidden_layers"]):
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in projections.items()}
        shapes |= {f"model.layers.{layer}.{name}_layernorm": (hidden,) for name in ("input", "post_attention")}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        yield f"{name}.weight", 1 + 0.1 * noise if len(shape) == 1 else noise * (0.4 if "lm_head" in name else 0.2)


def _save(tensors: dict[str, torch.Tensor], folder: Path, weights: str) -> None:
    if weights == "safetensors":
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    elif weights == "bin":
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        names = sorted(tensors)
        files = {name: f"pytorch_model-{1 + n % 2:05}-of-00002.bin" for n, name in enumerate(names)}
        for file in sorted(set(files.values())):
            torch.save({name: tensors[name] for name in names if files[name] == file}, folder / file)
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


# --- other families: their turn formats as published, their configurations with two thin layers


class Family(NamedTuple):
    """A tiny model of a family, its tokenizer's kind and tokens, and what must come of them."""

    name: str
    config: dict[str, Any]
    tokens: tuple[str, ...]  # control tokens; the first is end-of-text
    template: str
    end: str  # what ends a reply
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    bos: str | None = None
    sentencepiece: bool = False


CHATML = """
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif -%}
"""
QWEN2_5 = """
{%- if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou are Qwen.<|im_end|>\n' }}{% endif -%}
""" + CHATML.strip("\n")
QWEN3 = """
{%- set ns = namespace(last=-1) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}
    {%- set words = m.content.split('</think>')[-1].lstrip('\n') if m.role == 'assistant' else m.content %}
    {{- '<|im_start|>' + m.role + '\n' }}
    {%- if m.role == 'assistant' and loop.index0 > ns.last and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}
    {{- words + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}
{%- endif -%}
"""
LLAMA3 = """
{%- if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}
{%- set system = messages[0].content | trim if messages[0].role == 'system' else '' %}
{%- set turns = messages[1:] if messages[0].role == 'system' else messages %}
{{- bos_token + '<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: ' }}
{{- date_string + '\n\n' + system + '<|eot_id|>' }}
{%- for m in turns %}
    {{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif -%}
"""
GLM4 = """
{{- '[gMASK]<sop>' }}
{%- for m in messages %}{{ '<|' + m.role + '|>\n' + m.content }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif -%}
"""
GEMMA3 = """
{{- bos_token }}
{%- set head = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}
{%- set turns = messages[1:] if messages[0].role == 'system' else messages %}
{%- for m in turns %}
    {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
    {{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + (head if loop.first else '') }}
    {{- m.content | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif -%}
"""

TINY = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {**TINY, "num_key_value_heads": 2, "head_dim": 8}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
IM = ("<|im_start|>", "<|im_end|>")
FAMILIES = (
    Family("Qwen2.5", {"model_type": "qwen2", **GROUPED}, ("<|endoftext|>", *IM), QWEN2_5, "<|im_end|>"),
    Family("Qwen3", {"model_type": "qwen3", **GROUPED}, ("<|endoftext|>", *IM), QWEN3, "<|im_end|>"),
    Family(
        "Llama 3",
        {"model_type": "llama", **GROUPED},
        ("<|end_of_text|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        LLAMA3,
        "<|eot_id|>",
        bos="<|begin_of_text|>",
    ),
    Family("Yi", {"model_type": "llama", **GROUPED}, ("<|endoftext|>", *IM), CHATML, "<|im_end|>", sentencepiece=True),
    Family(
        "InternLM3",
        {"model_type": "internlm3", **GROUPED},
        ("</s>", "<s>", *IM),
        "{{- bos_token -}}" + CHATML,
        "<|im_end|>",
        bos="<s>",
        sentencepiece=True,
    ),
    Family(
        "GLM-4",
        {"model_type": "glm", **GROUPED},
        ("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>"),
        GLM4,
        "<|user|>",
        targets=("q_proj", "k_proj", "v_proj", "o_proj", "down_proj", "gate_up_proj"),
    ),
    Family(
        "Gemma 3",
        {"model_type": "gemma3_text", **GROUPED, "sliding_window": 16},
        ("<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        GEMMA3,
        "<end_of_turn>",
        bos="<bos>",
        sentencepiece=True,
    ),
    Family(
        "MiniCPM3",
        {"model_type": "minicpm3", **TINY, "num_key_value_heads": 4, **LATENT},
        ("</s>", "<s>", *IM),
        CHATML,
        "<|im_end|>",
        targets=(
            *("o_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"),
            *("gate_proj", "up_proj", "down_proj"),
        ),
        bos="<s>",
        sentencepiece=True,
    ),
)


def family_checkpoint(family: Family, folder: Path) -> None:
    """Write random weights and a tokenizer trained on the sentences, with the family's tokens and template."""
    tokenizer = family_tokenizer(family)
    tokenizer.save_pretrained(folder)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = AutoConfig.for_model(**family.config, vocab_size=len(tokenizer), **ids)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)


def family_tokenizer(family: Family) -> PreTrainedTokenizerFast:
    thoughts = ["<think>", "</think>"] if "think" in family.template else []
    if family.sentencepiece:
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token=family.tokens[0]))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        alphabet, bytes_ = [], [f"<0x{number:02X}>" for number in range(256)]
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet, bytes_ = pre_tokenizers.ByteLevel.alphabet(), []
    special = [*family.tokens, *bytes_]
    trainer = trainers.BpeTrainer(
        vocab_size=620, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer = _without_byte_specials(tokenizer, family.tokens)
    tokenizer.add_tokens([AddedToken(thought, special=False, normalized=False) for thought in thoughts])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=family.tokens[0], pad_token=family.tokens[0], bos_token=family.bos
    )
    wrapped.chat_template = family.template
    return wrapped


def _without_byte_specials(tokenizer: Tokenizer, specials: Iterable[str]) -> Tokenizer:
    """The trainer makes byte pieces special; in a published tokenizer they are ordinary."""
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in specials]
    return Tokenizer.from_str(json.dumps(state))


# --- the table


@torch.no_grad()
def print_tables() -> None:
    """Baichuan's four models, then the other families; every cell is computed here and now."""
    print("| model | max logit difference | greedy | ids | chat ids | merged, saved | ours as W_pack |")
    print("|---|---|---|---|---|---|---|")
    for case in BAICHUAN:
        print(f"| {case.name} | {' | '.join(_baichuan_cells(case))} |")
    print("\n| family | loads as | LoRA on | a reply ends with | labels | prompt | loss of two steps |")
    print("|---|---|---|---|---|---|---|")
    for family in FAMILIES:
        print(f"| {family.name} | {' | '.join(_family_cells(family))} |")


def _baichuan_cells(case: BaichuanCase) -> Iterator[str]:
    from tests import test_baichuan as check

    with tempfile.TemporaryDirectory() as name:
        folder, root = Path(name) / "base", Path(name)
        weights = baichuan_checkpoint(case, folder)
        model, tokenizer = load_base(str(folder), dtype="fp32")
        official = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        yield _off(model(check.IDS).logits, check.reference(weights, case, check.IDS))
        yield _equal(
            check.greedy(model, check.IDS).tolist(), check.reference_greedy(weights, case, check.IDS, 8).tolist()
        )
        prefix = "" if case.norm_head else " "
        same = sum(tokenizer(prefix + t)["input_ids"] == official.encode(t) for t in TEXTS if t)
        yield f"{same} of {len(TEXTS) - 1}"
        chat = [check.SYSTEM, *check.CHAT] if case.norm_head else list(check.CHAT)
        yield _equal(encode(tokenizer, chat, add_generation_prompt=True), check.built(official, chat, case.norm_head))
        lora, logits = check.trained(folder, None)
        lora.save_pretrained(root / "ours")
        save_model(lora.merge_and_unload(), root / "merged", folder)
        yield _off(check.reference(load_file(root / "merged" / "model.safetensors"), case, check.IDS), logits)
        export_adapter(root / "ours", root / "fused")
        fused = load_file(root / "fused" / "adapter_model.safetensors")
        yield _off(check.reference(check.with_deltas(weights, fused, 15 / 9), case, check.IDS), logits)


def _family_cells(family: Family) -> Iterator[str]:
    from tests import test_families as check

    with tempfile.TemporaryDirectory() as name:
        family_checkpoint(family, Path(name))
        model, tokenizer = load_base(name, dtype="fp32")
    yield type(model).__name__
    yield ", ".join(target.removesuffix("_proj") for target in lora_targets(model))
    yield f"`{family.end}`".replace("|", "\\|")
    ids, supervised = encode_supervised(tokenizer, check.DIALOGUE)
    learnt = tokenizer.decode([token for token, wanted in zip(ids, supervised, strict=True) if wanted])
    yield "each once" if learnt == f"夏生先生，早上好。{family.end}高性能！{family.end}" else "WRONG"
    plain = [{"role": message["role"], "content": message["content"]} for message in check.DIALOGUE[:-1]]
    expected = tokenizer.apply_chat_template(plain, add_generation_prompt=True, return_dict=False, **OPTIONS)
    yield _equal(encode(tokenizer, plain, add_generation_prompt=True), expected)
    yield _one_step(model, ids, label_ids(tokenizer, ids, supervised))


@torch.enable_grad()
def _one_step(model: Any, ids: list[int], labels: list[int]) -> str:
    torch.manual_seed(0)
    lora = get_peft_model(model, LoraConfig(r=4, target_modules=lora_targets(model), task_type="CAUSAL_LM"))
    optimizer = torch.optim.AdamW((p for p in lora.parameters() if p.requires_grad), lr=1e-2)
    losses = []
    for _ in range(2):
        loss = lora(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
    return " → ".join(f"{loss:.3f}" for loss in losses)


def _off(one: torch.Tensor, other: torch.Tensor) -> str:
    return f"{(one - other).abs().max().item():.0e}"


def _equal(one: Any, other: Any) -> str:
    return "equal" if one == other else "DIFFERS"


if __name__ == "__main__":
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)  # peft 0.21 uses a name that transformers 5 renames
    print_tables()
