"""Every command of the READMEs is run by a test, or named here with the reason why none can run it."""

import re

import pytest

from tests.faults import make_environment
from tests.pipeline import commit, make_pipeline, model_environment, run
from tests.test_readme import ENGLISH, ROOT, commands

CI, HERE = ".ci/run", "tests/test_commands.py::test_the_experiments_of_the_readme"
GO_BACK = "git checkout params.yaml dvc.lock reports && dvc checkout"
RUN_BY = {  # command -> the test that runs it
    "make test": CI,
    "make test-all": CI,
    "make env": CI,
    "dvc repro": "tests/test_sharing.py::share",
    "dvc push": "tests/test_sharing.py::share",
    "dvc add raw/mygame": "tests/test_sharing.py::test_three_commits_back_lies_the_data_set_of_last_month",
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
    "python -m deploy.serve --print-vllm": (
        "tests/test_serve.py::test_the_command_for_vllm_names_base_adapter_rank_and_decoding"
    ),
    'python -m deploy.web --host 0.0.0.0 --api-key "$(openssl rand -hex 8)"': (
        "tests/test_web.py::test_the_page_takes_the_key_from_its_address_or_asks_for_it"
    ),
    "make serve": "tests/test_serve.py::test_the_openai_client_hears_her_whole_and_in_pieces",
    "make compare": "tests/test_compare.py::test_runs_resume_and_a_failed_one_does_not_stop_the_rest",
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
            "make inspect SOURCE=raw/mygame",
            "make repro",
            "dvc dag",
            "dvc status",
            "dvc metrics show",
            """dvc exp run -S 'filter.character="夏生"' -S 'filter.partner="亚托莉"' -n natsuki""",
            "make chat ADAPTER=natsuki",
            GO_BACK,
            "dvc exp run -S train.rank=32 -n wide",
            "dvc exp show --md --only-changed",
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
    "make env && . .venv/bin/activate && dvc pull raw/mygame": OTHERS,
    "dvc repro && dvc push": OTHERS,
    "dvc repro format": OTHERS,
    "git add dvc.lock params.yaml reports && git commit": OTHERS,
    "git pull && dvc pull models/adapter && make serve": OTHERS,
    "python -m benchmarks.": "takes minutes to hours, and for some the packages of others",
    "python -m deploy.compare --strategies": "fifteen trainings; what it calls is tested in tests/test_compare.py",
    "make compare OVER=": "twelve trainings; what it calls is tested in tests/test_compare.py",
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
    (folder / "raw" / "mygame").symlink_to(folder / "raw" / "sample")

    def say(line: str) -> str:
        assert line in commands(ENGLISH)
        return run(folder, environment, "bash", "-ec", line.replace("make ", "make -o env "))

    before = (folder / "params.yaml").read_bytes()
    assert "partner: 夏生" in say("make inspect SOURCE=raw/mygame")
    assert (folder / "params.yaml").read_bytes() == before
    (folder / "raw" / "mygame").unlink()
    say("make repro")
    commit(folder, environment, "A run")
    assert "evaluate" in say("dvc dag")
    assert "up to date" in say("dvc status")
    assert "bits_per_character" in say("dvc metrics show")
    say("""dvc exp run -S 'filter.character="夏生"' -S 'filter.partner="亚托莉"' -n natsuki""")
    assert "亚托莉: " in say("make chat ADAPTER=natsuki"), "the user takes her part"
    say(GO_BACK)
    assert not run(folder, environment, "git", "status", "--porcelain", "-uno")
    say("dvc exp run -S train.rank=32 -n wide")
    table = say("dvc exp show --md --only-changed")
    assert "wide" in table and "natsuki" in table and "train.rank" in table
    run(folder, environment, "git", "checkout", "-q", "--", ".")
    say("dvc exp apply wide")
    assert "rank: 32" in (folder / "params.yaml").read_text(encoding="utf-8")
