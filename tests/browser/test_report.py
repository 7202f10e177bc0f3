"""The report in a browser: it works, says what Python says, and everyone can use it."""

from __future__ import annotations

import io
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

import samsvae
from helpers.report_tables import (
    CONDITIONS,
    GENES,
    HOSTILE,
    cells,
    effects,
    inclusion,
    mechanisms,
    report_tables,
)
from samsvae.report.page import page as written

QUICK: dict[str, Any] = {"n_particles": 30, "progress": False}
Open = Any


def rows(page: Any, table: str = "#discoveries-rows") -> list[list[str]]:
    """Return the texts of a table's rows."""
    found = page.locator(f"{table} tbody tr")
    return [row.locator("th, td").all_inner_texts() for row in found.all()]


def numbers(texts: list[str]) -> np.ndarray:
    plain = (text.replace("\N{MINUS SIGN}", "-").strip("< ").replace(",", "") for text in texts)
    return np.array(list(map(float, plain)))


def test_it_opens_from_disk_and_shows_every_name_as_text(opened: Open) -> None:
    page = opened(written(report_tables()))
    assert page.title() == f"{HOSTILE} - samsvae report"
    assert page.locator("h1").inner_text() == HOSTILE
    page.fill("#discoveries-search", HOSTILE)
    assert {HOSTILE} <= {text for row in rows(page) for text in row[:2]}
    page.fill("#condition-name", HOSTILE)
    page.locator("#condition-name").dispatch_event("change")
    assert page.locator("#condition-title").inner_text() == HOSTILE
    assert page.locator("script").count() == 2


def test_search_finds_conditions_and_genes(opened: Open) -> None:
    page = opened(written(report_tables()))
    page.fill("#discoveries-search", "jak2")
    found = rows(page)
    assert found
    assert {row[1] for row in found} == {"JAK2"}
    page.fill("#discoveries-search", "stat1 a+b")
    assert [row[:2] for row in rows(page)] == [["A+B", "STAT1"]]
    page.fill("#discoveries-search", "nonsense")
    assert page.locator("#discoveries-count").inner_text() == "No row matches"
    page.fill("#discoveries-search", "")
    table = effects()
    page.select_option("#discoveries-rate", "0.05")
    called = sum(
        (some.sort_values("lfsr").head(50)["q_value"] < 0.05).sum()
        for _, some in table.groupby("condition")
    )
    assert page.locator("#discoveries-count").inner_text().endswith(f"of {called}")


def test_columns_sort_either_way_and_pages_follow(opened: Open) -> None:
    page = opened(written(report_tables()))
    first = numbers([row[5] for row in rows(page)])
    assert (np.diff(first) >= 0).all()  # the surest first
    page.click("th[data-column=estimate] button")
    estimates = numbers([row[2] for row in rows(page)])
    assert (np.diff(estimates) <= 0).all()
    assert estimates.min() > 0
    page.click("th[data-column=estimate] button")
    assert numbers([row[2] for row in rows(page)]).max() < 0
    page.click("th[data-column=estimate] button")
    assert page.get_attribute("th[data-column=estimate]", "aria-sort") == "descending"
    assert page.get_attribute("th[data-column=lfsr]", "aria-sort") is None
    page.click("th[data-column=size] button")
    sizes = numbers([row[3] for row in rows(page)])
    assert (np.diff(sizes) <= 0).all()
    page.click("text=Next")
    after = np.abs(numbers([row[2] for row in rows(page)]))
    assert after.max() <= sizes.min()
    page.click("th[data-column=gene] button")
    page.click("th[data-column=gene] button")
    names = [row[1] for row in rows(page)]
    assert names[0] == "STAT1"
    assert page.get_attribute("th[data-column=gene]", "aria-sort") == "descending"


def saved(page: Any, title: str) -> tuple[str, str]:
    """Return the name and the text of what a button saves."""
    with page.expect_download() as download:
        page.get_by_role("button", name=title, exact=True).first.click()
    path = download.value.path()
    return download.value.suggested_filename, Path(path).read_text(encoding="utf-8")


