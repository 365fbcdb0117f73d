"""The night's page in a browser: search, sort, paging, printing, and nothing from anywhere."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from pathotune_pipeline.reports.nights.page import write_night
from tests.browsing import browser_page
from tests.reports.nights.test_page import NASTY, REASON


def test_the_table_is_searched_sorted_and_turned(
    archive: SimpleNamespace, fake: SimpleNamespace, tmp_path: Path
) -> None:
    failing = [fake.FakeSlide(f"bad-{index:03}.svs", "failed", "no reader can open it") for index in range(60)]
    archive.night([archive.fresh(NASTY, seed=1), fake.FakeSlide("worse.svs", "failed", REASON), *failing])
    path = write_night(archive.store.root, tmp_path / "out")
    asked: list[str] = []
    with browser_page() as page:
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        rows, told = page.locator("table.slides tbody tr"), page.locator("output")
        assert told.text_content() == "1–50 of 62"
        assert rows.count() == 50
        page.get_by_role("button", name="Next").click()
        assert told.text_content() == "51–62 of 62"
        page.get_by_label("Filter by slide, case").fill("onerror")
        assert told.text_content() == "1 of 84 slides"
        assert REASON in rows.first.text_content()
        page.get_by_label("Filter by slide, case").fill("")
        page.get_by_label("What happened").select_option("new")
        assert rows.count() == 1
        assert NASTY in rows.first.text_content()
        assert page.evaluate("document.querySelector('td.picture img').naturalWidth") > 50
        page.locator("td.picture img").click()
        assert page.locator("dialog .id").text_content() == NASTY
        page.locator("dialog img").click()
        page.get_by_label("What happened").select_option("")
        head = page.get_by_role("button", name="Slide, case")
        head.click()
        head.click()
        assert rows.first.locator(".id").text_content() == "worse.svs"
        assert page.locator("table.slides script, table.slides b").count() == 0
        page.get_by_label("What happened").select_option("happened")
        page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        assert rows.count() == 62
        page.evaluate("window.dispatchEvent(new Event('afterprint'))")
        assert rows.count() == 50
        assert page.pdf(path=tmp_path / "night.pdf").startswith(b"%PDF")
        page.get_by_role("link", name="All nights").click()
        assert page.locator("table.slides tbody tr").count() == 1
        page.get_by_role("link", name="20").first.click()
        assert page.url == path.as_uri()
        assert not page.told
    assert all(url.startswith(("file:", "data:")) for url in asked)
