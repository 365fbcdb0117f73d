"""Fingerprints: what changes them, what does not, and their golden values."""

from __future__ import annotations

import pytest

from pathotune_pipeline.encoders.card import EncoderCard, EncoderSpec
from pathotune_pipeline.features.plan import ExtractSpec, Recipe, deviations, make_recipe

CARD = EncoderCard(name="toy", source="built-in", architecture="toy", dim=8, tile_px=256, mpp=0.5)


def recipe(card: EncoderCard = CARD, made: dict | None = None, **settings: object) -> Recipe:
    return make_recipe(ExtractSpec.parse(settings), card, made or {"revision": 1})


def prints(**settings: object) -> tuple[str, str, str]:
    found = recipe(**settings).fingerprints("0" * 64, None)
    return found.tissue, found.tiles, found.features


BASE = prints()


def test_golden_fingerprints() -> None:
    """A change here makes every lab compute its archive anew: raise a stage's REVISION on purpose, never by accident."""
    assert [value[:12] for value in BASE] == ["00855c21bc7c", "0cfa2b7828fd", "9eae8451c781"]


@pytest.mark.parametrize(
    "settings",
    [
        {"encoder": {"batch_size": 7, "device": "cpu"}},
        {"slide": {"reader": "openslide", "allow_odd_mpp": True}},
        {"engine": {"threads": 3, "max_invalid": 0.5, "compile": "default"}},
        {"encoder": {"also": ["other"]}},
        {"tiles": {"mpp": 0.5, "tile_px": 256}},
    ],
)
def test_what_does_not_decide_the_result_is_not_hashed(settings: dict) -> None:
    assert prints(**settings) == BASE


def test_each_stage_depends_on_those_before_it() -> None:
    tissue = prints(tissue={"min_chroma": 20.0})
    assert all(a != b for a, b in zip(tissue, BASE, strict=True))
    light = prints(slide={"allow_fluorescence": True})
    assert light[0] == BASE[0]
    assert light[1] != BASE[1]
    assert light[2] != BASE[2]
    tiles = prints(tiles={"tile_px": 512})
    assert tiles[0] == BASE[0]
    assert tiles[1] != BASE[1]
    assert tiles[2] != BASE[2]
    other = recipe(made={"revision": 2}).fingerprints("0" * 64, None)
    assert (other.tissue, other.tiles) == BASE[:2]
    assert other.features != BASE[2]


def test_identity_and_a_given_mpp_enter_a_slides_fingerprints_but_not_the_sets_name() -> None:
    made = recipe()
    one = made.fingerprints("0" * 64, None)
    assert made.fingerprints("1" * 64, None).tissue != one.tissue
    assert made.fingerprints("0" * 64, 0.25).tissue != one.tissue
    assert recipe(slide={"mpp_override": 0.25}).features_set == made.features_set


def test_names_are_readable() -> None:
    made = recipe(tiles={"mpp": 0.25, "tile_px": 224})
    assert str(made.features_set).startswith("features-toy-224px-0.25mpp-")
    hub = CARD.with_values(name="hf-hub:org/name")
    assert recipe(card=hub).features_set.label == "hf-hub.org.name-256px-0.5mpp"


def test_a_card_that_is_only_renamed_makes_the_same_features() -> None:
    assert CARD.with_values(name="other", licence="MIT").recipe() == CARD.recipe()
    assert CARD.with_values(dim=9).recipe() != CARD.recipe()


def test_a_deviation_from_the_card_is_said() -> None:
    assert deviations(recipe()) == []
    card = CARD.with_values(input_px=224, tile_px=224)
    assert len(deviations(recipe(card=card, tiles={"mpp": 1.0, "tile_px": 256}))) == 2


def test_of_tiles_that_are_cut_the_recommended_side_is_what_counts() -> None:
    card = CARD.with_values(input_px=224, resize_px=256, tile_px=256)
    assert deviations(recipe(card=card)) == []
    assert deviations(recipe(card=card, tiles={"tile_px": 512})) == [
        "toy was made for tiles of 256 px; those of 512 px are resized to 256."
    ]


def test_resize_and_pooling_enter_the_recipe_only_where_a_card_has_them() -> None:
    assert not {"resize_px", "pooling"} & set(CARD.recipe())
    assert CARD.with_values(pooling="cls").recipe()["pooling"] == "cls"
    assert CARD.with_values(resize_px=256).recipe()["resize_px"] == 256


