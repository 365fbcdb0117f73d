"""Chromium, driven by Playwright; tests that use it skip, with the reason, where one of the two is absent."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def browser_page(width: int = 1400, height: int = 900) -> Iterator[Any]:
    """A fresh page, and in `page.told` everything its console complains of and every address it asks for elsewhere."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    where = next((found for name in NAMES if (found := shutil.which(name))), None)
    if where is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=where, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": width, "height": height})
        page.told = []
        page.on(
            "console", lambda message: page.told.append(message.text) if message.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: page.told.append(str(error)))
        page.on("requestfailed", lambda request: page.told.append(f"failed: {request.url}"))
        try:
            yield page
        finally:
            browser.close()


def wait_until(page: Any, script: str, arg: Any = None) -> None:
    """Wait until a JavaScript function or expression is true. Playwright's own way is forbidden by the pages' policy."""
    for _ in range(600):
        if page.evaluate(script, arg):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"never came true: {script}")
