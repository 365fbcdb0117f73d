"""The site: it builds without a warning, has every page, and loads nothing from the network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from pathotune_pipeline import config
from pathotune_pipeline.cli.main import VERBS
from tests.docs.pages import ROOT

LOADING = {
    ("script", "src"),
    ("img", "src"),
    ("iframe", "src"),
    ("source", "src"),
    ("video", "src"),
    ("object", "data"),
}
LOADING_LINKS = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch", "modulepreload", "manifest"}


class Loads(HTMLParser):
    """Addresses that a page fetches when it is opened, and its table cells."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        for name, value in attrs:
            if (tag, name) in LOADING or name == "srcset":
                self.addresses.append(value or "")
        if tag == "link" and LOADING_LINKS & set((given.get("rel") or "").split()):
            self.addresses.append(given.get("href") or "")
        self.addresses += re.findall(r"url\(([^)]*)\)", given.get("style") or "")


def loaded_by(page: str) -> list[str]:
    parser = Loads()
    parser.feed(page)
    inline = re.findall(r"(?s)<style.*?</style>", page)
    return parser.addresses + [found for style in inline for found in addresses_of_style(style)]


def addresses_of_style(css: str) -> list[str]:
    return re.findall(r"""(?:url\(|@import\s+(?!url))\s*["']?([^)"'\s]*)""", css)


def elsewhere(addresses: list[str]) -> list[str]:
    return [address for address in addresses if re.match(r"(?i)(https?:|//|ftp:)", address)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material", reason="mkdocs-material is not installed: pip install '.[docs]'")
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", out],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return out


def test_every_page_of_docs_is_in_the_site_and_its_menu(site) -> None:
    menu = (site / "index.html").read_text(encoding="utf-8")
    pages = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")]
    assert len(pages) > 25
    for page in pages:
        assert (site / page).with_suffix(".html").is_file()
        assert f'href="{page.with_suffix(".html")}"' in menu, page


def test_nothing_is_loaded_from_the_network(site) -> None:
    pages, styles = [*site.rglob("*.html")], [*site.rglob("*.css")]
    assert len(pages) > 25
    assert styles
    for page in pages:
        assert not elsewhere(loaded_by(page.read_text(encoding="utf-8"))), page.relative_to(site)
    for style in styles:
        assert not elsewhere(addresses_of_style(style.read_text(encoding="utf-8"))), style.relative_to(site)


def test_what_would_load_from_the_network_is_seen() -> None:
    page = """<script src="https://a.example/x.js"></script><link rel="stylesheet" href="//b.example/x.css">
    <a href="https://c.example"></a><img src='images/x.png'><p style="background: url(https://f.example/x.png)"></p>
    <style>@import "https://d.example/x.css"; p { background: url('http://e.example/x.png') }</style>"""
    assert [re.sub(r".*//|/.*", "", address) for address in elsewhere(loaded_by(page))] == [
        f"{host}.example" for host in "abfde"
    ]


def test_a_browser_asks_for_nothing_elsewhere(site) -> None:
    from tests.browsing import browser_page

    with browser_page() as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto((site / "reference" / "settings.html").as_uri())
        page.wait_for_timeout(500)
        assert page.locator("h2#tiles").count() == 1
        assert not [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]


def test_the_settings_page_has_every_setting(site) -> None:
    page = (site / "reference" / "settings.html").read_text(encoding="utf-8")
    for name in config.SECTIONS:
        part = page.partition(f'<h2 id="{name}">')[2].partition("<h2 ")[0]
        for leaf in config.leaves(config.section(name), (name,)):
            assert f"<td><code>{leaf.key.partition('.')[2]}</code></td>" in part, leaf.key


def test_the_commands_page_has_every_command(site) -> None:
    page = (site / "reference" / "cli.html").read_text(encoding="utf-8")
    for verb in VERBS:
        assert f'<h2 id="{verb}">' in page
    assert "--dry-run" in page.partition('<h2 id="extract">')[2].partition("<h2 ")[0]
    assert '<h4 id="flow-run-nightly">' in page


def test_files_outside_docs_are_pages_too(site) -> None:
    shown = (site / "files" / "configs" / "deployments.yaml.html").read_text(encoding="utf-8")
    assert "work_pools" in shown
    assert 'href="files/configs/deployments.yaml.html"' in (site / "nights.html").read_text(encoding="utf-8")


def test_docs_are_an_extra_of_their_own() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras["docs"]) <= set(extras["dev"])


def test_the_configuration_asks_for_no_font_and_no_analytics() -> None:
    told = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert told["theme"]["font"] is False
    assert "analytics" not in told.get("extra", {})
    assert told["plugins"] == ["search"]


def test_links_of_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(links) > 20
    assert not [link for link in links if not (ROOT / link).exists()]
