"""An argument parser whose help shows defaults and examples, and which suggests the nearest name for a typo."""

from __future__ import annotations

import argparse
import json
import shlex
import textwrap
from argparse import Action, ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from harness.cli.values import one_of
from harness.core.errors import did_you_mean
from harness.core.reading import short

SETTINGS_CALLED = {"lr": "learning_rate", "step": "steps", "bs": "batch_size", "batch": "batch_size"}
"""{a common name of a setting: the last part of its path}"""
MOST_PATHS = 4
"""An option that is the last part of more settings' paths is not taken for a setting."""


class Parser(ArgumentParser):
    """A parser that takes options by their full names only: an abbreviation may be a typo."""

    def __init__(self, *, about: str, examples: Iterable[str] = (), **settings: Any):
        self.arguments: list[Action] = []
        self.commands: dict[str, Parser] = {}
        self.settings: Callable[[Namespace], Mapping[str, Any]] | None = None
        """Returns {path: value} of the settings that `--set` takes."""
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
            command = self.commands[words[0]]
            command._refuse_setting(unknown[0], words, options)
            command._refuse(unknown[0])
        return options

    def error(self, message: str) -> NoReturn:
        """Print one line without the usage, and end the process with exit code 2."""
        end = "" if message.endswith((".", "?")) else "."
        self.exit(2, f"error: {message}{end} See `{self.prog} --help`.\n")

    def _options(self) -> list[str]:
        return [name for argument in self.arguments for name in argument.option_strings]

    def _refuse_setting(self, word: str, words: Sequence[str], options: Namespace) -> None:
        """Refuse an option that is the last part of a setting's path, with the assignment to write instead."""
        option, equals, value = word.partition("=")
        if not option.startswith("--") or self.settings is None or f"{option}s" in self._options():
            return
        name = option.removeprefix("--").replace("-", "_")
        name = SETTINGS_CALLED.get(name, name)
        values = self.settings(options)
        paths = [path for path in values if path.rpartition(".")[2] == name]
        if not 0 < len(paths) <= MOST_PATHS:
            return
        after = words[words.index(word) + 1 :][:1] if word in words and not equals else [value]
        given = after[0] if after and after[0] and not after[0].startswith("--") else "VALUE"
        shown = [_as_list(given) if isinstance(values[path], list) else given for path in paths]
        sets = [f"--set {shlex.quote(f'{path}={each}')}" for path, each in zip(paths, shown, strict=True)]
        self.error(f"{short(option)} is a setting: {' or '.join(sets)}")

    def _refuse(self, word: str) -> NoReturn:
        """Refuse an unknown option, an unknown command or a surplus word, and name the nearest known one."""
        if word.startswith("-"):
            name = word.partition("=")[0]
            self.error(f"{short(word)}: no such option. {did_you_mean(name, self._options())}")
        if self.commands:
            self.error(f"{short(word)}: no such command. {did_you_mean(word, self.commands)}")
        if "=" in word and any(action.dest == "changes" for action in self._actions):
            self.error(f"{short(word)} is a setting: --set {shlex.quote(word)}")
        self.error(f"{short(word)}: one word too many. Leave it out.")


def _as_list(given: str) -> str:
    """Return values with commas between them as a JSON list; a list unchanged."""
    if given.startswith("["):
        return given
    items = [item if item.replace(".", "", 1).isdecimal() else json.dumps(item) for item in given.split(",")]
    return f"[{','.join(items)}]"


class Version(Action):
    """Prints the installed version; what reads it is imported only for that."""

    def __call__(self, parser: ArgumentParser, *_: object) -> None:
        from harness.core.provenance import version

        print(parser.prog, version())
        parser.exit()
