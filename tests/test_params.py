"""params.yaml: what is missing, unknown or of the wrong kind stops the run and names itself."""

from dataclasses import dataclass

import pytest

from stages.params import leads, load_params, look_up
from stages.records import InputError


@dataclass(frozen=True)
class ToyParams:
    rate: float
    name: str
    limit: int | None


def write(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_values_are_read_as_yaml_1_2(tmp_path):
    path = write(tmp_path, "toy:\n  rate: 1e-4\n  name: no\n  limit: null\n")
    assert load_params("toy", ToyParams, path) == ToyParams(1e-4, "no", None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "toy:\n  rate: 1.0\n",
            "`toy` lacks `limit`, `name`\nhint: keep the other lines of the section, or `git",
        ),
        ("toy:\n  rate: 1.0\n  name: a\n", "to add: `  limit: <int | None>`"),
        (
            "toy:\n  rate: 1.0\n  name: a\n  limit: 1\n  rat: 2\n",
            "unknown key `rat`\nhint: expected rate",
        ),
        ("toy:\n  rat: 1.0\n  name: a\n  limit: 1\n", "unknown key `rat`\nhint: expected rate"),
        ("toy:\n  rate: 1.0\n  name: a\n  limit: 1\n  zoo: 2\n", "hint: expected rate, name, limit"),
        ("toy:\n  rate: fast\n  name: a\n  limit: 1\n", "`toy.rate`: expected float, got 'fast'"),
        ("toy:\n  rate: true\n  name: a\n  limit: 1\n", "`toy.rate`: expected float, got True"),
        ("other: 1\n", "expected a section `toy:`"),
        ("toy: [\n", "expected YAML 1.2"),
        ("- toy\n", "expected a section `toy:`, got list"),
        ("toy\n", "expected a section `toy:`, got str"),
        ("toy:\n  rate: 2024-99-99\n", "expected YAML 1.2, got month must be"),
        ("toy:\n  rate: " + "9" * 5000, "expected YAML 1.2, got Exceeds the limit"),
    ],
)
def test_a_wrong_file_is_refused_with_section_and_key(tmp_path, text, reason):
    with pytest.raises(InputError) as error:
        load_params("toy", ToyParams, write(tmp_path, text))
    assert reason in str(error.value)


def test_aliases_that_repeat_without_bound_are_refused(tmp_path):
    levels = (f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 30))  # 10 to the 30th of them
    path = write(tmp_path, "a0: &a0 [x]\n" + "".join(levels))
    with pytest.raises(InputError, match=r"expected at most \d+ characters, got more by its aliases"):
        load_params("toy", ToyParams, path)


@pytest.mark.parametrize("encoding", ["gbk", "utf-16"])
def test_a_file_in_another_encoding_is_refused_with_the_cure(tmp_path, encoding):
    path = tmp_path / "params.yaml"
    path.write_bytes("toy:\n  name: 夏生\n".encode(encoding))
    with pytest.raises(InputError, match=r"params\.yaml: expected UTF-8, got the byte 0x.. in line .\nhint: save it"):
        load_params("toy", ToyParams, path)


def test_leads_that_are_not_named_are_asked_for(tmp_path):
    with pytest.raises(InputError, match="section `filter` lacks `partner`"):
        leads(write(tmp_path, "filter:\n  character: 亚托莉\n"))


def test_a_missing_file_says_where_to_run(tmp_path):
    with pytest.raises(InputError, match="run from the top of the repository"):
        load_params("toy", ToyParams, tmp_path / "params.yaml")


def test_a_dotted_key_leads_into_a_section_and_nowhere_to_none():
    values = {"a": {"b": 0}, "c": 1}
    assert [look_up(values, key) for key in ("a.b", "a", "a.d", "c.d", "e.f")] == [0, {"b": 0}, None, None, None]
