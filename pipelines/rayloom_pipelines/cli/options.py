"""What the verbs' parsers share: errors as `UserError` with the nearest option, and `--plugin`."""

import argparse
import re
from collections.abc import Sequence
from typing import NoReturn

from rayloom.core.errors import UserError, did_you_mean, or_rather


class Parser(argparse.ArgumentParser):
    """An argument parser for one verb: `--plugin` everywhere, no abbreviations, no exit.

    Args:
        verb: The words after `rayloom`.
        about: One paragraph of help.
    """

    def __init__(self, verb: str, about: str) -> None:
        super().__init__(prog=f"rayloom {verb}", description=about, allow_abbrev=False)
        self.add_argument(
            "--plugin",
            action="append",
            default=[],
            metavar="FILE.py|module",
            help="adds your own models, algorithms, environments and data sets; repeatable",
        )

    def error(self, message: str) -> NoReturn:
        """Raises a `UserError` that names the nearest option."""
        hint = ""
        unknown = re.search(r"unrecognized arguments: (-\S+)", message)
        if unknown:
            hint = or_rather(unknown.group(1), self._option_string_actions)
        raise UserError(f"{self.prog.partition(' ')[2]}: {message}{hint}\n{self.format_usage()}")

    def read(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse; options may stand between the positional words. Loads the plugins."""
        given = self.parse_intermixed_args(list(argv))
        load_plugins(given.plugin)
        return given

    def json_option(self) -> None:
        """Adds `--json`."""
        self.add_argument("--json", action="store_true", help="machine-readable output")

    def config_words(self, what: str = "CONFIG") -> None:
        """Adds CONFIG and `key=value ...`."""
        self.add_argument("config", metavar=what, help="a path or a name from `rayloom list`")
        self.add_argument("overrides", nargs="*", metavar="key=value", help="changes to it")

    def address_option(self) -> None:
        """Adds `--address`."""
        self.add_argument(
            "--address", metavar="A", help="Ray cluster (else site file, RAY_ADDRESS)"
        )


def load_plugins(named: Sequence[str]) -> None:
    """Load the plugins of `--plugin` and `RAYLOOM_PLUGINS`; imports nothing if there are none."""
    import os

    if named or os.environ.get("RAYLOOM_PLUGINS"):
        from rayloom.catalogue import plugins

        own = "RAYLOOM_JOB" not in os.environ  # a job carries the trust of who submitted it
        plugins.load_plugins(plugins.plugin_specs(named), remember=own)


def action(argv: Sequence[str], verb: str, actions: dict[str, str]) -> tuple[str, list[str]]:
    """The second word of a verb that has several actions, and what follows it.

    Returns `("help", [])` after the list of actions was asked for.

    Raises:
        UserError: It is missing or unknown.
    """
    words = list(argv)
    before: list[str] = []  # --plugin may stand first
    while words and words[0].startswith("--plugin"):
        before.append(words.pop(0))
        if "=" not in before[-1] and words:
            before.append(words.pop(0))
    if words and words[0] in ("-h", "--help"):
        width = max(map(len, actions))
        print(f"usage: rayloom {verb} ({'|'.join(actions)}) ...\n")
        print("\n".join(f"  {name:<{width}}  {about}" for name, about in actions.items()))
        return "help", []
    if not words:
        raise UserError(f"{verb}: say one of {', '.join(actions)}")
    if words[0] not in actions:
        hint = did_you_mean(words[0], actions)
        raise UserError(f"{verb} has no action {words[0]!r}{hint} Actions: {', '.join(actions)}")
    return words[0], [*before, *words[1:]]
