"""Every command of the READMEs is run by a test, or named here with the reason why none can run it."""

import re
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.faults import make_environment
from tests.pipeline import make_pipeline, model_environment, run
from tests.test_readme import ENGLISH, ROOT, commands

CI, HERE = ".ci/run", "tests/test_commands.py::test_the_experiments_of_the_readme"
KEEP = 'git add raw/mygame.dvc raw/.gitignore params.yaml dvc.lock reports && git commit -m "First run of my text"'
SHOW = next(command for command in commands(ENGLISH) if command.startswith("dvc exp show"))
GO_BACK = "git checkout params.yaml dvc.lock reports && dvc checkout"
RUN_BY = {  # command -> the test that runs it
    "make test-all": CI,
    "dvc repro": "tests/test_sharing.py::share",
    "dvc push": "tests/test_sharing.py::share",
    "dvc pull raw/mygame": "tests/test_sharing.py::test_the_users_text_is_in_the_store_and_not_in_git",
    'git tag -a character@v1.0.0 -m "first"': "tests/test_sharing.py::test_an_adapter_is_fetched_by_name_and_version",
    "dvc artifacts get URL character --rev v1.0.0": (
        "tests/test_sharing.py::test_an_adapter_is_fetched_by_name_and_version"
    ),
    "git push origin character@v1.0.0": ("tests/test_sharing.py::test_an_adapter_is_fetched_by_name_and_version"),
    "dvc exp push origin NAME": "tests/test_sharing.py::test_an_experiment_is_shared",
    "dvc exp pull origin NAME": "tests/test_sharing.py::test_an_experiment_is_shared",
    "dvc repro --pull --allow-missing": "tests/test_sharing.py::test_an_unchanged_clone_runs_nothing",
    "python -m deploy.lock": "tests/test_kill.py::test_a_lock_cut_short_is_mended_and_no_stage_runs_again",
    "python -m deploy.remote check": "tests/test_sharing.py::test_the_transcript_in_the_readme_is_true",
    "python -m deploy.remote check --repair": (
        "tests/test_remote.py::test_lost_and_corrupted_objects_are_named_and_healed"
    ),
    "python -m tests.readme_figures": "tests/test_readme.py::test_the_figures_are_those_of_the_metrics_beside_them",
    "python -m tests.compatibility": "tests/test_families.py::test_the_tables_of_the_readme_hold",
    "python -m stages.train --plan --base Qwen/Qwen3-4B --gpu-gb 24": (
        "tests/test_plan.py::test_a_plan_is_made_without_weights_and_says_what_does_not_fit"
    ),
    "python -m stages.train --plan --base Qwen/Qwen3-14B --gpu-gb 24 --gpus 2": (
        "tests/test_plan.py::test_the_plan_for_several_cards_says_when_to_share"
    ),
    "python -m deploy.serve --print-vllm": (
        "tests/test_serve.py::test_the_command_for_vllm_names_base_adapter_rank_and_decoding"
    ),
    'python -m deploy.web --host 0.0.0.0 --api-key "$(openssl rand -hex 8)"': (
        "tests/test_web.py::test_the_page_takes_the_key_from_its_address_or_asks_for_it"
    ),
    "python -m deploy.export merged": (
        "tests/test_export.py::test_merged_weights_give_the_same_logits_in_plain_transformers"
    ),
    "python -m deploy.export gguf": "tests/test_export.py::test_llama_cpp_reads_a_converted_baichuan_and_agrees",
    "python -m deploy.export ollama": (
        "tests/test_export.py::test_a_modelfile_holds_template_persona_decoding_and_stops"
    ),
    "python -m deploy.export card": "tests/test_export.py::test_both_parsers_of_the_card_format_accept_the_cards",
    "python -m deploy.export wpack": "tests/test_export.py::test_baichuan_gets_an_adapter_on_its_fused_projection",
    "make chat": "tests/test_sharing.py::test_the_transcript_in_the_readme_is_true",
    **dict.fromkeys(
        (
            "make test",
            "make inspect SOURCE=raw/mygame",
            "make inspect SOURCE=raw/mygame CHARACTER=夏生 PARTNER=亚托莉",
            "make repro",
            "dvc add raw/mygame",
            KEEP,
            "dvc dag",
            "dvc status",
            """dvc exp run -S 'filter.character="夏生"' -S 'filter.partner="亚托莉"' -n natsuki""",
            "make chat ADAPTER=natsuki",
            GO_BACK,
            "dvc exp run -S train.rank=32 -n wide",
            SHOW,
            "dvc exp apply wide",
        ),
        HERE,
    ),
}
NO_GPU, NO_CLOUD, OTHERS = "needs a GPU", "needs an account with a cloud", "is made of commands that tests run"
NOT_RUN = {  # what a command begins with -> why no test runs it
    "dvc exp run -S train.base_model=": "needs a GPU, and a download of 8 to 30 GB",
    'pip install "skypilot': NO_CLOUD,
    "sky launch": NO_CLOUD,
    "rsync": NO_CLOUD,
    "dvc pull && sky down": NO_CLOUD,
    "sudo apt-get": "changes the machine",
    "make env": "downloads every package; `make test-all` in .ci/run begins with it",
    "make serve": "runs until it is stopped, on a fixed port; tests/test_serve.py asks the same server on a free one",
    "make compare": "12 to 27 trainings; what it calls is tested in tests/test_compare.py",
    "dvc repro && dvc push": OTHERS,
    "dvc repro format": OTHERS,
    "git add dvc.lock params.yaml reports && git commit": OTHERS,
    "git pull && dvc pull models/adapter && make serve": OTHERS,
    "python -m benchmarks.": "takes minutes to hours, and for some the packages of others",
    "python -m deploy.compare --strategies": "fifteen trainings; what it calls is tested in tests/test_compare.py",
}


