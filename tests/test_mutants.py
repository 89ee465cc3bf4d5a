"""The mutation check itself: the effect of its rules, the drawn lines, and the truth of its lists."""

from collections import Counter
from pathlib import Path

from checkouts import ROOT, failure
from mutants import EQUIVALENT, TESTS, TURNS, chosen, named_for
from mutations import Mutation, draw, mutations

SOURCE = '''
"""Adds 1 and 2."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rate:
    value: float = 0.5
    whole: "int | None" = None

    def at(self, step: int, twice: bool = False) -> float:
        if not twice and step < 3:
            raise ValueError(f"{step + 1} is not {2 - 1}")
        return min(self.value * step, round(step, ndigits=2), key=abs)
'''
CHANGED = {
    "value: float = 0.5": {"value: float = 1.5"},
    "def at(self, step: int, twice: bool = False) -> float:": {"def at(self, step: int, twice: bool = True) -> float:"},
    "if not twice and step < 3:": {
        "if twice and step < 3:",
        "if not twice or step < 3:",
        "if not twice and step <= 3:",
        "if not twice and step < 4:",
    },
    "return min(self.value * step, round(step, ndigits=2), key=abs)": {
        "return max(self.value * step, round(step, ndigits=2), key=abs)",
        "return min(self.value / step, round(step, ndigits=2), key=abs)",
        "return min(self.value * step, round(step), key=abs)",
        "return min(self.value * step, round(step, ndigits=3), key=abs)",
        "return min(self.value * step, round(step, ndigits=2))",
        "return None",
    },
}
"""{line: its mutations}, by hand; other lines do not change."""


def test_the_rules_change_one_line_each(tmp_path: Path) -> None:
    (tmp_path / "rate.py").write_text(SOURCE)
    found: dict[str, set[str]] = {}
    for mutation in mutations(tmp_path, "rate.py"):
        found.setdefault(mutation.old.strip(), set()).add(mutation.new.strip())
        differing = [
            number
            for number, (old, new) in enumerate(
                zip(SOURCE.splitlines(), mutation.apply(SOURCE).splitlines(), strict=True), 1
            )
            if old != new
        ]
        assert differing == [mutation.number]
    assert found == CHANGED


def test_a_seed_draws_the_same_lines_at_any_position(tmp_path: Path) -> None:
    (tmp_path / "rate.py").write_text(SOURCE)
    (tmp_path / "moved.py").write_text("import math\n" + SOURCE)

    def texts(name: str, seed: int) -> list[tuple[str, str]]:
        return [mutation.identity[1:] for mutation in draw(mutations(tmp_path, name), seed)]

    assert texts("rate.py", 0) == texts("moved.py", 0)
    assert texts("rate.py", 0) != texts("rate.py", 1)
    assert sorted(texts("rate.py", 0)) == sorted(texts("rate.py", 1))


def test_every_listed_file_exists_and_every_component_is_listed() -> None:
    sources = [path for area in TESTS.values() for path in area]
    assert len(sources) == len(set(sources))
    for path in sources:
        assert (ROOT / path).is_file(), path
        for name in named_for(path):
            assert (ROOT / f"tests/test_{name}.py").is_file(), f"{path}: {name}"
    for folder in ("harness/components", "harness/ablation/execute"):
        for file in (ROOT / folder).rglob("*.py"):
            path = file.relative_to(ROOT).as_posix()
            assert path in sources or file.name == "__init__.py", f"{path}: name its tests in tests/mutants.py"


def test_every_equivalent_mutation_is_still_a_mutation() -> None:
    for path, old, new, reason in EQUIVALENT:
        known = {mutation.identity for mutation in mutations(ROOT, path)}
        assert (path, old, new) in known, f"{path}: its line `{old}` has changed; write or strike out the entry"
        assert reason


def test_forty_are_spread_over_the_areas_and_none_is_equivalent() -> None:
    made = chosen(40, 0, [])
    areas = Counter(area for mutation in made for area, sources in TESTS.items() if mutation.path in sources)
    assert areas == Counter({area: 5 * TURNS.count(area) for area in TESTS})
    assert not {mutation.identity for mutation in made} & {known[:3] for known in EQUIVALENT}
    assert {mutation.path for mutation in chosen(3, 0, ["harness/core/"])} <= {*TESTS["files"]}


def test_the_failed_test_is_named() -> None:
    said = "F\nE   assert 1 == 2\nFAILED tests/test_x.py::test_y - assert 1 == 2\n1 failed in 0.1s\n"
    assert failure(said) == "tests/test_x.py::test_y"


def test_a_mutation_knows_its_line() -> None:
    mutation = Mutation("x.py", 2, "b = 1", "b = 2")
    assert mutation.apply("a = 1\nb = 1\n") == "a = 1\nb = 2\n"
