"""The documentation's site: its order of pages, its generated pages, and links that hold in it too."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from matplotlib.axes import Axes

from docs.build import places, plots_of_solvers, sources
from docs.build.families import advice, page, settings
from docs.build.pictures import FAINT, INK, picture
from harness.components.averages import Average, gamma_of
from harness.core.registry import HOMES, names

ROOT = Path(__file__).parent.parent


class Loader(yaml.SafeLoader):
    """Reads mkdocs.yml without the Python objects that it names."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)
SITE: dict[str, Any] = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)


def leaves(nav: Any) -> Iterator[str]:
    """Yield the pages of a navigation."""
    if isinstance(nav, str):
        yield nav
    for below in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from leaves(below)


NAV = list(leaves(SITE["nav"]))


def test_the_navigation_has_every_page_once() -> None:
    written = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    made = {f"components/{family}.md" for family in HOMES} | {"reference.md", "results/tables/all.md"}
    assert len(NAV) == len(set(NAV))
    assert written | made == {path for path in NAV if path in made or not path.startswith(("results/", "studies/"))}
    assert {path for path in NAV if path.startswith(("results/", "studies/"))} - made <= set(places.copied())


def test_a_build_stops_at_a_dead_link_and_loads_nothing_from_elsewhere() -> None:
    recipe = (ROOT / "Makefile").read_text().partition("\ndocs: ")[2].partition("\n\n")[0]
    assert "-m mkdocs build" in recipe
    assert "quiet" not in recipe, "MkDocs counts only the warnings that it prints"
    assert SITE["strict"] is True
    assert set(SITE["validation"]["links"].values()) | set(SITE["validation"]["nav"].values()) == {"warn"}
    assert SITE["theme"]["font"] is False
    named = [word for text in (ROOT / "docs" / "assets").glob("*") for word in re.findall(r"https?:", text.read_text())]
    assert named == []


@pytest.mark.parametrize(
    ("page", "text", "expected"),
    [
        ("docs/a.md", "[x](b.md#c)", "[x](b.md#c)"),
        ("docs/a.md", "[x](#c)", "[x](#c)"),
        ("docs/a.md", "![x](../results/figures/b.png)", "![x](results/figures/b.png)"),
        ("docs/how-to/a.md", "[x](../../results/tables/b.md#c)", "[x](../results/tables/b.md#c)"),
        ("docs/how-to/a.md", "[x](../b.md)", "[x](../b.md)"),
        ("docs/a.md", "[x](../README.md#c) [y](../results/tables)", "[x](readme.md#c) [y](results/tables/all.md)"),
        ("studies/README.md", "[x](../docs/verdicts.md) [y](papers)", "[x](../verdicts.md) [y](papers/README.md)"),
        ("results/tables/a.md", "[x](../../docs/a.md)", "[x](../../a.md)"),
        ("docs/a.md", "[x](https://b.org/../c)", "[x](https://b.org/../c)"),
        ("docs/a.md", "`[x](../b)`\n```\n[x](../b)\n```\n", "`[x](../b)`\n```\n[x](../b)\n```\n"),
    ],
)
def test_links_of_the_repository_become_those_of_the_site(page: str, text: str, expected: str) -> None:
    assert places.rewritten(text, page) == expected


def test_a_list_below_a_line_gets_the_line_between_that_the_site_needs() -> None:
    assert (
        places.spaced("a\n- b\n  c\n- d\n\n- e\n```\na\n- b\n```\n") == "a\n\n- b\n  c\n- d\n\n- e\n```\na\n- b\n```\n"
    )


def test_every_copied_file_is_there_and_every_table_is_copied() -> None:
    copied = places.copied()
    assert all((ROOT / path).is_file() for path in copied)
    tables = {path.relative_to(ROOT).as_posix() for path in (ROOT / "results" / "tables").glob("*.md")}
    assert tables <= set(copied)
    assert all(Path(table).stem in places.all_tables() for table in tables)


@pytest.mark.parametrize("family", ["weighting", "solver", "time_sampler", "average"])
def test_a_family_has_a_page_with_its_members(family: str) -> None:
    made = page(family, {})
    assert [line[4:] for line in made.partition("\n## One of your own")[0].splitlines() if line.startswith("### ")] == (
        names(family)
    )
    assert f"harness new component mine --family {family}" in made


def test_a_page_says_what_the_code_says() -> None:
    made = page("weighting", {})
    assert "<code>min(SNR(t), gamma)</code>" in made
    assert re.search(r'>gamma</code></td><td><code class="word">5.0</code><br><span class="word">in ', made)
    assert "def weight(self, t: Tensor, interpolant: Interpolant) -&gt; Tensor" in made
    assert advice("weighting")[0].startswith("A **weighting** names in `stated_for`")
    required = [method.signature for method in sources.methods(Average) if method.required]
    assert required == ["def terms(self, decays: Sequence[float], steps: Sequence[int]) -> list[Term]"]


def test_a_page_names_every_setting_that_takes_a_member() -> None:
    assert settings("noise") == ["evaluate.noise", "noise"]
    assert settings("time_embedding") == ["backbone.time_embedding"]
    assert settings("extractor") == ["evaluate.extractor"]


def line(axes: Axes) -> None:
    axes.plot([0, 1], [0, 1])


def test_a_picture_has_a_variant_for_a_dark_page() -> None:
    made = picture("test", "A line", line)
    assert INK in made.light
    assert FAINT in made.light
    assert not {INK, FAINT} & set(re.findall("#[0-9a-f]{6}", made.dark))
    assert made.markdown() == "![A line](plots/test-light.svg#only-light) ![A line](plots/test-dark.svg#only-dark)"


def test_the_drawn_averages_are_their_formulas() -> None:
    """An average of decay d weighs a step d times as much as the next one, a power-function average by t^gamma."""
    drawn = plots_of_solvers.profiles()
    steps = torch.arange(1, plots_of_solvers.TRAINED + 1, dtype=torch.float64)
    for name, weights in drawn.items():
        assert weights.sum().item() == pytest.approx(1)
        value = float(name.split()[-1])
        if "posthoc" in name:
            wanted = (steps / steps[-1]) ** gamma_of(value)
            torch.testing.assert_close(weights[100:] / weights[-1], wanted[100:], rtol=0.1, atol=0)
        else:
            torch.testing.assert_close(weights[-50:-1] / weights[-49:], torch.full((49,), value).double())