@pytest.mark.parametrize("command", sorted(set(commands(ENGLISH))))
def test_a_command_of_the_readme_is_run_or_there_is_a_reason(command):
    reasons = [reason for start, reason in NOT_RUN.items() if command.startswith(start)]
    assert (command in RUN_BY) + len(reasons) == 1, command


@pytest.mark.parametrize("place", sorted(set(RUN_BY.values())))
def test_a_test_that_is_named_exists(place):
    file, _, name = place.partition("::")
    assert re.search(rf"^def {name}\b", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE) or not name


def test_no_entry_outlives_its_command():
    present = set(commands(ENGLISH))
    assert sorted(set(RUN_BY) - present) == []
    assert [start for start in NOT_RUN if not any(command.startswith(start) for command in present)] == []


@pytest.mark.slow
def test_the_experiments_of_the_readme(tmp_path):
    environment = model_environment(make_environment(tmp_path, {}))
    del environment["PYTHONPATH"]  # the copy runs its own code
    folder = make_pipeline(tmp_path / "mine", environment)
    shutil.copytree(folder / "raw" / "sample", folder / "raw" / "mygame")
    params = folder / "params.yaml"

    def say(line: str, **changes: str) -> str:
        assert line in commands(ENGLISH)
        make = line.replace("make ", "make -o env -o serve-env ")
        return run(folder, environment | changes, "bash", "-ec", make)

    assert "passed" in say("make test", PYTEST_ADDOPTS="tests/test_languages.py")
    before = params.read_bytes()
    swapped = say("make inspect SOURCE=raw/mygame CHARACTER=夏生 PARTNER=亚托莉")
    assert "partner: 亚托莉" in swapped and "character: 夏生" in swapped
    found = say("make inspect SOURCE=raw/mygame")
    assert params.read_bytes() == before
    paste(found, params)
    say("make repro")
    assert "partner: 夏生" in params.read_text(encoding="utf-8")
    say("dvc add raw/mygame")
    say(KEEP)
    assert "evaluate" in say("dvc dag")
    assert "up to date" in say("dvc status")
    say("""dvc exp run -S 'filter.character="夏生"' -S 'filter.partner="亚托莉"' -n natsuki""")
    assert "亚托莉: " in say("make chat ADAPTER=natsuki"), "the user takes her part"
    say(GO_BACK)
    assert not run(folder, environment, "git", "status", "--porcelain", "-uno")
    assert "source: raw/mygame/script" in params.read_text(encoding="utf-8"), "what was pasted is still there"
    assert "up to date" in say("dvc status")
    say("dvc exp run -S train.rank=32 -n wide")
    table = say(SHOW)
    assert "wide" in table and "natsuki" in table and "train.rank" in table and "bits_per_character_core" in table
    assert table.splitlines()[0].count("|") < 14, "few enough columns to read"
    run(folder, environment, "git", "checkout", "-q", "--", ".")
    say("dvc exp apply wide")
    assert "rank: 32" in params.read_text(encoding="utf-8")


def paste(said: str, path: Path) -> None:
    """Put the lines that `inspect` printed in place of those in params.yaml."""
    yaml = YAML()
    params = yaml.load(path.read_text(encoding="utf-8"))
    lines = said.split("To put into params.yaml", 1)[1].split("\n", 1)[1].split("\n\n", 1)[0]
    for section, values in yaml.load(lines).items():
        params[section] |= values
    yaml.dump(params, path)