def test_tables_and_charts_are_saved(opened: Open) -> None:
    page = opened(written(report_tables()))
    page.fill("#discoveries-search", "A+B")
    name, text = saved(page, "Save as CSV: Discoveries")
    assert name == "discoveries.csv"
    table = pd.read_csv(io.StringIO(text))
    own = effects()
    own = own[own["condition"] == "A+B"].set_index("gene")
    assert set(table["condition"]) == {"A+B"}
    assert len(table) == 50  # of all pages of the table, not of the one that is shown
    for column in ("estimate", "lower", "upper", "lfsr"):
        np.testing.assert_allclose(table[column], own.loc[table["gene"], column], rtol=1e-3)
    page.fill("#discoveries-search", HOSTILE)
    assert (
        HOSTILE in pd.read_csv(io.StringIO(saved(page, "Save as CSV: Discoveries")[1])).to_numpy()
    )
    label = page.locator("#shift-map svg").get_attribute("aria-label")
    name, text = saved(page, f"Save as SVG: {label}")
    assert name.endswith(".svg")
    picture = ElementTree.fromstring(text)
    circles = picture.findall(".//{http://www.w3.org/2000/svg}circle")
    assert len(circles) == page.locator("#shift-map circle").count()
    assert "fill: rgb(0, 114, 178)" in circles[0].get("style", "")  # outside of the page, too


def test_what_is_not_there_is_told(opened: Open) -> None:
    page = opened(written(report_tables()))
    message = page.locator("#message")
    assert not message.is_visible()
    for field in ("#condition-name", "#mask-find"):
        page.fill(field, "nonsense")
        page.locator(field).dispatch_event("change")
        assert "nonsense" in message.inner_text()
        page.fill(field, "A")
        page.locator(field).dispatch_event("change")
        assert not message.is_visible()


def test_the_map_says_at_the_pointer_what_is_there(opened: Open) -> None:
    page = opened(written(report_tables()))
    box = page.locator("#mask-map canvas").bounding_box()
    page.locator("#mask-map canvas").scroll_into_view_if_needed()
    box = page.locator("#mask-map canvas").bounding_box()
    x, y = box["x"] + box["width"] - 10, box["y"] + 30
    page.mouse.move(x, y)
    tip = page.locator(".tip")
    assert tip.inner_text() == page.locator("#mask-status").inner_text()
    place = tip.bounding_box()
    assert abs(place["y"] - y) < 40
    page.mouse.move(1, 1)
    assert not tip.is_visible()


def test_names_of_rows_stay_in_sight(opened: Open) -> None:
    page = opened(written(report_tables()), width=420)
    region = page.locator("#discoveries-table .scroll")
    assert region.locator("xpath=preceding-sibling::p[1]").is_visible()  # more columns: scroll
    region.evaluate("node => node.scrollTo(node.scrollWidth, 0)")
    first = region.locator("tbody tr:first-child th").bounding_box()
    assert first["x"] == pytest.approx(region.bounding_box()["x"], abs=1)


def test_a_combination_has_the_numbers_of_the_model(
    opened: Open, trained: samsvae.SAMSVAE, screen: samsvae.Screen, tmp_path: Path
) -> None:
    trained.save(tmp_path)
    page = opened(samsvae.write_report(tmp_path, screen, ["C+B"], **QUICK))
    de = samsvae.differential_expression(screen)
    asked = [*trained.metadata.conditions[1:], "C+B"]
    table = samsvae.discoveries(trained, screen, asked, **QUICK)
    for label, name in (("A+B", "A+B"), ("B+C (not measured)", "B+C")):
        page.select_option("#combination-name", label=label)
        found = rows(page, "#combination-rows")
        genes = [row[0] for row in found]
        assert sorted(genes) == sorted(screen.genes)
        if name == "A+B":
            predicted = trained.effects([name], library_size="observed", **QUICK).to_df().loc[name]
        else:  # the sum of its parts
            own = table[table["condition"] == "C+B"]
            predicted = own.set_index("gene")["estimate"]
        np.testing.assert_allclose(numbers([row[1] for row in found]), predicted[genes], atol=1e-3)
        added = de.loc[name.split("+"), genes].sum()
        np.testing.assert_allclose(numbers([row[2] for row in found]), added, atol=1e-3)
        if name == "A+B":
            observed = de.loc[name, genes]
            np.testing.assert_allclose(numbers([row[3] for row in found]), observed, atol=1e-3)
        else:
            assert {row[3] for row in found} == {"\N{EN DASH}"}


