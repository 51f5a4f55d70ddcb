"""The packed row and the chunked loss give what plain transformers gives, in fp64, one dialogue at a time."""

import copy

import pytest
import torch
import torch.nn.functional as F
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GraniteConfig,
    LlamaConfig,
    MambaConfig,
    Qwen3Config,
)

from stages import head, packed
from stages.conversation import IGNORE
from stages.packed import Sample, choose_layout, install
from stages.records import InputError

SIZES = dict(vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
SIZES["head_dim"] = 8
WINDOW = 6  # shorter than the dialogues below

GEMMA3 = Gemma3TextConfig(
    **SIZES, num_key_value_heads=1, sliding_window=WINDOW, layer_types=["sliding_attention", "full_attention"]
)
GEMMA2 = Gemma2Config(**SIZES, num_key_value_heads=2, sliding_window=WINDOW, final_logit_softcapping=2.0)
LLAMA = LlamaConfig(**SIZES, num_key_value_heads=2, tie_word_embeddings=False)
QWEN3 = Qwen3Config(**SIZES, num_key_value_heads=2, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1)
GRANITE = GraniteConfig(**SIZES, num_key_value_heads=2, attention_dropout=0.1, logits_scaling=2.0)
BLOOM = BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4)
MAMBA = MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, state_size=4)
LAYOUT = {
    "gemma3": (GEMMA3, "packed"),
    "llama": (LLAMA, "packed"),
    "qwen3": (QWEN3, "packed"),
    "gemma2": (GEMMA2, "padded"),  # soft-capped attention
    "granite": (GRANITE, "padded"),  # attention with dropout
    "bloom": (BLOOM, "padded"),  # ALiBi
    "mamba": (MAMBA, "padded"),  # a state that runs on over the border
}


def make(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=torch.float32).eval()
    with torch.no_grad():  # larger weights: attention that matters, so that a wrong mask shows
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                weight.mul_(8 if "embed" not in name and "lm_head" not in name else 4)
    head = model.get_output_embeddings()
    for parameter in (*head.parameters(), *model.get_input_embeddings().parameters()):
        parameter.requires_grad_(False)
    return model


def dialogues(seed=0, lengths=(13, 5, 21), opening=()):
    """Random dialogues behind an opening without labels."""
    generator = torch.Generator().manual_seed(seed)
    for length in lengths:
        ids = [*opening, *torch.randint(1, 97, (length,), generator=generator).tolist()]
        learn = torch.rand(len(ids), generator=generator) < 0.4
        learn[: len(opening)] = False
        yield Sample(ids, [token if yes else IGNORE for token, yes in zip(ids, learn.tolist(), strict=True)])


def plain_loss(model, samples):
    """Summed over the dialogues, each run alone, full logits."""
    total = 0
    for ids, labels in samples:
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
        total = total + F.cross_entropy(logits, torch.tensor(labels[1:]), ignore_index=IGNORE, reduction="sum")
    return total


def gradients(model, loss):
    loss.backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize(("config", "expected"), LAYOUT.values(), ids=LAYOUT)
@pytest.mark.parametrize("opening", [(), (5, 6, 7, 8, 9, 10, 11, 12)], ids=["no opening", "shared opening"])
@pytest.mark.parametrize(
    "limits",
    [(1024, 2**24, 256), (5, 0, 256), (5, 2**24, 3)],
    ids=["large", "small", "halved"],
)
def test_gradients_in_fp32_are_those_of_plain_transformers_in_fp64(config, expected, limits, opening, monkeypatch):
    monkeypatch.setattr(head, "COLUMNS", limits[0])  # small: many blocks of the vocabulary
    monkeypatch.setattr(packed, "MOST_SCORES", limits[1])  # small: through SDPA
    monkeypatch.setattr(packed, "MOST_QUERIES", limits[2])  # small: in halves of halves
    model, samples = make(config), list(dialogues(opening=opening))
    reference = copy.deepcopy(model).double()
    reference.set_attn_implementation("eager")
    wanted_loss = plain_loss(reference, samples)
    wanted = gradients(reference, wanted_loss)

    layout = choose_layout(model)
    assert layout.name == expected
    install(model)
    loss = model(**layout.collate(samples))["loss"]
    got = gradients(model, loss)

    assert loss.item() == pytest.approx(wanted_loss.item(), rel=1e-5)
    assert got.keys() == wanted.keys()
    worst = {name: ((got[name] - wanted[name]).norm() / wanted[name].norm()).item() for name in wanted}
    assert max(worst.values()) < 1e-4, worst


def test_a_dialogue_does_not_feel_its_neighbours():
    model = make(GEMMA3)
    layout = choose_layout(model)
    install(model)
    samples = list(dialogues())
    alone = sum(model(**layout.collate([sample]))["loss"] for sample in samples)
    assert model(**layout.collate(samples))["loss"].item() == pytest.approx(alone.item(), rel=1e-6)
    assert model(**layout.collate(samples[::-1]))["loss"].item() == pytest.approx(alone.item(), rel=1e-6)


@pytest.mark.parametrize("collate", [packed.pack, packed.pad])
def test_every_label_but_the_first_position_reaches_the_batch_once(collate):
    samples = [*dialogues(), Sample([], [])]
    wanted = sorted(label for _, labels in samples for label in labels[1:] if label != IGNORE)
    batch = collate(samples)
    assert sorted(batch["labels"][batch["labels"] != IGNORE].tolist()) == wanted
    assert (batch["labels"][:, 0] == IGNORE).all()


def test_the_shared_opening_is_computed_once_and_ends_before_the_first_label():
    twins = [Sample([1, 2, 3, 4, 5], [IGNORE, IGNORE, IGNORE, 4, 5])] * 2
    batch = packed.pack(twins)
    assert batch["lengths"] == (2, 3, 3)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5, 3, 4, 5]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 2, 3, 4]]
    assert batch["labels"].tolist() == [[IGNORE, IGNORE, IGNORE, 4, 5, IGNORE, 4, 5]]


def test_a_batch_of_nothing_has_loss_zero_and_zero_gradients():
    model = make(LLAMA)
    layout = choose_layout(model)
    install(model)
    loss = model(**layout.collate([Sample([], [])]))["loss"]
    assert loss.item() == 0
    assert all(not gradient.any() for gradient in gradients(model, loss).values())


def test_a_head_that_is_more_than_a_matrix_is_refused():
    model = make(LLAMA)
    model.lm_head.register_forward_hook(lambda module, args, logits: logits * 3)
    with pytest.raises(InputError, match="LlamaForCausalLM"):
        choose_layout(model)


@pytest.mark.parametrize(
    ("asked", "mask", "words"),
    [
        ({"softcap": 50.0}, None, r"\['softcap'\]"),
        ({"dropout": 0.1}, None, r"\['dropout'\]"),
        ({}, torch.zeros(1), r"\['a mask'\]"),
    ],
)
def test_the_packed_attention_refuses_what_it_does_not_compute(asked, mask, words):
    query = torch.zeros(1, 1, 4, 8)
    with pytest.raises(NotImplementedError, match=words):
        packed.dialogue_attention(torch.nn.Identity(), query, query, query, mask, lengths=[4], **asked)


def test_bf16_stays_close_to_fp32():
    model = make(GEMMA3)
    samples = list(dialogues())
    wanted = plain_loss(model, samples).item()
    model = model.bfloat16()
    layout = choose_layout(model)
    install(model)
    assert layout.name == "packed"
    assert model(**layout.collate(samples))["loss"].item() == pytest.approx(wanted, rel=0.03)
