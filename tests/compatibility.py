"""Tiny checkpoints of the supported families, made from nothing; run as a module, a table of how they fare.

python -m tests.compatibility      prints the table of docs in Markdown
"""

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import sentencepiece
import torch
from safetensors.torch import save_file

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