def test_a_click_opens_a_condition(opened: Open) -> None:
    page = opened(written(report_tables()))
    page.click("#discoveries-rows tbody tr:first-child button")
    chosen = rows(page)[0][0]
    title = page.locator("#condition-title")
    assert title.inner_text() == chosen
    assert title.evaluate("node => node === document.activeElement")
    page.fill("#condition-name", "A")
    page.press("#condition-name", "Enter")
    part = page.locator("#condition-part")
    table = effects()
    own = table[table["condition"] == "A"].sort_values("lfsr")
    page.click("#condition-part summary")
    told = rows(page, "#condition-part details table")
    assert [row[0] for row in told] == own["gene"].head(50).tolist()
    np.testing.assert_allclose(numbers([row[1] for row in told]), own["estimate"][:50], atol=1e-3)
    assert "A_1 (60)" in part.inner_text()  # its sgRNA
    part.locator("button", has_text=HOSTILE).first.click()  # a similar condition
    assert title.inner_text() == HOSTILE


def test_the_mask_is_read_with_the_keyboard(opened: Open) -> None:
    page = opened(written(report_tables()))
    canvas = page.locator("#mask-map canvas")
    canvas.focus()
    seen = {}
    page.keyboard.press("ArrowDown")
    for _ in range(4):
        text = page.locator("#mask-status").inner_text()
        name, _, rest = text.partition(" in z0: ")
        seen[name] = rest
        page.keyboard.press("ArrowDown")
    assert set(seen) == set(CONDITIONS) - {"A+B"}
    assert seen["A"].startswith("probability 0.990, shift ")
    page.keyboard.press("Enter")
    last = list(seen)[-1]
    assert page.locator("#condition-title").inner_text() == last


def test_the_mask_can_leave_out_who_moves_nothing(opened: Open) -> None:
    singles = ["A", "B", "C", "D"]
    table = inclusion(singles)
    table.loc[table["perturbation"] != "C", "probability"] = 0.1
    page = opened(written(report_tables(inclusion=table, mechanisms=mechanisms(singles))))
    page.select_option("#mask-rows", "used")
    canvas = page.locator("#mask-map canvas")
    for key in ("ArrowDown", "ArrowDown", "ArrowDown"):
        canvas.press(key)
        assert page.locator("#mask-status").inner_text().startswith("C in z0: ")


def many() -> Any:
    """Return tables of 700 perturbations."""
    names = [f"GENE{i}" for i in range(700)]
    inclusions = inclusion(names, 12)
    rng = np.random.default_rng(0)
    far = rng.normal(0, 1, len(inclusions))
    inclusions["shift"] = np.where(inclusions["probability"] > 0.5, far, 0.01 * far)
    return report_tables(
        effects=effects(names[:30], GENES),
        cells=cells(names),
        inclusion=inclusions,
        mechanisms=mechanisms(names, 12),
        combinations={},
        similar={},
        sgrnas=None,
    )


@pytest.mark.parametrize("width", [390, 1280])
def test_one_of_seven_hundred_is_found_in_both_maps(opened: Open, width: int) -> None:
    page = opened(written(many()), width=width)
    host, canvas = page.locator("#mask-map"), page.locator("#mask-map canvas")
    assert canvas.bounding_box()["height"] < 800  # all of them at once
    assert page.locator("#shift-map circle").count() == 700
    page.fill("#mask-find", "GENE617")
    page.locator("#mask-find").dispatch_event("change")
    assert page.locator("#mask-scale").input_value() == "close"
    assert canvas.bounding_box()["height"] > 700 * 16
    assert page.locator("#mask-status").inner_text().startswith("GENE617 in z5: probability 0.990")
    seen, row = host.bounding_box(), host.evaluate("node => node.scrollTop")
    assert seen["height"] < 800
    order = page.evaluate(
        "JSON.parse(document.getElementById('data').textContent).mask.perturbations"
    )
    place = 24 + 16 * order.index("GENE617")
    assert row <= place <= row + seen["height"]
    assert page.locator("#shift-map text.selected").text_content() == "GENE617"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.select_option("#mask-scale", "whole")
    assert canvas.bounding_box()["height"] < 800


