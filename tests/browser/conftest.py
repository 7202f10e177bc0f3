"""A browser, pages opened from disk in it, and what they complain about."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Return a headless Chromium; without one, or without what drives it, tests are skipped."""
    driver = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: make test-browser brings it"
    )
    found = [os.environ.get("SAMSVAE_TEST_BROWSER"), *map(shutil.which, _BROWSERS)]
    path = next((one for one in found if one), None)
    if path is None:
        pytest.skip("no Chromium is installed: make test-browser brings it, where apt-get can")
    with driver.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Return what opens a page; whatever it does, nothing may be complained of or loaded."""
    complaints: list[str] = []
    contexts = []

    def open_(
        html: str | Path, *, width: int = 1280, scheme: str = "light", touch: bool = False
    ) -> Any:
        path = html if isinstance(html, Path) else tmp_path / "report.html"
        if isinstance(html, str):
            path.write_text(html, encoding="utf-8")
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, has_touch=touch
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        address = path.resolve().as_uri()
        page.on("console", lambda message: complaints.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (complaints.append("dialog"), dialog.dismiss()))
        page.on(
            "request",
            lambda request: (
                complaints.append(f"request: {request.url}")
                if request.url.split("#")[0] not in (address, "data:,")
                else None
            ),
        )
        page.goto(address)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert complaints == []
