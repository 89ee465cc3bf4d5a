"""An argument parser whose help shows defaults and examples, and which suggests the nearest name for a typo."""

from __future__ import annotations

import argparse
import textwrap
from argparse import Action, ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from harness.cli.values import one_of
from harness.core.errors import did_you_mean
from harness.core.reading import short


class Parser(ArgumentParser):
    """A parser that takes options by their full names only: an abbreviation may be a typo."""

    def __init__(self, *, about: str, examples: Iterable[str] = (), **settings: Any):
        self.arguments: list[Action] = []
        self.commands: dict[str, Parser] = {}
        super().__init__(
            description=textwrap.fill(about), allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter, **settings,
        )  # fmt: skip
        self.epilog = "\n".join(["examples:", *(f"  {self.prog} {words}".rstrip() for words in examples)])

    def add_argument(self, *names: Any, **settings: Any) -> Action:
        """Declare an argument, and append its default to its help."""
        if "choices" in settings:
            settings.setdefault("type", one_of(settings["choices"]))
        action = super().add_argument(*names, **settings)
        self.arguments.append(action)
        if action.help and action.default not in (None, False, argparse.SUPPRESS, []):
            action.help += " (default: %(default)s)"
        return action

    def read(self, words: Sequence[str]) -> Namespace:
        """Read the words, the command first. After a mistake, print one line and end the process with exit code 2."""
        if words[0] not in {*self.commands, *self._options()}:
            self._refuse(words[0])
        options, unknown = self.parse_known_args(words)
        if unknown:
            self.commands[words[0]]._refuse(unknown[0])
        return options

    def error(self, message: str) -> NoReturn:
        """Print one line without the usage, and end the process with exit code 2."""
        end = "" if message.endswith((".", "?")) else "."
        self.exit(2, f"error: {message}{end} See `{self.prog} --help`.\n")

    def _options(self) -> list[str]:
        return [name for argument in self.arguments for name in argument.option_strings]

    def _refuse(self, word: str) -> NoReturn:
        """Refuse an unknown option, an unknown command or a surplus word, and name the nearest known one."""
        if word.startswith("-"):
            name = word.partition("=")[0]
            self.error(f"{short(word)}: no such option. {did_you_mean(name, self._options())}")
        if self.commands:
            self.error(f"{short(word)}: no such command. {did_you_mean(word, self.commands)}")
        self.error(f"{short(word)}: one word too many. Leave it out.")


class Version(Action):
    """Prints the version of the installed package; importlib.metadata is imported only for it."""

    def __call__(self, parser: ArgumentParser, *_: object) -> None:
        import importlib.metadata

        print(parser.prog, importlib.metadata.version("harness"))
        parser.exit()