def test_the_map_of_shifts_is_looked_at_closely(opened: Open) -> None:
    page = opened(written(many()))
    map_ = page.locator("#shift-map svg")
    dots, names = page.locator("#shift-map circle"), page.locator("#shift-map text.tick")
    whole = names.count()
    page.click("#shift-map button:has-text('Zoom in')")
    page.click("#shift-map button:has-text('Zoom in')")
    close = dots.count()
    assert 0 < close < 700
    map_.focus()
    for key in ("+", "ArrowRight", "ArrowUp"):
        before = [dot.get_attribute("cx") for dot in dots.all()[:3]]
        page.keyboard.press(key)
        assert [dot.get_attribute("cx") for dot in dots.all()[:3]] != before or key == "ArrowUp"
    assert dots.count() < close
    page.keyboard.press("0")
    assert dots.count() == 700
    assert names.count() == whole
    box = map_.bounding_box()
    empty = box["x"] + 0.7 * box["width"], box["y"] + 0.3 * box["height"]
    chosen = page.locator("#condition-title").inner_text()
    page.mouse.dblclick(*empty)
    assert dots.count() < 700
    before = places(page)
    page.mouse.move(*empty)
    page.mouse.down()
    page.mouse.move(empty[0] - 40, empty[1] + 20, steps=4)
    page.mouse.up()
    after = places(page)
    both = sorted(set(before) & set(after))
    moved = np.array([after[name] for name in both]) - [before[name] for name in both]
    np.testing.assert_allclose(moved, [[-40, 20]] * len(both), atol=0.1)
    assert page.locator("#condition-title").inner_text() == chosen  # dragging opens nothing


def places(page: Any) -> dict[str, list[float]]:
    """Return where the points of the map of shifts are, by name."""
    dots = page.locator("#shift-map circle")
    read = (
        "all => all.map((one) => [one.textContent, [one.cx.baseVal.value, one.cy.baseVal.value]])"
    )
    return dict(dots.evaluate_all(read))


def violations(page: Any) -> list[str]:
    """Return what axe-core finds seriously wrong."""
    axe = pytest.importorskip("axe_playwright_python", reason="axe-core is not installed")
    page.evaluate(files(axe).joinpath("axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")["violations"]
    return [
        f"{one['id']}: {one['help']} ({one['nodes'][0]['html'][:200]})"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_no_serious_fault(opened: Open, scheme: str, width: int) -> None:
    page = opened(written(report_tables()), scheme=scheme, width=width)
    page.locator("summary").evaluate_all("all => all.forEach(one => one.parentNode.open = true)")
    assert violations(page) == []


def test_axe_would_find_one(opened: Open) -> None:
    page = opened("<!DOCTYPE html><html lang='en'><title>x</title><input><p>text</p></html>")
    assert any(one.startswith("label") for one in violations(page))


def test_nothing_is_wider_than_a_telephone(opened: Open) -> None:
    long = "ABCDEFGH" * 40
    names = [long, *CONDITIONS]
    page = opened(
        written(
            report_tables(
                name=long,
                effects=effects(names, [long + "1", *GENES]),
                cells=cells(names),
                mechanisms=mechanisms(names),
                inclusion=inclusion(names),
            )
        ),
        width=390,
        touch=True,
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.fill("#condition-name", long)
    page.locator("#condition-name").dispatch_event("change")
    assert page.locator("#condition-title").inner_text() == long
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_report_of_nothing_opens(opened: Open) -> None:
    empty = {
        **dict.fromkeys(("cells", "sgrnas", "batches", "scores", "effects")),
        **dict.fromkeys(("mechanisms", "inclusion")),
    }
    empty |= {"combinations": {}, "similar": {}, "history": pd.DataFrame()}
    page = opened(written(report_tables(**empty)))
    assert page.locator(".missing").count() > 5


def test_every_section_is_a_landmark_that_the_list_leads_to(opened: Open) -> None:
    page = opened(written(report_tables()))
    for link in page.locator("nav a").all():
        target = str(link.get_attribute("href"))
        assert page.locator(f"section[aria-labelledby='{target[1:]}'] h2{target}").count() == 1
    assert page.locator("main, header, footer, nav").count() == 4
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
