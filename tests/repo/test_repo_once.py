"""What stands in one place stays there."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {
    str(path.relative_to(ROOT)): path.read_text()
    for root in ("platform", "envs", "pipelines")
    for path in (ROOT / root).rglob("*.py")
}
HOMES = {
    "did you mean": "platform/rayloom/core/errors.py",  # did_you_mean, or_rather
    '("epochs", "grad_steps", "env_steps")': "platform/rayloom/config/sections.py",  # LENGTHS
    '"Ctrl-C"': "platform/rayloom/core/interrupt.py",  # name_of
    "(signal.SIGINT, signal.SIGTERM)": "platform/rayloom/core/interrupt.py",  # SIGNALS
    "class Layout:": "platform/rayloom/data/imports/layout.py",
    "\nStatus = ": "platform/rayloom/training/driver.py",
    "\ndef resolve(": "platform/rayloom/config/resolved.py",
    "def site_settings(": "platform/rayloom/config/resolved.py",
}


@pytest.mark.parametrize("text", HOMES)
def test_it_is_said_in_one_place(text):
    assert [name for name, source in SOURCES.items() if text in source] == [HOMES[text]]
