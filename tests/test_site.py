"""The pages and the site made of them: each in nav, each link and anchor right, the reference complete.

Needs no mkdocs, but for the test that builds the site, which is slow.
"""

import importlib.util
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from launch.training.config import Config
from tests.conftest import ROOT

sys.path.append(str(ROOT / "docs" / "generate"))
import site_links
import site_models
import site_reference

FILES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / ".github").rglob("*.md")]
PAGES = sorted(str(path.relative_to(ROOT)) for path in FILES)
MAX_PICTURE_BYTES = 300_000


class _MkdocsYaml(yaml.SafeLoader):
    """Reads mkdocs.yml, whose !ENV takes a variable of the environment or the default behind it."""


_MkdocsYaml.add_constructor("!ENV", lambda loader, node: loader.construct_sequence(node)[-1])
SETTINGS = yaml.load((ROOT / "mkdocs.yml").read_text(), _MkdocsYaml)  # noqa: S506 (a SafeLoader)


def pages_of(nav) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for part in nav for page in pages_of(part.values() if isinstance(part, dict) else part)]


def test_every_page_is_in_nav_once():
    listed = pages_of(SETTINGS["nav"])
    shown = {site_links.place_in_site(page) for page in PAGES} | site_reference.PAGES.keys()
    missing = sorted(shown - {None} - set(listed))
    assert not missing, (
        f"not in nav: {', '.join(missing)}; add a line such as '- Title: {missing[0]}' to nav in mkdocs.yml, in the "
        "section where people will look for it (Guides, Models, Results, …)"
    )
    gone = sorted(set(listed) - shown)
    assert not gone, f"nav in mkdocs.yml names pages that are not there: {', '.join(gone)}"
    twice = sorted({page for page in listed if listed.count(page) > 1})
    assert not twice, f"nav in mkdocs.yml names pages more than once: {', '.join(twice)}"


@pytest.mark.parametrize("page", PAGES)
def test_links_anchors_and_pictures_are_there(page):
    wrong = []
    for link in site_links.links((ROOT / page).read_text()):
        target = link["target"]
        if not site_links.is_relative(target):
            continue
        path, anchor = site_links.resolve(target, page)
        if not (ROOT / path).exists():
            wrong.append(f"{target}: no {path}")
        elif anchor and (not path.endswith(".md") or anchor not in site_links.anchors((ROOT / path).read_text())):
            wrong.append(f"{target}: {path} has no heading with the anchor #{anchor}")
    assert not wrong, f"{page}: {'; '.join(wrong)}"


def test_pictures_are_small():
    large = [path.name for path in (ROOT / "docs").rglob("*.png") if path.stat().st_size > MAX_PICTURE_BYTES]
    assert not large, f"more than {MAX_PICTURE_BYTES:,} bytes: {large}"


def test_anchors_are_those_of_github():
    text = "# One `two`: [three](x.md)\n\n```sh\n# no heading\n```\n\n## What it says, and *why*?\n\n### A_b – c\n"
    assert site_links.anchors(text) == {"one-two-three", "what-it-says-and-why", "a_b--c"}


def test_links_lead_to_what_the_site_has():
    text = (
        "[a](docs/report.md#limits) ![p](docs/flow.png) [b `x`](RESULTS.md) [c](launch/train.py) "
        "[d](https://e.org/f.md) [e](#here) `[no](link.md)`\n\n```\n[no](link.md)\n```\n"
    )
    shown = site_links.for_site(text, "README.md", lambda path: f"https://repo/{path}")
    assert shown.startswith(
        "[a](report.md#limits) ![p](flow.png) [b `x`](results.md) [c](https://repo/launch/train.py) "
        "[d](https://e.org/f.md) [e](index.md#here) `[no](link.md)`"
    )
    assert shown.endswith("```\n[no](link.md)\n```\n")
    assert "[c]" not in site_links.for_site(text, "README.md", lambda path: None)
    page = site_links.for_site("[a](../../README.md) [b](../x.md)", "docs/reference/y.md", lambda path: None)
    assert page == "[a](../index.md) [b](../x.md)"


