"""The Makefile sets up .venv whatever was there before, and calls the commands in the right order and environment."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import HERE

# In place of a Python: it writes down how it was called, and makes .venv as `-m venv` does.
PYTHON = """#!/bin/sh
echo "$(basename "$0") $*" >> "$LOG"
test "$1 $2" = '-m venv' && mkdir -p .venv/bin && cp "$STUB" .venv/bin/python
if test "$1 $2 $3" = '-m pip config'; then test "$5" = "${KNOWN_TO_PIP%=*}" && echo "${KNOWN_TO_PIP#*=}"; exit; fi
env | grep -E '^(PIP_|UV_|DVC_|PYTHON|MLFLOW_)' >> "$LOG.env"
exit 0
"""


LOCKS = ("requirements.lock", "requirements-gpu.lock", "requirements-cluster.lock", "requirements-export.lock")


class Folder:
    """A folder with the project's Makefile and nothing else that it needs but a stub of Python."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for name in ("Makefile", *LOCKS):
            shutil.copy(HERE / name, path)
        self.stub = path / "stub"
        self.stub.write_text(PYTHON)
        self.stub.chmod(0o755)

    def make(self, *arguments: str, status: int = 0, **environment: str) -> str:
        ours = {"LOG": str(self.path / "log"), "STUB": str(self.stub), "KNOWN_TO_PIP": ""} | environment
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
        done = subprocess.run(
            ["make", "--no-print-directory", f"PYTHON={self.stub}", *arguments],
            cwd=self.path,
            env=inherited | ours,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def calls(self) -> list[str]:
        """How Python was called since the last time that this was asked."""
        log = self.path / "log"
        lines = log.read_text().splitlines() if log.is_file() else []
        log.unlink(missing_ok=True)
        return lines

    def variables(self) -> dict[str, str]:
        """The environment of the last of these calls."""
        return dict(line.split("=", 1) for line in (self.path / "log.env").read_text().splitlines())


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_make_alone_lists_every_target_that_has_a_description(folder: Folder) -> None:
    targets = set(re.findall(r"^make (\S+)", folder.make(), re.MULTILINE))
    assert targets >= {"repro", "report", "ui", "check", "ci", "register", "test", "test-all", "sweep", "clean"}
    phony = re.findall(r"^\.PHONY: (\S+)$", (HERE / "Makefile").read_text(), re.MULTILINE)
    assert targets <= set(phony)
    assert folder.calls() == []


def test_set_up_installs_what_the_lock_says_with_its_hashes(folder: Folder) -> None:
    folder.make(".venv/ready")
    calls = folder.calls()
    assert calls[0] == "stub -m venv --clear .venv"
    assert any(
        re.match(r"python -m pip install .*--require-hashes --requirement .venv/uv.lock$", call) for call in calls
    )
    assert re.match(r"python -m uv pip sync .*--require-hashes .*requirements.lock$", calls[-1])
    assert (folder.path / ".venv/uv.lock").read_text().startswith("uv==")
    folder.make(".venv/ready")
    assert folder.calls() == []


def test_a_broken_venv_is_made_anew_and_a_working_one_is_kept(folder: Folder) -> None:
    """Broken: its making was interrupted before pip was there, or the Python that it was made of is gone."""
    for broken in ("#!/bin/sh\nexit 1\n", "#!/nowhere/python\n"):
        (folder.path / ".venv/bin").mkdir(parents=True, exist_ok=True)
        (folder.path / ".venv/bin/python").write_text(broken)
        (folder.path / ".venv/bin/python").chmod(0o755)
        (folder.path / ".venv/ready").unlink(missing_ok=True)
        folder.make(".venv/ready")
        assert "stub -m venv --clear .venv" in folder.calls()
    (folder.path / ".venv/ready").unlink()  # as after a change of requirements.lock
    folder.make(".venv/ready")
    assert "stub -m venv --clear .venv" not in folder.calls()


def test_without_a_python_that_fits_set_up_is_one_sentence(folder: Folder) -> None:
    output = folder.make("PYTHON=", ".venv/ready", status=2)
    assert "error: Python 3.11, 3.12 or 3.13 is needed; " in output


@pytest.mark.parametrize(
    ("known_to_pip", "variables", "index"),
    [
        ("global.index-url=https://pip/simple", {}, "https://pip/simple"),
        ("install.index-url=https://pip/simple", {}, "https://pip/simple"),
        (
            "global.index-url=https://pip/simple",
            {"PIP_INDEX_URL": "https://variable/simple"},
            "https://variable/simple",
        ),
        ("global.index-url=https://pip/simple", {"UV_INDEX_URL": "https://uv/simple"}, "https://uv/simple"),
        ("", {}, None),
    ],
)
def test_uv_asks_the_index_that_pip_knows(
    folder: Folder, known_to_pip: str, variables: dict[str, str], index: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PIP_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX"):
        monkeypatch.delenv(name, raising=False)
    folder.make(".venv/ready", KNOWN_TO_PIP=known_to_pip, **variables)
    assert folder.variables().get("UV_DEFAULT_INDEX") == index


def ready(folder: Folder) -> None:
    folder.make(".venv/ready")
    (folder.path / "log.env").unlink()
    folder.calls()


def test_commands_are_called_in_this_project_s_environment(folder: Folder) -> None:
    ready(folder)
    outer = {"DVC_ROOT": "/elsewhere", "DVC_EXP_NAME": "theirs", "DVC_EXP_BASELINE_REV": "0" * 40}
    outer["PYTHONWARNINGS"] = "error"
    folder.make("repro", "DATASET=digits", PIP_USER="1", PYTHONPATH="/elsewhere", **outer)
    assert folder.calls() == ["python -m mnistflow.commands.repro digits"]
    variables = folder.variables()
    assert not set(outer) & set(variables)
    assert (variables["PIP_USER"], variables["PYTHONPATH"]) == ("0", "src")


def test_a_page_to_draw_on_is_made_for_the_selected_model_or_another(folder: Folder) -> None:
    ready(folder)
    folder.make("draw")
    folder.make("draw", "MODEL=compact")
    assert folder.calls() == ["python -m mnistflow.commands.draw ", "python -m mnistflow.commands.draw compact"]


@pytest.mark.parametrize("page", ["lesson", "report", "plots"])
def test_the_other_pages_have_no_choice(folder: Folder, page: str) -> None:
    ready(folder)
    folder.make(page)
    assert folder.calls() == [f"python -m mnistflow.commands.{page}"]


def test_the_gate_comes_before_the_registry(folder: Folder) -> None:
    ready(folder)
    folder.make("register", "REV=main")
    assert folder.calls() == ["python -m mnistflow.commands.gate main", "python -m mnistflow.tracking.registry"]


def test_export_adds_its_packages_once_and_again_after_those_of_the_cluster(folder: Folder) -> None:
    ready(folder)
    folder.make("export", "MODEL=compact")
    install, command = folder.calls()[-2:]
    assert re.match(r"python -m uv pip install .*--require-hashes .*--requirement requirements-export.lock$", install)
    assert command == "python -m mnistflow.commands.export compact"
    folder.make("export")
    assert folder.calls() == ["python -m mnistflow.commands.export"]
    folder.make("cluster")  # takes away what its lock does not have
    folder.calls()
    folder.make("export")
    assert any("uv pip install" in call for call in folder.calls())


@pytest.mark.parametrize("target", ["gpu", "cluster"])
def test_extras_take_the_place_of_each_other(folder: Folder, target: str) -> None:
    """Each lock names all packages of .venv, so that what is not in it is taken away."""
    ready(folder)
    other = {"gpu": "cluster", "cluster": "gpu"}[target]
    for extra in (target, other, target):
        folder.make(extra)
        assert re.match(rf"python -m uv pip sync .*--require-hashes .*requirements-{extra}.lock$", folder.calls()[-1])
        folder.make(extra)
        assert folder.calls() == []


def test_all_locks_have_the_same_versions_and_one_build_of_tensorflow() -> None:
    def versions(lock: str) -> dict[str, set[str]]:
        packages: dict[str, set[str]] = {}
        for name, version in re.findall(r"^([a-z0-9_.-]+)==(\S+)", (HERE / lock).read_text(), re.MULTILINE):
            packages.setdefault(name, set()).add(version)
        return packages

    main, *others = map(versions, LOCKS)
    for packages in others:
        assert {name: packages[name] for name in packages.keys() & main.keys()} == {
            name: main[name] for name in packages.keys() & main.keys()
        }
    gpu = others[0]
    assert {"tensorflow", "nvidia-cudnn-cu12"} <= gpu.keys()
    assert main.keys() - gpu.keys() == {"tensorflow-cpu"}


def test_tests_run_after_lint_and_in_two_tiers(folder: Folder) -> None:
    ready(folder)
    folder.make("test")
    calls = folder.calls()
    assert [call.split()[2] for call in calls] == ["ruff", "ruff", "mypy", "pytest"]
    assert "-m not slow" in calls[-1]
    folder.make("test-all")
    assert "not slow" not in folder.calls()[-1]


def test_clean_deletes_outputs_and_keeps_cache_and_record(folder: Folder) -> None:
    kept = (".dvc/cache", ".cache", "mlruns", "metrics", "plots", "src", "stages", "tests", "bench")
    gone = ("data", "models", "evaluation", "inside", "export", "src/__pycache__")
    for name in (*kept, *gone):
        (folder.path / name).mkdir(parents=True)
    (folder.path / "mlflow.db").touch()
    folder.make("clean")
    assert all((folder.path / name).exists() for name in (*kept, "mlflow.db"))
    assert not any((folder.path / name).exists() for name in gone)
