"""The small pipeline on a user's own text, pushed to a real store, pulled by a friend who has nothing."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from stages.records import read_jsonl
from stages.trust import check_adapter
from tests.faults import make_environment
from tests.pipeline import BASE, ROOT, commit, make_pipeline, model_environment, run
from tests.store import Store

pytestmark = pytest.mark.slow
ADAPTER = "models/adapter"
SCRIPT = "raw/mygame/script/01_spring.txt"
TELLING = 10  # characters from which a line is surely the script's


class Share:
    """A store, a hub for git, and `mine`, in which the whole pipeline has run."""

    def __init__(self, root: Path, store: Store) -> None:
        self.root, self.store = root, store
        self.environment = model_environment(make_environment(root, store.keys()))
        del self.environment["PYTHONPATH"]  # each clone runs its own code
        self.mine = make_pipeline(root / "mine", self.environment, work="mygame")
        self.start = self.run(self.mine, "git rev-parse HEAD").strip()

    def run(self, where: Path, line: str) -> str:
        """What a command line prints; it must succeed."""
        return run(where, self.environment, "bash", "-ec", line)

    def clone(self, name: str) -> Path:
        """A friend's clone: no cache, no raw text, no base model."""
        self.run(self.root, f"git clone -q hub.git {name}")
        return self.root / name

    def download_base(self, friend: Path) -> None:
        """Stands for the hub, from which every friend gets the base model."""
        shutil.copytree(self.mine / BASE, friend / BASE)


@pytest.fixture(scope="module")
def share(tmp_path_factory):
    root = tmp_path_factory.mktemp("share")
    with Store(root / "store") as store:
        share = Share(root, store)
        share.run(share.mine, "dvc repro")
        address = f"s3://{store.bucket}/mine --endpoint {store.endpoint}"
        share.run(share.mine, f"python -m deploy.remote add {address}")
        commit(share.mine, share.environment, "first")
        share.run(root, "git clone -q --bare mine hub.git")
        share.run(share.mine, f"git remote add origin {root}/hub.git && git fetch -q && git branch -q -u origin/main")
        share.run(share.mine, "dvc push")
        yield share


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stages_run(said: str) -> list[str]:
    return re.findall(r"Running stage '(\w+)'", said)


def test_the_adapter_alone_is_enough_to_talk(share):
    friend = share.clone("talker")
    share.run(friend, f"dvc pull {ADAPTER}")
    assert tree(friend / ADAPTER) == tree(share.mine / ADAPTER)
    assert not (friend / "raw" / "mygame").exists() and not (friend / "processed").exists()
    check_adapter(friend / ADAPTER)
    share.download_base(friend)
    said = share.run(friend, "printf '早上好。\\n/quit\\n' | python -m deploy.chat --seed 1")
    assert "亚托莉: " in said


def test_an_adapter_is_fetched_by_name_and_version(share):
    share.run(share.mine, "git tag -a character@v1.0.0 -m first && git push -q origin character@v1.0.0")
    friend = share.clone("by_name")
    share.run(friend, "dvc artifacts get . character --rev v1.0.0 -o exports/character")
    assert tree(friend / "exports" / "character") == tree(share.mine / ADAPTER)


def test_an_experiment_is_shared(share):
    share.run(share.mine, "dvc exp run -q --temp -n plain -S denoise.strategy=none denoise")
    share.run(share.mine, "dvc exp push -q origin plain")
    friend = share.clone("experimenter")
    share.run(friend, "dvc exp pull -q origin plain && dvc exp apply -q plain && dvc checkout -q processed/clean.jsonl")
    theirs = (friend / "processed" / "clean.jsonl").read_bytes()
    assert theirs != (share.mine / "processed" / "clean.jsonl").read_bytes()
    share.run(share.mine, "dvc get -q . processed/clean.jsonl --rev $(git rev-parse $(git for-each-ref "
              "--format='%(refname)' refs/exps | grep plain)) -o ../plain.jsonl")  # fmt: skip
    assert theirs == (share.root / "plain.jsonl").read_bytes()


def test_another_value_of_evaluate_runs_evaluate_and_the_page_alone(share):
    friend = share.clone("evaluator")
    share.download_base(friend)
    params = friend / "params.yaml"
    params.write_text(params.read_text(encoding="utf-8").replace("draws: 100 ", "draws: 101 "), encoding="utf-8")
    assert stages_run(share.run(friend, "dvc repro --pull --allow-missing")) == ["evaluate", "report"]
    assert "draws: 101 " in params.read_text(encoding="utf-8")
    fetched = {path.name for path in (friend / "processed").iterdir()}
    assert "exam.jsonl" in fetched and "dialogues.jsonl" not in fetched, "what no stage needs is not fetched"


