"""The files around the code agree with it and with each other: versions, commands, paths, renamed options."""

import re
import subprocess

import pytest
import yaml

from launch.training.option_names import RENAMED
from launch.training.versions import VERSION
from tests.conftest import ROOT
from tests.helpers.messages import PACKAGES

CONSTRAINTS = dict(re.findall(r"^([\w-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WORKFLOWS = sorted((ROOT / ".github").rglob("*.yml"))


def test_the_version_is_the_same_everywhere():
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert version == VERSION
    assert re.search(r"^## (\d\S+)", CHANGELOG, re.MULTILINE)[1] == version
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version


def test_the_changelog_names_every_renamed_option_and_only_modules_that_are_there():
    for old, new in RENAMED.items():
        assert f"| `{old}` | `{new}` |" in CHANGELOG
    modules = CHANGELOG.split("Modules, by the package")[1]
    listed = re.findall(r"^- `([\w.]+)`: ((?:.|\n  )+)", modules, re.MULTILINE)
    assert len(listed) > 10
    for package, members in listed:
        for name in re.findall(r"`(\w+)`", re.sub(r"\[.*?\]", "", members)):
            assert (ROOT / package.replace(".", "/") / f"{name}.py").is_file(), f"{package}.{name}"


def test_the_ruff_of_every_commit_is_that_of_make_lint():
    hooks = {repo["repo"]: repo for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]}
    assert hooks["https://github.com/astral-sh/ruff-pre-commit"]["rev"] == f"v{CONSTRAINTS['ruff']}"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_and_issue_forms_are_yaml_and_name_targets_that_are_there(path):
    text = path.read_text()
    assert yaml.safe_load(text)
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"run: make ([\w-]+)", text):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_workflows_run_the_oldest_python_allowed():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())["jobs"]
    oldest = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())[1]
    assert jobs["cpu"]["strategy"]["matrix"]["python"][0] == oldest
    assert "self-hosted" in jobs["gpu"]["runs-on"] and "pull_request" in jobs["gpu"]["if"]


def test_contributing_names_files_that_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    paths = [*re.findall(r"\]\(([\w./-]+)\)", text), *re.findall(r"`((?:\w+/)+[\w.]*)`", text)]
    assert len(paths) > 10
    for path in paths:
        assert "NAME" in path or (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_pages_name_are_there(page):
    """A name without a folder, as in `pipeline/plan.py`, `crops.py`, is in the folder of the one before it."""
    text = page.read_text()
    path = r"`((?:launch|pipeline|sharding|model)/[\w/]+\.(?:py|yaml|sh))`((?:, `[\w/]+\.(?:py|yaml|sh)`)*)"
    for first, more in re.findall(path, text):
        names = [first, *(f"{first.rpartition('/')[0]}/{name}" for name in re.findall(r"`(.+?)`", more))]
        missing = [name for name in names if not (ROOT / name).is_file()]
        assert not missing, f"{page.name} names {missing}"


def test_another_build_of_dali_is_another_installation():
    """`make setup DALI=cuda12` behind `make setup` is not done already."""
    for build in ("cuda12", "cuda13"):
        command = ["make", "-n", "setup", f"DALI={build}", f"BIN={ROOT / 'nowhere'}", "INSTALLED=nowhere-$(DALI)"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert f"-e '.[{build},test]'" in done.stdout
    assert re.search(r"^INSTALLED := .*\$\(DALI\)$", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_every_dependency_is_imported():
    """But for those that only PyTorch, DeepSpeed or a page of this project imports."""
    names = {"pillow": "PIL", "pyyaml": "yaml"}
    elsewhere = {"webdataset", "tensorboard"}
    text = (ROOT / "pyproject.toml").read_text()
    listed = re.findall(r'^    "([\w-]+)', text.split("\ndependencies = [")[1].split("\n]")[0], re.MULTILINE)
    source = "".join(path.read_text() for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
    assert len(listed) > 10
    for name in set(listed) - elsewhere:
        module = names.get(name, name)
        assert re.search(rf"^\s*(import|from) {module}\b", source, re.MULTILINE), name
