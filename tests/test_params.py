"""params.yaml: what is missing, unknown or of the wrong kind stops the run and names itself."""

from dataclasses import dataclass

import pytest

from stages.params import load_params, look_up
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
        ("toy:\n  rate: 1.0\n  name: a\n", "`toy` lacks the key `limit`\nhint: add `  limit: "),
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
    ],
)
def test_a_wrong_file_is_refused_with_section_and_key(tmp_path, text, reason):
    with pytest.raises(InputError) as error:
        load_params("toy", ToyParams, write(tmp_path, text))
    assert reason in str(error.value)


def test_a_missing_file_says_where_to_run(tmp_path):
    with pytest.raises(InputError, match="run from the top of the repository"):
        load_params("toy", ToyParams, tmp_path / "params.yaml")


def test_a_dotted_key_leads_into_a_section_and_nowhere_to_none():
    values = {"a": {"b": 0}, "c": 1}
    assert [look_up(values, key) for key in ("a.b", "a", "a.d", "c.d", "e.f")] == [0, {"b": 0}, None, None, None]
