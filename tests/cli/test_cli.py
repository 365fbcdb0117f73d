"""Commands as a new user calls them, wrong ones too: one clear line, exit code 2, no traceback, nothing written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pathotune_pipeline.cli.main import VERBS, main


def call(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    try:
        code = main([str(word) for word in words])
    except SystemExit as stop:
        code = int(stop.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    code, out, _ = call(capsys, verb, "--help")
    assert code == 0
    assert f"pathotune {verb}" in out
    assert "example:" in out.lower()
    assert len(out.splitlines()) > 5


def test_the_front_page(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "--help")
    assert code == 0
    assert all(verb in out for verb in VERBS)
    assert call(capsys)[0] == 2
    assert call(capsys, "--version")[1].startswith("pathotune 0")


WRONG = [
    (("extrac",), "Did you mean 'extract'"),
    (("extract",), "--store"),
    (("extract", "--store", "S"), "--slides"),
    (("extract", "--store", "S", "--slides", "ABSENT"), "ABSENT"),
    (("extract", "--store", "S", "--slides", "EMPTY"), "no slide was found"),
    (("extract", "--store", "S", "--slides", "A", "--encoder", "stain-textur"), "Did you mean 'stain-texture'"),
    (("extract", "--store", "S", "--slides", "A", "--encoder", "virchow3"), "Did you mean 'virchow"),
    (("extract", "--store", "S", "--slides", "A", "--weights", "a.pth"), "--weights goes with"),
    (
        ("extract", "--store", "S", "--slides", "A", "--encoder", "uni", "--weights", "ABSENT"),
        "neither a file nor a folder",
    ),
    (("extract", "--store", "S", "--slides", "A", "--mpp", "0"), "greater than 0"),
    (("extract", "--store", "S", "--slides", "A", "--mpp", "nan"), "mpp"),
    (("extract", "--store", "S", "--slides", "A", "--mpp", "half"), "invalid float value"),
    (("extract", "--store", "S", "--slides", "A", "--mpp", "1", "--mag", "20"), "Keep one"),
    (("extract", "--store", "S", "--slides", "A", "--mag", "-5"), "above 0"),
    (("extract", "--store", "S", "--slides", "A", "--overlap-px", "256"), "less than the tile's side"),
    (("extract", "--store", "S", "--slides", "A", "--min-tissue", "2"), "less than or equal to 1"),
    (("extract", "--store", "S", "--slides", "A", "--set", "tiles.mp=1"), "Did you mean 'mpp'"),
    (("extract", "--store", "S", "--slides", "A", "--set", "tile.mpp=1"), "Did you mean 'tiles'"),
    (("extract", "--store", "S", "--slides", "A", "--set", "tiles.mpp"), "section.key=value"),
    (("extract", "--store", "S", "--slides", "A", "--config", "ABSENT"), "cannot be read"),
    (("extract", "--store", "S", "--slides", "A", "--config", "BAD.yaml"), "Did you mean 'tile_px'"),
    (("extract", "--store", "S", "--slides", "A", "--executor", "locl"), "serial, local"),
    (("extract", "--store", "S", "--slides", "A", "--device", "cuda:7"), "cuda:7"),
    (("extract", "--store", "S", "--slides", "A", "--pseudonymise", "ABSENT"), "key file"),
    (("extract", "--store", "FULL", "--slides", "A"), "holds other things"),
    (("extract", "--store", "S", "--slides", "A", "--manifest", "BAD.csv"), "no column says where"),
    (("extract", "--store", "S", "--slides", "A", "--encoder", "local:ABSENT"), "nothing lies at"),
    (
        ("crossval", "--store", "ABSENT", "--features", "x", "--labels", "L", "--target", "t", "--out", "O"),
        "a store is needed",
    ),
    (("report", "--store", "ABSENT", "--out", "O"), "a store is needed"),
    (("status", "--store", "EMPTY"), "a store is needed"),
    (("tissue", "export", "--store", "ABSENT", "--out", "O"), "a store is needed"),
    (("tissue", "import", "--store", "EMPTY"), "--masks --revert is required"),
    (("extract", "--store", "S", "--slides", "A", "--roi", "Tumor"), "--roi Tumor needs --annotations"),
    (("extract", "--store", "S", "--slides", "A", "--annotations", "ABSENT"), "there is no such folder"),
    (("extract", "--store", "S", "--slides", "A", "--segmenter", "netwrk:a"), "Did you mean 'network'"),
    (("extract", "--store", "S", "--slides", "A", "--segmenter", "network:a.pt"), "nothing lies there"),
    (("extract", "--store", "S", "--slides", "A", "--config", "BYTES"), "is no text"),
    (
        ("extract", "--store", "S", "--slides", "A", "--encoder", "a", "--encoder", "b", "--adapter", "f"),
        "pathotune: encoder: --adapter goes with one encoder, and a, b were asked for",
    ),
    (("study", "scaling", "--study", "BYTES", "--out", "O"), "is no text"),
    (("study", "scaling", "--study", "BAD.yaml", "--out", "O"), "there is no setting 'tiles'"),
    (("adapt", "--patches", "BAD.csv", "--method", "linear", "--out", "O"), "none of the columns"),
    (("adapt", "--patches", "BAD.csv", "--out", "O"), "Name an encoder that has, with --encoder"),
    (("adapt", "--method", "linear", "--out", "O"), "name the labelled patches"),
    (
        ("adapt", "--patches", "BAD.csv", "--text-template", "{stian}", "--out", "O"),
        "Did you mean 'stain'? Known: stain",
    ),
    (("merge-lora", "--lora", "EMPTY", "--out", "O"), "is a folder"),
    (("merge-lora", "--lora", "ABSENT", "--out", "FULL"), "is there already"),
    (("pretrain", "mae", "--out", "O"), "nothing to learn from"),
    (("pretrain", "mae", "--config", "BAD.yaml", "--out", "O"), "Did you mean 'tile_px'"),
    (("flow", "run", "extrac"), "invalid choice"),
    (("demo", "--patients", "3"), "at least 24"),
    (("demo", "--slides-only", "--patients", "1"), "at least 2 patients"),
    (("demo", "--slides-only", "--seed", "-1"), "a seed is 0 or more"),
    (("info",), "PATH"),
    (("audit",), "--slides"),
    (("audit", "--slides", "EMPTY"), "no slide was found"),
    (("audit", "--slides", "A", "--out", "ABSENT/m.csv"), "--out"),
    (("audit", "--slides", "A", "--time-limit", "0"), "greater than 0"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[" ".join(words)[:60] for words, _ in WRONG])
def test_a_wrong_call_is_one_clear_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, small_archive: Path, words: tuple[str, ...], message: str
) -> None:
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "FULL").mkdir()
    (tmp_path / "FULL" / "thesis.docx").touch()
    (tmp_path / "BYTES").write_bytes(bytes([200, 0, 255]))
    (tmp_path / "BAD.csv").write_text("name\nx\n")
    (tmp_path / "BAD.yaml").write_text("tiles:\n  tile_pix: 256\n")
    (tmp_path / "A").symlink_to(small_archive)
    places = {"ABSENT", "EMPTY", "FULL", "A", "S", "O", "L", "BAD.csv", "BAD.yaml", "BYTES"}
    plain = [str(tmp_path / word) if word in places else word.replace("local:", f"local:{tmp_path}/") for word in words]
    code, out, err = call(capsys, *plain)
    assert code == 2, (out, err)
    assert message in err
    told = [line for line in err.strip().splitlines() if not line.startswith("--mag")]
    assert len(told) == 1, err
    assert "Traceback" not in err
    assert not out


def test_magnification_says_which_mpp_it_took(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, small_archive: Path
) -> None:
    words = (
        "extract",
        "--slides",
        small_archive / "case-1",
        "--store",
        tmp_path / "s",
        "--mag",
        10,
        "--executor",
        "serial",
    )
    code, out, err = call(capsys, *words, "--patch-size", 128, "--patch-encoder", "stain-texture")
    assert code == 0, err
    assert "--mag 10 is taken as 1 um/px" in err
    assert "stain-texture-128px-1mpp" in out


def test_settings_go_over_each_other(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("tiles:\n  mpp: 1.0\n  min_tissue: 0.5\n")
    code, out, _ = call(capsys, "config", "--config", file, "--set", "tiles.mpp=2")
    assert code == 0
    assert "mpp: 2.0" in out
    assert "min_tissue: 0.5" in out
    assert call(capsys, "config")[1].startswith("# Every setting")


def test_info_status_and_doctor_speak_json(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, small_archive: Path
) -> None:
    code, out, _ = call(
        capsys, "info", small_archive / "case-0" / "s0.tif", small_archive / "case-0" / "broken.svs", "--json"
    )
    assert code == 3
    good, bad = json.loads(out)
    assert good["mpp"] == {"x": 0.5, "y": 0.5}
    assert "error" in bad
    call(
        capsys,
        "extract",
        "--slides",
        small_archive,
        "--store",
        tmp_path / "s",
        "--tile-px",
        128,
        "--executor",
        "serial",
    )
    code, out, _ = call(capsys, "status", "--store", tmp_path / "s", "--json", "--verify")
    assert code == 0
    told = json.loads(out)
    assert told["corrupt"] == []
    assert [each["slides"] for each in told["sets"]] == [6, 6, 6]
    assert list(told["runs"][0]["failures"]) == ["case-0%2Fbroken.svs"]
    next((tmp_path / "s").rglob("features/c.0.0")).write_bytes(b"x")
    code, out, _ = call(capsys, "status", "--store", tmp_path / "s", "--verify")
    assert code == 1
    assert "corrupt: " in out
    code, out, _ = call(capsys, "doctor", "--json")
    assert code == 0, out
    assert {check["name"] for check in json.loads(out)} >= {"python", "openslide", "torch", "fastapi", "disk"}


def test_pseudonyms_lead_a_label_table_to_a_pseudonymised_store(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, small_archive: Path
) -> None:
    key, table, out = tmp_path / "k", tmp_path / "labels.csv", tmp_path / "pseudo.csv"
    key.write_text("0123456789abcdef0123456789abcdef")
    table.write_text("slide,patient,grade\n" + "".join(f"s{n},P{n // 2},g{n % 2}\n" for n in range(6)))
    words = ("--slides", small_archive, "--pseudonymise", key)
    call(capsys, "extract", *words, "--store", tmp_path / "s", "--tile-px", 128, "--executor", "serial")
    code, said, err = call(capsys, "pseudonyms", *words, "--labels", table, "--target", "grade", "--out", out)
    assert code == 0, err
    assert "6 slides" in said
    from pathotune_pipeline.archive.table import read_table
    from pathotune_pipeline.store import open_store

    store = open_store(tmp_path / "s")
    rows = read_table(out).rows
    assert {row["slide_id"] for row in rows} == set(store.records(store.sets("features")[0]))
    assert len({row["case_id"] for row in rows}) == 3
    assert "P0" not in out.read_text()


def test_crossval_and_report_from_the_command_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, small_archive: Path
) -> None:
    store, table, model = tmp_path / "s", tmp_path / "labels.csv", tmp_path / "m"
    call(capsys, "extract", "--slides", small_archive, "--store", store, "--tile-px", 128, "--executor", "serial")
    table.write_text(
        "FILENAME,PATIENT,grade\n" + "".join(f"s{n}.h5,P{n},g{n % 2}\n" for n in range(6)) + "s9.h5,P9,g1\n"
    )
    words = ("crossval", "--store", store, "--features", "stain-texture", "--labels", table, "--target", "grade")
    fast = ("--set", "crossval.train={epochs: 2, min_epochs: 0}", "--folds", 2, "--seeds", 1, "--val-share", 0.4)
    code, out, err = call(capsys, *words, *fast, "--head", "abmil", "--out", model)
    assert code == 0, err
    assert "auroc" in out
    assert "1 rows of the label table have no slide in the set (s9.h5)" in out
    code, _, err = call(capsys, *words, *fast, "--head", "abmil", "--out", model)
    assert code == 2
    assert "--overwrite" in err
    begun = ("--init-from", model / "models" / "seed0-fold0", "--set", "crossval.settings={hidden: 500}")
    code, out, err = call(capsys, *words, *fast, "--head", "clam-sb", *begun, "--out", tmp_path / "clam")
    assert code == 0, err
    assert "note: Every model began from abmil" in out
    code, _, err = call(capsys, *words, "--out", tmp_path / "m2", "--head", "abmill")
    assert code == 2
    assert "Did you mean 'abmil'" in err
    code, out, err = call(capsys, "report", "--store", store, "--model", model, "--out", tmp_path / "r")
    assert code == 0, err
    page = Path(out.strip()).read_text()
    assert "broken.svs" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_masks_go_out_and_corrected_ones_come_back(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, small_archive: Path
) -> None:
    extract = ("extract", "--slides", small_archive / "case-1", "--store", tmp_path / "s", "--executor", "serial")
    assert call(capsys, *extract, "--tile-px", 128)[0] == 0
    code, out, _ = call(capsys, "tissue", "export", "--store", tmp_path / "s", "--out", tmp_path / "m")
    assert (code, out.strip()) == (0, f"{tmp_path / 'm'}: 2 masks")
    told = call(capsys, "tissue", "import", "--store", tmp_path / "s", "--masks", tmp_path / "m")
    assert told[:2] == (0, "0 of 2 masks changed\n")
    ring = [[0, 0], [768, 0], [768, 1536], [0, 1536], [0, 0]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    feature = {"type": "Feature", "geometry": geometry, "properties": {"classification": {"name": "Tissue"}}}
    (tmp_path / "m" / "s2.tif.geojson").write_text(json.dumps(feature))
    (tmp_path / "m" / "s3.tif.geojson").write_text("{")
    code, out, _ = call(capsys, "tissue", "import", "--store", tmp_path / "s", "--masks", tmp_path / "m")
    assert code == 3
    assert "imported  s2.tif: 0.29 mm2 of tissue" in out
    assert "failed    s3.tif: its annotation file is not JSON" in out
    assert "1 of 2 masks changed; run `pathotune extract` again" in out
    code, out, _ = call(capsys, *extract, "--tile-px", 128)
    assert "1 slides computed" in out
    told = call(capsys, "tissue", "import", "--store", tmp_path / "s", "--revert", "--slide", "s2.tif", "--json")
    assert json.loads(told[1])[0]["status"] == "reverted"
    code, out, _ = call(capsys, *extract, "--tile-px", 128)
    assert "work      none" in out


def test_classes_are_given_together_or_one_by_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, small_archive: Path
) -> None:
    ring = [[0, 0], [768, 0], [768, 1536], [0, 1536], [0, 0]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    features = [
        {"type": "Feature", "geometry": geometry, "properties": {"classification": {"name": name}}}
        for name in ("Tumor", "In situ")
    ]
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "s2.geojson").write_text(json.dumps(features))
    words = ("extract", "--slides", small_archive / "case-1", "--store", tmp_path / "s", "--executor", "serial",
             "--annotations", tmp_path / "m", "--annotations-missing", "empty")  # fmt: skip
    code, one, err = call(capsys, *words, "--roi", "Tumor", "--roi", "In situ")
    assert code == 0, err
    assert "1 committed, 1 empty" in one
    code, other, _ = call(capsys, *words, "--roi", "In situ", "Tumor")
    assert code == 0
    assert "work      none" in other


def test_the_audit_tells_of_every_slide(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, small_archive: Path
) -> None:
    code, out, _ = call(capsys, "audit", "--slides", small_archive, "--out", tmp_path / "m.csv", "--jobs", 1)
    assert code == 3
    assert "7: 6 ok, 0 with warnings, 1 refused" in out
    assert "no reader can open it" in out
    assert len((tmp_path / "m.csv").read_text().splitlines()) == 8
    code, out, _ = call(capsys, "audit", "--slides", small_archive / "case-1", "--json")
    assert code == 0
    assert json.loads(out)["counts"] == {"slides": 2, "ok": 2, "warn": 0, "refuse": 0}