def test_records_hold_no_folder_of_weights() -> None:
    for encoder in ({"name": "uni", "weights": "/home/jane.doe/uni.pth"}, {"name": "local:/home/jane.doe/uni"}):
        recorded = ExtractSpec.parse({"encoder": encoder}).recorded()["encoder"]
        assert "jane" not in str(recorded)
        assert "uni" in str(recorded)


def test_where_weights_lie_is_not_hashed() -> None:
    assert prints(encoder={"name": "uni", "weights": "a.pth"}) == BASE  # the card brings the digest of what was loaded


def test_precision_is_part_of_the_recipe() -> None:
    torch = pytest.importorskip("torch")
    from pathotune_pipeline.encoders.encoder import Encoder

    module = torch.nn.Identity()
    fp32 = Encoder(module, CARD, EncoderSpec(), torch.device("cpu")).recipe()
    bf16 = Encoder(module, CARD, EncoderSpec(precision="bf16"), torch.device("cpu")).recipe()
    assert fp32 != bf16


def test_filters_and_caps_decide_tiles_and_stain_only_features() -> None:
    for tiles in ({"max_tiles": 100}, {"max_white": 0.5}, {"max_black": 0.5}, {"min_sharpness": 50.0}):
        assert prints(tiles=tiles)[1] != BASE[1]
    assert prints(tiles={"max_tiles": 100}) != prints(tiles={"max_tiles": 100, "sample_seed": 1})
    assert prints(tiles={"max_white": 0.5}) != prints(tiles={"max_white": 0.5, "filter_mpp": 4.0})
    assert prints(tiles={"sample_seed": 1, "filter_mpp": 4.0}) == BASE  # of what is off, nothing depends on it
    macenko, reinhard = prints(tiles={"stain": "macenko"}), prints(tiles={"stain": "reinhard"})
    assert macenko[:2] == reinhard[:2] == BASE[:2]
    assert len({macenko[2], reinhard[2], BASE[2]}) == 3


def test_masks_annotations_and_segmenters_enter_where_they_act_and_nowhere_else(tmp_path) -> None:
    from pathotune_pipeline.features.guidance import AnnotationFile, Guidance
    from pathotune_pipeline.store.masks import MaskPointer

    plain, zeros = recipe(), "0" * 64
    mask = Guidance(MaskPointer("a" * 64, zeros))
    masked = plain.fingerprints(zeros, None, mask)
    assert masked.tissue != BASE[0]
    assert masked.features != BASE[2]
    assert recipe(tissue={"min_chroma": 20.0}).fingerprints(zeros, None, mask) == masked
    assert plain.fingerprints("1" * 64, None, mask) == plain.fingerprints("1" * 64, None)

    regions = {"annotations": str(tmp_path), "roi": ["B", "A"]}
    made = recipe(regions=regions)
    assert made.tissue_set == plain.tissue_set
    assert made.features_set != plain.features_set
    assert recipe(regions={**regions, "roi": ["A", "B"], "missing": "whole"}).features_set == made.features_set
    assert recipe(regions={**regions, "annotations": "elsewhere"}).features_set == made.features_set
    one, other = (
        made.fingerprints(zeros, None, Guidance(None, AnnotationFile(tmp_path, digest))) for digest in ("1", "2")
    )
    assert one.tissue == other.tissue == BASE[0]
    assert one.tiles != other.tiles

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "n.pt").write_bytes(b"network")
        (tmp_path / name / "n.json").write_text('{"mpp": 4}')
    first, second = (recipe(tissue={"segmenter": f"network:{tmp_path / name / 'n.pt'}"}) for name in ("a", "b"))
    assert first.tissue_set == second.tissue_set
    assert first.tissue_set.label == "network-8mpp"
    assert first.fingerprints(zeros, None).tissue != BASE[0]
    assert recipe(tissue={"segmenter_device": "cpu"}).fingerprints(zeros, None).tissue == BASE[0]


def test_colour_handling_enters_tissue_and_features_and_quality_thresholds_nothing() -> None:
    srgb = prints(slide={"color": "srgb"})
    assert all(a != b for a, b in zip(srgb, BASE, strict=True))
    assert prints(slide={"color": "raw"}) == BASE
    assert prints(quality={"max_pen": 0.5}) == BASE
    assert prints(slide={"allow_fluorescence": True})[0] == BASE[0]
    assert prints(slide={"allow_fluorescence": True})[1] != BASE[1]
