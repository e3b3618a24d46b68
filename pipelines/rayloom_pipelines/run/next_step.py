"""What a user types next about a run that did not end well."""

import os

from rayloom.records.run_folder import RunFolder


def go_on(folder: RunFolder) -> str:
    """The command that goes on with a run, from where the user sits."""
    submit = "rayloom submit -- resume" if os.environ.get("RAYLOOM_JOB") else "rayloom resume"
    return f"{submit} {folder.run_id}"


def last_words(folder: RunFolder) -> str:
    """What a user should know whose command died without a word."""
    return (
        f"Nothing before the newest checkpoint of run {folder.run_id} is lost, in {folder.path}."
        f" Go on with: {go_on(folder)}"
    )
