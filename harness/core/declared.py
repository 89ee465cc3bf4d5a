"""Check the declaration of a user's component when its file is read. The first problem becomes one line.

`harness.core.tried` later checks what the methods return, on the data of a run.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

from harness.core.errors import UserError, in_a_line
from harness.core.fields import hints

if TYPE_CHECKING:
    from harness.core.registry import Component

VALUES = (bool, int, float, str, tuple, list, dict, type(None))
"""Types of class attributes that were probably meant as fields if they have no annotation."""


def is_own(cls: type) -> bool:
    """Whether a class is the harness's own."""
    return cls.__module__.partition(".")[0] == "harness"


def declared_beside(name: str) -> str:
    """What to do where a Python file in the folder one stands in declares a component of this name; else empty."""
    declared = re.compile(rf"\(.*\bname\s*=\s*[\"']{re.escape(name)}[\"']")
    for path in sorted(Path().glob("*.py")):
        with contextlib.suppress(OSError):
            if declared.search(path.read_text(errors="replace")):
                return f"{path} declares one of that name. Add --plugin {path}."
    return ""


def place_of(what: Any) -> str:
    """File and line of a class or a function."""
    try:
        line = inspect.getsourcelines(what)[1]
    except (OSError, TypeError):  # typed in, or made by another program
        return str(getattr(what, "__module__", what))
    return f"{Path(inspect.getfile(what))}, line {line}"


def check_declared(member: type[Component]) -> None:
    """Raise `UserError` if a user's component is not declared as its family needs.

    The class must be a dataclass with readable types. It must have every method and constant of its family; its methods
    must take the family's arguments; its fields must have types.
    """
    if "__dataclass_fields__" not in vars(member):
        reason = f"{member.family} '{member.name}' is not a dataclass"
        raise UserError(f"{place_of(member)}: {reason}. Put @dataclass(frozen=True, kw_only=True) above its class.")
    try:
        hints(member)
    except UserError as error:
        raise UserError(f"{place_of(member)}: {member.__name__}.{error}") from None
    except Exception as error:  # whatever evaluating an annotation raises
        reason = f"the types of {member.__name__}'s fields cannot be read: {in_a_line(error)}"
        raise UserError(f"{place_of(member)}: {reason}. Correct them.") from None
    for reason in (*_missing(member), *_unset(member), *_called_otherwise(member), *_without_type(member)):
        raise UserError(f"{place_of(member)}: {reason}")


def _users(member: type) -> list[type]:
    """The class and its ancestors, without the harness's own classes."""
    return [cls for cls in member.__mro__ if not is_own(cls) and cls is not object]


def _missing(member: type[Component]) -> Iterator[str]:
    """Yield a message for each abstract method that the class does not define."""
    family = next(cls for cls in member.__mro__ if is_own(cls))
    functions = [pair for cls in _users(member) for pair in vars(cls).items() if isinstance(pair[1], FunctionType)]
    own = {name: function for name, function in functions if not hasattr(family, name)}
    for name in sorted(member.__abstractmethods__):
        alike = [each for each, function in own.items() if _takes(function, getattr(member, name))]
        near = [*difflib.get_close_matches(name, own, n=1), *(alike if len(alike) == 1 else [])]
        advice = f"If '{near[0]}' is meant, rename it." if near else "Write it."
        asked = re.sub(r": '[^']*'| -> '[^']*'", "", str(inspect.signature(getattr(member, name))))
        yield f"{member.__name__} has no method {name}{asked}, which every {family.__name__} needs. {advice}"


def _unset(member: type[Component]) -> Iterator[str]:
    """Yield a message for each constant that the family needs and the class does not set."""
    for base in filter(is_own, member.__mro__):
        for name, hint in inspect.get_annotations(base).items():
            if "ClassVar" in str(hint) and not hasattr(member, name):
                advice = f"Write {name} = ... in the class."
                yield f"{member.__name__} has no {name}, which every {base.__name__} needs. {advice}"


def _called_otherwise(member: type[Component]) -> Iterator[str]:
    """Yield a message for each method that cannot be called as the family calls it."""
    base = next(cls for cls in member.__mro__ if is_own(cls))
    for cls in _users(member):
        for name, own in vars(cls).items():
            asked = getattr(base, name, None)
            if name.startswith("__") or not isinstance(asked, FunctionType):
                continue
            if not callable(own) and not isinstance(own, (staticmethod, classmethod)):
                advice = f"Every {member.family} has a method of that name: rename it."
                yield f"{cls.__name__}.{name} is {own!r}. {advice}"
            elif isinstance(own, FunctionType) and not _takes(own, asked):
                given, due = (", ".join(inspect.signature(m).parameters) for m in (own, asked))
                yield f"{cls.__name__}.{name} takes ({given}), but is called with ({due}). Use these parameters."


def _takes(own: FunctionType, asked: FunctionType) -> bool:
    """Whether `own` accepts the calls of `asked`: with only its required arguments, and with all its arguments."""
    parameters = inspect.signature(asked).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty]
    try:
        for given in (needed, list(parameters)):
            inspect.signature(own).bind(*given)
    except TypeError:
        return False
    return True


def _without_type(member: type[Component]) -> Iterator[str]:
    """Yield a message for each value that looks like a field but has no type. Names in capitals are constants."""
    typed = {
        name for cls in member.__mro__ for name in (*inspect.get_annotations(cls), *(vars(cls) if is_own(cls) else ()))
    }
    for cls in _users(member):
        for name, value in vars(cls).items():
            if not (name in typed or name.startswith("_") or name.isupper()) and isinstance(value, VALUES):
                kind = type(value).__name__
                advice = f"Write {name}: {kind} = {value!r}, or {name}: ClassVar[{kind}] if it is not a field."
                yield f"{cls.__name__}.{name} has no type, so it is not a field. {advice}"
