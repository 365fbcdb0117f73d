"""`pathotune encoders`: what it prints, what it writes, and its exit codes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pathotune_pipeline.cli import encoders as command
from pathotune_pipeline.cli.main import main
from pathotune_pipeline.encoders.catalogue import CatalogueCard
from pathotune_pipeline.encoders.check import check_tiles
from tests.encoders.conftest import as_safetensors, filled, in_cache

Said = pytest.CaptureFixture[str]


def call(said: Said, *words: object) -> tuple[int, str, str]:
    try:
        code = main(["encoders", *map(str, words)])
    except SystemExit as stop:
        code = int(stop.code or 0)
    found = said.readouterr()
    return code, found.out, found.err


@pytest.fixture
def cached(hub: Path, toy: CatalogueCard) -> Path:
    in_cache(hub, "lab/toy", {"model.safetensors": as_safetensors(filled(toy))})
    return hub


def test_the_list_has_a_line_for_each_and_says_what_is_here(capsys: Said, hub: Path) -> None:
    in_cache(hub, "MahmoodLab/UNI2-h", {"pytorch_model.bin": b"weights"})
    code, out, _ = call(capsys, "list")
    tiles, slides = out.split("\nSlide encoders")
    lines, of_slides = (
        {line.split()[0]: line.split() for line in part.splitlines() if line} for part in (tiles, slides)
    )
    assert code == 0
    assert of_slides["titan"] == ["titan", "768", "conch-v1.5", "CC-BY-NC-ND-4.0", "yes", "keys", "no"]
    assert lines["uni2-h"][-3:] == ["yes", "keys", "yes"]
    assert lines["uni"][-3:] == ["yes", "keys", "no"]
    assert "256 to 224" in " ".join(lines["uni"])
    assert "256 cut 224" in " ".join(lines["gigapath"])
    found = json.loads(call(capsys, "list", "--json")[1])
    assert {card["name"]: card["cached"] for card in found if card["cached"]} == {"uni2-h": True}


def test_show_names_the_sources(capsys: Said, hub: Path) -> None:
    code, out, _ = call(capsys, "show", "uni_v1")
    assert code == 0
    assert "mahmoodlab/UNI@" in out
    assert "init_values=1e-05" in out
    assert json.loads(call(capsys, "show", "uni", "--json")[1])["dim"] == 1024
    assert "ModalTune@" in call(capsys, "show", "titan")[1]
    shown = [
        json.loads(call(capsys, "show", name, "--json")[1])["architecture"] for name in ("gigapath", "gigapath-slide")
    ]
    assert shown == ["vit_giant_patch14_dinov2", "longnet"]


def test_fetch_then_check_the_bundle_against_a_reference(capsys: Said, tmp_path: Path, cached: Path) -> None:
    code, out, _ = call(capsys, "fetch", "toy", "--to", tmp_path / "bundles")
    assert code == 0
    assert "--encoder local:" in out
    bundle, reference = tmp_path / "bundles" / "toy", tmp_path / "toy.npz"
    code, out, _ = call(capsys, "check", "toy", "--weights", bundle, "--write-reference", reference)
    assert code == 0
    assert "toy: passed" in out
    assert "publisher's transform" in out
    code, out, _ = call(capsys, "check", f"local:{bundle}", "--reference", reference, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["passed"]
    assert [one["against"] for one in found["comparisons"]] == ["the publisher's transform", "the reference toy.npz"]
    assert all(one["cosine"] >= 0.9999 for one in found["comparisons"])


def test_an_extraction_from_a_bundle_is_not_done_again_when_the_bundle_moves(
    capsys: Said, tmp_path: Path, cached: Path, small_archive: Path
) -> None:
    call(capsys, "fetch", "toy", "--to", tmp_path / "bundles")
    shutil.rmtree(cached)
    counts = []
    for place in ("bundles", "moved"):
        if place == "moved":
            (tmp_path / "bundles").rename(tmp_path / "moved")
        words = (
            "--slides",
            small_archive / "case-1",
            "--store",
            tmp_path / "store",
            "--encoder",
            f"local:{tmp_path / place}/toy",
        )
        assert main([str(word) for word in ("extract", *words, "--mpp", 1, "--executor", "serial", "--json")]) == 0
        result = json.loads(capsys.readouterr().out)
        counts.append(result["counts"])
        assert result["features"].startswith("toy-80px-1mpp-")
    assert [count["computed"] for count in counts] == [2, 0]
    assert counts[0]["tiles"] == counts[1]["tiles"] > 0
    names = [path for path in (tmp_path / "store").rglob("*.json") if str(tmp_path / "bundles") in path.read_text()]
    assert not names


def test_other_weights_fail_the_reference(capsys: Said, tmp_path: Path, cached: Path, toy: CatalogueCard) -> None:
    reference = tmp_path / "toy.npz"
    assert call(capsys, "check", "toy", "--write-reference", reference)[0] == 0
    (tmp_path / "other.safetensors").write_bytes(as_safetensors(filled(toy, seed=1)))
    code, out, _ = call(capsys, "check", "toy", "--weights", tmp_path / "other.safetensors", "--reference", reference)
    assert code == command.FAILED
    assert "DIFFERENT" in out
    assert "toy: FAILED" in out


def test_a_wrong_crop_fails_the_publishers_transform(
    capsys: Said, cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pathotune_pipeline.encoders import encoder

    monkeypatch.setattr(encoder, "_cut_centre", lambda pixels, side: pixels[..., :side, :side])
    code, out, _ = call(capsys, "check", "toy")
    assert code == command.FAILED
    assert "DIFFERENT  as by the publisher's transform" in out


def test_references_that_are_none_or_of_another_are_refused(capsys: Said, tmp_path: Path, cached: Path) -> None:
    (tmp_path / "bad.npz").write_bytes(b"no")
    facts = np.array(json.dumps({"encoder": "uni"}))
    np.savez(tmp_path / "uni.npz", features=np.zeros((8, 64), np.float32), facts=facts)
    for name, message in (
        ("bad.npz", "is no reference"),
        ("uni.npz", "Give its own reference"),
        ("x/y.npz", "is not there"),
    ):
        code, _, err = call(capsys, "check", "toy", "--reference", tmp_path / name)
        assert code == 2
        assert message in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("show", "uni3"), "Did you mean 'uni"),
        (("fetch", "uni", "--to", "X"), "huggingface.co/MahmoodLab/UNI"),
        (("fetch", "pathoduet", "--to", "X"), "no program can fetch"),
        (("check", "uni"), "--weights PATH"),
        (("lst",), "invalid choice"),
    ],
)
def test_wrong_calls_are_one_line_and_write_nothing(
    capsys: Said, tmp_path: Path, hub: Path, words: tuple, message: str
) -> None:
    code, _, err = call(capsys, *(tmp_path / word if word == "X" else word for word in words))
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "X").exists()


def test_stain_texture_is_checked_by_reference_alone(capsys: Said, tmp_path: Path) -> None:
    reference = tmp_path / "st.npz"
    assert call(capsys, "check", "stain-texture", "--write-reference", reference, "--device", "cpu")[0] == 0
    code, out, _ = call(capsys, "check", "stain-texture", "--reference", reference, "--device", "cpu")
    assert code == 0
    assert "publisher" not in out


def test_the_tiles_of_checks_never_change() -> None:
    """A stored reference of another lab is worth nothing once these change."""
    import hashlib

    tiles = check_tiles(64, 2)
    assert (tiles.shape, tiles.dtype) == ((2, 64, 64, 3), np.uint8)
    assert tiles.std() > 20
    assert hashlib.sha256(tiles.tobytes()).hexdigest()[:16] == "c805f60b180f7083"