def leaves(kind, prefix="") -> list[str]:
    found = []
    for field in fields(kind):
        found += leaves(field.type, f"{prefix}{field.name}.") if is_dataclass(field.type) else [prefix + field.name]
    return found


def test_the_reference_has_every_key_with_its_words():
    page = site_reference.configuration()
    derived = {"model.num_classes", "model.num_segments", "model.levels", "model.multi_label"}
    keys = [key for key in leaves(Config) if key not in derived]
    assert len(keys) > 100
    rows = dict(re.findall(r"^\| `([\w.]+)` \|(.*)\|$", page, re.MULTILINE))
    assert not set(keys) - rows.keys()
    assert "fp32, bf16 or fp16 | `bf16` | Arithmetic of the network" in rows["train.precision"]
    assert all(len(row.split(" | ")[-1]) > 10 for row in rows.values())
    assert rows.keys() >= {"epochs", "plan.patience_epochs"}  # of a phase, and of a plan


def test_the_reference_has_every_command():
    page = site_reference.commands()
    scripts = {f"launch/{path.name}" for path in (ROOT / "launch").glob("*.py")} - {
        "launch/__init__.py",
        "launch/demo.py",
    }
    assert scripts <= site_reference.COMMANDS.keys()
    for heading in (*site_reference.COMMANDS, "benchmark.py gpu", "visualize.py gradcam", "python -m sharding index"):
        assert re.search(rf"^##+ {re.escape(heading)}$", page, re.MULTILINE), heading
    for option in (
        "--calibration-bins",
        "--max-failures",
        "--relative-to-init",
        "--compare-with",
        "--activitynet",
        "--to",
    ):
        assert f"| `{option}` |" in page, option
    assert "| `--checkpoint` | one or more: a path | *required* |" in page


def test_the_reference_has_every_public_name():
    page = site_reference.python()
    for name in (
        "sharding.pack.pack",
        "pipeline.loader.VideoLoader",
        "model.build.build_model",
        "sharding.dataset.load_dataset",
    ):
        assert f"::: {name}\n" in page
    for door in site_reference.DOORS:
        for home in site_reference.homes(door).values():
            module, _, name = home.rpartition(".")
            assert hasattr(importlib.import_module(module), name), home


def test_the_table_of_networks_is_that_of_the_code():
    text = site_models.PAGE.read_text()
    assert text == site_models.with_table(text), "out of date: python docs/generate/site_models.py"


class _Page(HTMLParser):
    """The ids and the links of a page of the built site."""

    def __init__(self, path: Path):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.ids |= {value for name, value in attributes if name in ("id", "name") and value}
        self.links += [value for name in ("href", "src") if (value := values.get(name))]


@pytest.mark.slow
@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("mkdocs", "material", "mkdocstrings"))),
    reason="mkdocs is not installed: make docs does it",
)
def test_the_site_builds_and_its_links_are_right(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", f"--site-dir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path: _Page(path) for path in tmp_path.rglob("*.html") if path.name != "404.html"}
    assert len(pages) >= len(pages_of(SETTINGS["nav"]))
    wrong = []
    for path, page in pages.items():
        for link in page.links:
            if not site_links.is_relative(link):
                continue
            name, _, anchor = unquote(link).partition("#")
            target = (path.parent / name).resolve() if name else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                wrong.append(f"{path.relative_to(tmp_path)}: {link}")
            elif anchor and target in pages and anchor not in pages[target].ids and anchor != "__skip":
                wrong.append(f"{path.relative_to(tmp_path)}: no {link}")
    assert not wrong, "\n".join(sorted(set(wrong)))
    for path in tmp_path.rglob("*.html"):
        assert not re.search(r"<p>[^<]*\n[-*] ", path.read_text()), (
            f"{path}: a list that is none; a blank line is lacking"
        )
