"""The page as a whole: complete, escaped, self-contained, and written whole or not at all."""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.reports import report
from pathotune_pipeline.reports.report import write_report
from pathotune_pipeline.store.layout import SetName
from pathotune_pipeline.store.store import FeatureStore


class Page(HTMLParser):
    """Tags, attributes and text of a page, as a browser takes them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.shown: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.shown.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.shown).split())

    def facts(self) -> dict[str, str]:
        return {
            title: value
            for value, title in re.findall(r'<div class="fact[^>]*><b>([^<]*)</b><span>([^<]*)', self.source)
        }

    def rows(self) -> dict[str, str]:
        """Status by slide id, from the slide table."""
        found = re.findall(r'<tr data-status="(\w+)".*?data-value="([^"]*)"', self.source, re.DOTALL)
        return {html.unescape(slide_id): status for status, slide_id in found}


def page(store: FeatureStore, out: Path, **more: object) -> Page:
    return Page(write_report(store.root, out, **more))  # type: ignore[arg-type]


def test_every_slide_is_shown_with_its_status_and_reason(
    fake: SimpleNamespace, store: FeatureStore, tmp_path: Path
) -> None:
    shown = page(store, tmp_path / "out")
    assert shown.rows() == {
        "a.svs": "committed",
        fake.NASTY: "committed",
        "c.svs": "empty",
        "d.svs": "failed",
        "e.svs": "committed",
    }
    facts = shown.facts()
    assert (facts["slides"], facts["committed"], facts["empty"], facts["failed"]) == ("5", "3", "1", "1")
    tiles = sum(record.facts["tiles"] for record in store.records(fake.FEATURES).values())
    assert int(facts["tiles, 3 invalid"].replace("\u202f", "")) == tiles
    assert "no tissue was found" in shown.text
    assert "onerror=alert(2)" in shown.text
    assert str(fake.FEATURES).removeprefix("features-") in shown.text
    assert shown.source.index('id="failures"') < shown.source.index('id="slides"')


def test_what_came_from_files_is_escaped(store: FeatureStore, model: Path, tmp_path: Path) -> None:
    shown = page(store, tmp_path / "out", models=[model])
    assert [tag for tag, _ in shown.tags if tag == "script"] == ["script"]
    assert "<script>alert" not in shown.source
    assert "<img src=x" not in shown.source
    for raw in ("<b>empty</b>", "status <x>", "model <i>"):
        assert raw not in shown.source
        assert raw in shown.text
    assert not any(name.startswith("on") for _, attributes in shown.tags for name in attributes)


def test_the_page_loads_nothing(store: FeatureStore, model: Path, tmp_path: Path) -> None:
    shown = page(store, tmp_path / "out", models=[model])
    for tag, attributes in shown.tags:
        assert tag not in {"link", "iframe", "object", "embed", "base"}
        assert attributes.get("src", "data:").startswith("data:image/jpeg;base64,") or "src" not in attributes
        assert attributes.get("href", "#").startswith("#")
        assert "style" not in attributes  # the policy would drop it
    without_told = shown.source.replace("http://example.org/x cannot be read", "")
    assert "http:" not in without_told
    assert "https:" not in without_told
    policy = next(each["content"] for _, each in shown.tags if each.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_paths_of_settings_are_cut(store: FeatureStore, tmp_path: Path) -> None:
    shown = page(store, tmp_path / "out")
    assert "weights.pt" in shown.text
    assert "/home/someone" not in shown.source
    assert str(tmp_path) not in shown.source
    assert "my store" in shown.text


def test_pictures_are_small_and_of_committed_slides(fake: SimpleNamespace, store: FeatureStore, tmp_path: Path) -> None:
    images = [each for tag, each in page(store, tmp_path / "out").tags if tag == "img" and "src" in each]
    assert {each["alt"] for each in images} == {"a.svs", fake.NASTY, "c.svs", "e.svs"}
    assert all(len(each["src"]) * 3 / 4 < 12_500 for each in images)


def test_newest_outcome_wins(fake: SimpleNamespace, tmp_path: Path) -> None:
    once, now_bad = fake.FakeSlide("once.svs", "failed", "a disk that slept"), fake.FakeSlide("now-bad.svs", seed=2)
    store = fake.build_store(tmp_path / "store", [once, now_bad])
    fake.write_run(store, "20260102T010000Z", [fake.outcome_of(once)])
    assert page(store, tmp_path / "out").rows() == {"once.svs": "failed", "now-bad.svs": "committed"}
    repaired = fake.FakeSlide("once.svs", seed=1)
    fake.commit_slide(store, repaired)
    broken = fake.FakeSlide("now-bad.svs", "failed", "the file is gone")
    fake.write_run(store, "20990103T010000Z", [fake.outcome_of(repaired, 9), fake.outcome_of(broken)])
    shown = page(store, tmp_path / "out")
    assert shown.rows() == {"once.svs": "committed", "now-bad.svs": "failed"}
    assert "a disk that slept" not in shown.text
    assert "the file is gone (Features of an earlier run are in the store.)" in shown.text


def test_what_a_killed_run_committed_counts(fake: SimpleNamespace, tmp_path: Path) -> None:
    slide = fake.FakeSlide("a.svs", seed=1)
    store = fake.build_store(tmp_path / "store", [fake.FakeSlide("a.svs", "failed", "first try")])
    fake.commit_slide(store, slide)  # after the failure, and never logged
    fake.write_run(store, "20260102T010000Z", [], finished=False, slides=4)
    shown = page(store, tmp_path / "out")
    assert shown.rows() == {"a.svs": "committed"}
    assert "killed or running" in shown.text
    assert "is not finished" in shown.text


def test_failures_told_at_the_end_of_a_run_count(fake: SimpleNamespace, store: FeatureStore, tmp_path: Path) -> None:
    fake.write_run(store, "20260102T010000Z", [], failures={"late.svs": "the run ended before its turn. Run again."})
    shown = page(store, tmp_path / "out")
    assert shown.rows()["late.svs"] == "failed"
    assert "ended before its turn" in shown.text


def test_said_to_be_done_and_not_in_the_store(fake: SimpleNamespace, store: FeatureStore, tmp_path: Path) -> None:
    fake.write_run(store, "20260102T010000Z", [fake.outcome_of(fake.FakeSlide("ghost.svs"), 7)])
    assert page(store, tmp_path / "out").rows()["ghost.svs"] == "failed"


def test_damaged_data_are_told_and_do_not_stop_the_page(
    fake: SimpleNamespace, store: FeatureStore, tmp_path: Path
) -> None:
    record = store.records(fake.FEATURES)["a.svs"]
    for file in (store.data / record.facts["tissue_group"] / "thumbnail_jpeg").glob("c*"):
        file.write_bytes(b"rubbish")
    shown = page(store, tmp_path / "out")
    assert "its picture cannot be made" in shown.text
    assert shown.rows()["a.svs"] == "committed"


def test_an_empty_store(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "store")
    store.initialise()
    shown = page(store, tmp_path / "out")
    assert shown.facts()["slides"] == "0"
    assert "No slide has been extracted yet" in shown.text


def test_a_run_in_which_all_failed_can_be_named(fake: SimpleNamespace, tmp_path: Path) -> None:
    store = fake.build_store(tmp_path / "store", [fake.FakeSlide("a.svs", "failed", "bad")])
    shown = page(store, tmp_path / "out", features=str(fake.FEATURES).removeprefix("features-"))
    assert shown.rows() == {"a.svs": "failed"}


def test_the_set_of_the_model_is_shown_first(
    fake: SimpleNamespace, store: FeatureStore, model: Path, tmp_path: Path
) -> None:
    fake.write_run(store, "20260105T010000Z", [], features=str(SetName("features", "other-1px-1mpp", "d" * 12)))
    shown = page(store, tmp_path / "out", models=[model])
    assert shown.facts()["slides"] == "5"
    with pytest.raises(UsageError, match="no such set"):
        write_report(store.root, tmp_path / "out", features="nothing")


def test_models(fake: SimpleNamespace, store: FeatureStore, model: Path, tmp_path: Path) -> None:
    shown = page(store, tmp_path / "out", models=[model])
    assert "abmil" in shown.text
    assert "95 % interval 0.742 to 0.951" in shown.text
    assert shown.source.count("Attention over slide") == 3  # the surest neg, the surest pos, the error
    assert "surest error" in shown.text
    assert "P-1" in shown.text
    assert "case-1" in shown.text  # the label table's case, where the store has none
    assert shown.source.count("<polyline") == 1


def test_several_classes_and_models(
    fake: SimpleNamespace, store: FeatureStore, model: Path, labels: dict[str, str], tmp_path: Path
) -> None:
    classes = ("pos", "neg", "other")
    second = fake.build_model(tmp_path / "second", store, labels, classes=classes)
    shown = page(store, tmp_path / "out", models=[model, second])
    assert shown.source.count("<polyline") == 1 + 3
    assert "other against the rest" in shown.text
    assert shown.source.count('href="#model-') == 2


def test_a_model_of_another_set_is_warned_of(store: FeatureStore, model: Path, tmp_path: Path) -> None:
    told = json.loads((model / "crossval.json").read_text())
    told["context"]["features"] = "uni-224px-0.5mpp-0123456789ab"
    (model / "crossval.json").write_text(json.dumps(told))
    shown = page(store, tmp_path / "out", models=[model])
    assert "Trained on features uni-224px-0.5mpp-0123456789ab" in shown.text
    assert "Attention over slide" not in shown.source


def test_attention_of_other_tiles_is_warned_of(store: FeatureStore, model: Path, tmp_path: Path) -> None:
    np.savez(model / "attention.npz", **{"a.svs": np.ones(2, np.float32)})
    shown = page(store, tmp_path / "out", models=[model])
    assert "2 attention values, but" in shown.text


@pytest.mark.parametrize("content", [b"", b"no zip at all"])
def test_without_attention_the_scores_stand(store: FeatureStore, model: Path, tmp_path: Path, content: bytes) -> None:
    (model / "attention.npz").write_bytes(content)
    assert "0.861" in page(store, tmp_path / "out", models=[model]).text


def test_bad_model_folders(store: FeatureStore, model: Path, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    with pytest.raises(UsageError, match=r"crossval\.json is needed, a folder without it"):
        write_report(store.root, tmp_path / "out", models=[tmp_path / "bare"])
    with pytest.raises(UsageError, match="nothing was found"):
        write_report(store.root, tmp_path / "out", models=[tmp_path / "absent"])
    for text, told in (("{", "no JSON"), ("[]", "not as"), ('{"scores": {"auroc": 1}}', "not as")):
        (model / "crossval.json").write_text(text)
        with pytest.raises(UsageError, match=told):
            write_report(store.root, tmp_path / "out", models=[model])


def test_bad_places(store: FeatureStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="a file was found"):
        write_report(store.root, tmp_path / "file")
    with pytest.raises(UsageError, match="cannot write there"):
        write_report(store.root, tmp_path / "file" / "below")
    with pytest.raises(UsageError, match="a store is needed"):
        write_report(tmp_path / "nowhere", tmp_path / "out")


def test_the_page_is_written_whole_or_not_at_all(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_report(store.root, tmp_path / "out")
    before = path.read_bytes()

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "replace_file", full)
    with pytest.raises(UsageError, match="No space left"):
        write_report(store.root, tmp_path / "out")
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == ["report.html"]


def test_many_slides_are_paged(fake: SimpleNamespace, tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "store")
    store.initialise()
    many = [fake.FakeSlide(f"{index:04}.svs", "failed", "bad") for index in range(501)]
    fake.write_run(store, "20260101T010000Z", [fake.outcome_of(slide) for slide in many])
    shown = page(store, tmp_path / "out")
    assert len(shown.rows()) == 501
    assert 'data-page="100"' in shown.source


def test_importing_reports_loads_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, pathotune_pipeline.reports.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_pictures_share_what_room_the_page_has(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pictures() -> list[str]:
        return [each["src"] for tag, each in page(store, tmp_path / "out").tags if tag == "img" and "src" in each]

    large = pictures()
    monkeypatch.setattr(report, "ALL_PICTURE_BYTES", 5 * 1200)  # five slides
    small = pictures()
    assert len(small) == len(large) == 4
    assert max(len(each) * 3 / 4 for each in small) < 1300 < min(len(each) * 3 / 4 for each in large)
    monkeypatch.setattr(report, "ALL_PICTURE_BYTES", 5 * 999)
    assert pictures() == []
    assert "5 slides are too many for pictures" in page(store, tmp_path / "out").text
