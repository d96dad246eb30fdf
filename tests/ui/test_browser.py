"""The page in a real Chromium, at the width of a desk and of a phone. Skipped where there is no Chromium."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("gradio")

from semantic_routing.ui.models import Models
from semantic_routing.ui.page import build, launch

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
PATIENCE = 120_000  # milliseconds: the machine may be busy


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    page = build(Models(["demo"]), tmp_path_factory.mktemp("runs"))
    yield launch(page)
    page.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as tools:
        chromium = tools.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def elsewhere() -> list[str]:
    """Addresses of other hosts that the page asked for."""
    return []


@pytest.fixture(params=[1280, 390])
def page(request: pytest.FixtureRequest, browser: Any, address: str, elsewhere: list[str]) -> Iterator[Any]:
    opened = browser.new_page(viewport={"width": request.param, "height": 900})
    opened.set_default_timeout(PATIENCE)
    own = (address, "data:", "blob:")
    opened.on("request", lambda asked: None if asked.url.startswith(own) else elsewhere.append(asked.url))
    opened.goto(address)
    opened.get_by_role("button", name="Generate", exact=True).wait_for()
    yield opened
    opened.close()


def fits(page: Any) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def open_tab(page: Any, name: str) -> None:
    """Tabs for which a narrow page has no room lie in a menu."""
    tab = page.get_by_role("tab", name=name).or_(page.get_by_role("menuitem", name=name))
    if not tab.first.is_visible():
        page.locator(".overflow-menu > button").click()
        tab = page.locator(".overflow-dropdown").get_by_text(name)
    tab.first.click()


def test_generate_and_see_an_error(page: Any, elsewhere: list[str]) -> None:
    page.get_by_label("Prompt", exact=True).first.fill("a <b>white</b> star")
    page.get_by_text("More settings").click()
    page.get_by_label("number input for Steps").first.fill("2")
    page.get_by_role("button", name="Generate", exact=True).click()
    pictures = page.locator("#pictures img")
    pictures.nth(3).wait_for()
    assert pictures.count() == 4
    assert pictures.nth(1).get_attribute("alt") == "a <b>white</b> star, seed 1"
    page.get_by_label("Prompt", exact=True).first.fill("a star")
    page.get_by_label("number input for Steps").first.fill("3")
    page.get_by_role("button", name="Generate", exact=True).click()
    page.locator("#history h3").wait_for()
    page.get_by_label("Fill the form as it was for").click()
    page.get_by_role("option", name="a <b>white</b> star").click()
    expected = 'document.querySelector(".sr-prompt textarea").value === "a <b>white</b> star"'
    page.wait_for_function(expected)
    assert page.get_by_label("number input for Steps").first.input_value() == "2"
    page.get_by_label("Prompt", exact=True).first.fill("")
    page.get_by_role("button", name="Generate", exact=True).click()
    page.get_by_text("There is no prompt: type what the picture should show.").wait_for()
    assert pictures.count() == 4
    assert fits(page)
    assert elsewhere == []


def test_compare_two_settings(page: Any) -> None:
    open_tab(page, "Compare")
    page.get_by_label("number input for Steps").last.fill("2")
    page.get_by_label("B: layer gains").fill("all=0,1=1")
    page.get_by_label("number input for B: fusion scale").fill("0.5")
    page.get_by_role("button", name="Compare", exact=True).click()
    page.locator("#comparison table").wait_for()
    assert page.locator("#comparison img").count() == 12
    assert (
        page.locator("#comparison h3").nth(1).inner_text()
        == "B: demo · guidance 2 · layers all=0,1=1 · fusion scale 0.5"
    )
    assert fits(page)


def test_look_inside_and_move_a_slider(page: Any) -> None:
    open_tab(page, "Layers")
    page.get_by_role("button", name="Look inside").click()
    maps = page.locator("#maps caption")
    maps.nth(1).wait_for()
    before = maps.nth(1).inner_text()
    page.get_by_label("range slider for Flow time").press("End")
    page.wait_for_function("before => document.querySelectorAll('#maps caption')[1].innerText !== before", arg=before)
    page.get_by_label("number input for Layer 3").fill("0")
    page.locator("#gained img").nth(2).wait_for()
    assert "3=0" in page.locator("#gained").inner_text()
    assert fits(page)
