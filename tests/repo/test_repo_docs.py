"""The pages say what the code says."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from rayloom import catalogue
from rayloom.catalogue.declarations import metrics_page
from rayloom_pipelines.benchmarks.results import fill
from rayloom_pipelines.cli import VERBS
from rayloom_pipelines.shipped import config_names

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def test_the_metrics_page_is_current():
    assert (DOCS / "metrics.md").read_text() == metrics_page(), "run `make docs`"


def test_tables_of_results_are_current():
    for path in sorted(DOCS.rglob("*.md")):
        text = path.read_text()
        assert fill(text, DOCS / "results") == text, f"{path.name}: run `make docs`"


@pytest.mark.parametrize("kind", ["models", "algorithms"])
def test_every_method_has_its_page(kind):
    """In the folder of its family: that of its module among the models, `rl` for learners."""
    for name, entry in catalogue.entries(kind).items():
        if entry.source != "rayloom":
            continue
        room, family = entry.target.split(".")[1:3]
        page = (
            DOCS / "methods" / (family if room == "models" else room) / f"{name}.md"
        ).read_text()
        for part in ("Paper", "Equation", "Deviations", "Command", "Results"):
            assert re.search(rf"^## .*{part}", page, re.M), f"{name}.md has no section {part}"


@pytest.mark.parametrize(("kind", "page"), [("envs", "envs.md"), ("datasets", "data.md")])
def test_every_name_is_on_its_page(kind, page):
    text = (DOCS / page).read_text()
    for name, entry in catalogue.entries(kind).items():
        if entry.source == "rayloom":
            assert name in text, f"{page} does not speak of {name}"


def test_the_command_page_names_every_verb():
    text = (DOCS / "cli.md").read_text()
    for verb in VERBS:
        assert f"rayloom {verb}" in text


def test_the_course_map_names_what_exists():
    text = (DOCS / "course-map.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and "`" in line]
    assert len(rows) >= 10
    for word in (word for row in rows for word in re.findall(r"`([^`]+)`", row)):
        if "::" in word:
            path, _, name = word.partition("::")
            assert f"def {name}(" in (ROOT / path).read_text(), word
        elif ":" in word:
            module, _, name = word.partition(":")
            assert hasattr(import_module(module), name), word
        else:
            assert word in config_names(), word


def test_links_between_pages_lead_somewhere():
    pages = [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            if not target.startswith(("http://", "https://", "mailto:")):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_nothing_names_a_place_outside_the_repository():
    """Pages and code stand on their own: no absolute path of whoever wrote them."""
    for folder in ("docs", "platform", "envs", "pipelines", "configs", "examples"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".md", ".py", ".yaml", ".txt", ".ipynb"):
                text = path.read_text()
                assert "/work/" not in text, path
                assert "@MEASURED@" not in text, f"{path} waits for a measurement"
