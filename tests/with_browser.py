"""Chromium, for pages that a test looks at."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
#: Whether tests that need it fail where there is none, instead of being skipped.
NEEDED = os.environ.get("CI") == "true" and sys.platform == "linux"
#: Milliseconds; whatever takes longer has failed.
PATIENCE = 300_000


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A browser of Playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=PATIENCE)
        yield found
        found.close()


@contextlib.contextmanager
def looking(browser: Any, **settings: Any) -> Iterator[Any]:
    """A page without anything that others have left."""
    context = browser.new_context(**settings)
    context.set_default_timeout(PATIENCE)
    try:
        yield context.new_page()
    finally:
        context.close()