def test_a_changed_line_runs_all_that_follows_from_it_and_no_more(share):
    friend = share.clone("editor")
    share.download_base(friend)
    share.run(friend, "dvc pull -q")
    script = friend / SCRIPT
    text = script.read_text(encoding="utf-8")
    script.unlink()  # DVC's copy is write-protected
    script.write_text(text + "\n", encoding="utf-8")
    share.run(friend, "dvc add -q raw/mygame")
    assert stages_run(share.run(friend, "dvc repro")) == ["extract", "format", "report"], "no word is another one"
    row = next(r for r in read_jsonl(friend / "processed/dataset/train.jsonl") if "01_spring" in r["id"])
    said = row["messages"][-1]["content"].split("\n")[0]
    script.write_text(text.replace(said, "我今天换了新齿轮。"), encoding="utf-8")
    share.run(friend, "dvc add -q raw/mygame")
    every = ["extract", "filter", "denoise", "format", "train", "evaluate", "report"]
    assert stages_run(share.run(friend, "dvc repro")) == every
    assert "我今天换了新齿轮。" in (friend / "processed/dataset/train.jsonl").read_text(encoding="utf-8")


def test_an_unchanged_clone_runs_nothing(share):
    friend = share.clone("idler")
    assert stages_run(share.run(friend, "dvc repro --pull --allow-missing")) == []


def test_the_users_text_is_in_the_store_and_not_in_git(share):
    assert share.run(share.mine, f"git check-ignore {SCRIPT}").strip() == SCRIPT
    assert "raw/mygame" not in share.run(share.mine, "git ls-files").replace("raw/mygame.dvc", "")
    friend = share.clone("reader")
    share.run(friend, "dvc pull raw/mygame")
    assert tree(friend / "raw" / "mygame") == tree(share.mine / "raw" / "mygame")


def test_no_line_of_the_script_reaches_git(share):
    lines = [row["text"] for row in read_jsonl(share.mine / "processed" / "lines.jsonl")]
    telling = sorted({text for text in lines if len(text) >= TELLING})
    assert len(telling) > 500
    listed = share.run(share.mine, f"git diff -z --name-only {share.start} && git ls-files -z -o --exclude-standard")
    names = sorted(name for name in listed.split("\0") if name and (share.mine / name).is_file())
    assert {"dvc.lock", "reports/metrics.json", "reports/train.tsv", "reports/filter.json"} <= set(names)
    for name in names:
        text = (share.mine / name).read_bytes().decode("utf-8", errors="replace")
        plain = json.dumps(json.loads(text), ensure_ascii=False) if name.endswith(".json") else text
        assert [line for line in telling if line in plain] == [], f"{name} quotes the script"


def test_three_commits_back_lies_the_data_set_of_last_month(share):
    writer = share.clone("writer")
    share.run(writer, "dvc pull -q raw/mygame")
    script, months = writer / SCRIPT, []
    for month in range(4):
        text = script.read_text(encoding="utf-8")
        script.unlink()  # DVC's copy is write-protected
        script.write_text(text.replace("。\n", f"，第{month}版。\n"), encoding="utf-8")
        share.run(writer, "dvc add -q raw/mygame && dvc repro -q format")
        commit(writer, share.environment, f"month{month}")
        share.run(writer, "dvc push -q")
        months.append(tree(writer / "processed" / "dataset"))
    assert len({json.dumps({name: data.hex() for name, data in month.items()}) for month in months}) == 4
    share.run(writer, "git push -q origin main:months")
    reader = share.clone("later")
    share.run(reader, "git checkout -q origin/months~3 && dvc pull raw/mygame processed/dataset")
    assert tree(reader / "processed" / "dataset") == months[0]
    assert stages_run(share.run(reader, "dvc repro --force format")) == ["extract", "filter", "denoise", "format"]
    assert tree(reader / "processed" / "dataset") == months[0], "made anew, it is the same"


# --- the transcript in the README

CONSOLE = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
SECTION = "## Push and pull\n"


def transcripts() -> list[str]:
    """The console blocks of the section."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return CONSOLE.findall(text.split(SECTION, 1)[1].split("\n## ", 1)[0])


def replay(share: Share, where: Path, block: str) -> tuple[str, str]:
    """What the README shows and what is really said, numbers and spaces made equal."""
    real = {
        "s3://my-bucket/atri": f"s3://{share.store.bucket}/atri",
        "https://s3.example.org": share.store.endpoint,
        "https://git.example.org/me/atri.git": str(share.root / "atri.git"),
    }
    shown = [line for line in block.splitlines() if not line.startswith("$ export ")]  # the test has its own keys
    script = [f"echo '{line}'\n{line.removeprefix('$ ')}" for line in shown if line.startswith("$ ")]
    text = "\n".join(script).replace("\nmake chat", f"\ncp -r {share.mine}/bases . && python -m deploy.chat >/dev/null")
    for example, place in real.items():
        text = text.replace(example, place)
    done = subprocess.run(
        ["bash", "-ec", text],
        cwd=where,
        env=share.environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout
    for example, place in real.items():
        said = said.replace(place, example)
    return tuple(re.sub(r"\s+", " ", re.sub(r"\d[\d,]*", "N", text)).strip() for text in ("\n".join(shown), said))


def test_the_transcript_in_the_readme_is_true(share):
    (share.root / "atri.git").symlink_to(share.root / "hub.git")
    share.run(share.mine, "dvc remote remove storage")  # the README adds its first
    mine, friend = transcripts()
    shown, said = replay(share, share.mine, mine)
    assert said == shown
    shown, said = replay(share, share.root, friend)
    assert said == shown
