"""The documentation as a site: it builds without a warning, fetches nothing from elsewhere, and can be read by all."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import with_browser

ROOT = Path(__file__).parents[1]
PACKAGES = ("mkdocs", "material", "mkdocstrings", "playwright", "axe_playwright_python")
MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None] + (
    ["chromium"] if not with_browser.CHROMIUM else []
)
MUST = with_browser.NEEDED and sys.version_info < (3, 11)
#: One of each kind: text, code with output, tables and a picture, generated references, a wide table, equations.
LOOKED_AT = ("index", "tutorial", "measured", "reference/api", "reference/cli", "compatibility", "explain/integer_law")

pytestmark = [
    pytest.mark.skipif(bool(MISSING) and not MUST, reason=f"needs {', '.join(MISSING)}"),
    pytest.mark.xdist_group("site"),  # one worker, so that it is built once
]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert not MISSING, f"CI on Python 3.10 needs {', '.join(MISSING)}"
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=900, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser(site: Path) -> Iterator[Any]:
    with with_browser.chromium() as found:
        yield found


def test_every_page_is_built_and_reachable(site: Path) -> None:
    """Strict mode has looked at links and anchors; here: every page of docs/ is one of the site, in its navigation."""
    home = (site / "index.html").read_text()
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").glob("**/*.md")}
    assert len(pages) > 20
    for page in pages | {Path("measured.html")}:
        assert (site / page).is_file(), page
        assert page.name == "index.html" or f'href="{page.as_posix()}"' in home, f"{page} is not in the navigation"
    commands = (site / "reference/cli.html").read_text()
    assert all(f">{name}" in commands for name in ("--max-drop", "--per-neuron", "--streaming"))
    assert (site / "reference/api.html").read_text().count('class="doc doc-object') > 50


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_readable(browser: Any, address: str, scheme: Any) -> None:
    """No serious finding of axe-core, no request to elsewhere, nothing wider than a telephone."""
    from axe_playwright_python.sync_playwright import Axe

    requests: list[str] = []
    errors: list[str] = []
    with with_browser.looking(browser, viewport={"width": 390, "height": 844}, color_scheme=scheme) as page:
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        for name in LOOKED_AT if scheme == "light" else LOOKED_AT[:4]:
            page.goto(f"{address}/{name}.html", wait_until="load")
            expected = "slate" if scheme == "dark" else "default"
            assert page.locator("body").get_attribute("data-md-color-scheme") == expected
            violations = Axe().run(page).response["violations"]
            serious = [
                f"{name}: {found['id']}: {node['html'][:200]}"
                for found in violations
                if found["impact"] in ("serious", "critical")
                for node in found["nodes"][:3]
            ]
            assert not serious, "\n".join(serious)
            for width in (390, 1440) if scheme == "light" else ():
                page.set_viewport_size({"width": width, "height": 844})
                page.reload()  # what turns into something else at another width takes its time
                wide = page.evaluate("document.documentElement.scrollWidth")
                assert wide <= width, f"{name}: {wide} px on a screen of {width}"
            page.set_viewport_size({"width": 390, "height": 844})
    assert not errors
    assert {url for url in requests if not url.startswith((address, "data:"))} == set()
    assert len(requests) > 4


def test_search_finds_a_command(browser: Any, address: str) -> None:
    with with_browser.looking(browser) as page:
        page.goto(f"{address}/index.html")
        query, found = page.locator("[data-md-component=search-query]").first, page.locator(".md-search-result__item a")
        for text in ("max-dro", "max-drop") * 100:  # what is typed before the index is there may be lost
            query.fill(text)
            page.wait_for_timeout(1000)
            if found.count():
                break
        assert found.count() > 0
