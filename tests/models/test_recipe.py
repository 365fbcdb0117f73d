"""What a model folder says of its features is enough to make them again, and no more than that."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pathotune_pipeline.encoders.create import create_encoder
from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.features.plan import ExtractSpec, make_recipe
from pathotune_pipeline.models.recipe import FeatureRecipe, recipe_of_spec


def recipe_for(**sections: dict[str, object]) -> FeatureRecipe:
    spec = ExtractSpec.parse(sections)
    encoder = create_encoder(spec.encoder)
    return recipe_of_spec(make_recipe(spec, encoder.card, encoder.recipe()))


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"tiles": {"mpp": 1.0, "tile_px": 128, "overlap_px": 16, "stain": "macenko"}},
        {"tissue": {"min_chroma": 20.0}, "slide": {"color": "srgb", "allow_fluorescence": True}},
        {"encoder": {"precision": "bf16"}, "tiles": {"max_tiles": 50, "sample_seed": 4}},
    ],
)
def test_the_recipe_makes_the_same_set_again(sections: dict[str, dict[str, object]]) -> None:
    made = recipe_for(**sections)
    spec = made.extract_spec({})
    encoder = create_encoder(spec.encoder)
    assert recipe_of_spec(make_recipe(spec, encoder.card, encoder.recipe())) == made
    assert FeatureRecipe.of_dict(made.as_dict()) == made


def test_what_belongs_to_the_training_slides_or_machine_stays_behind() -> None:
    made = recipe_for(
        slide={"mpp_override": 0.3, "allow_odd_mpp": True, "reader": "openslide"},
        engine={"threads": 3},
        encoder={"batch_size": 7, "device": "cpu"},
    )
    spec = made.extract_spec({"engine": {"threads": 2}, "slide": {"mpp_override": 0.7}})
    assert (spec.slide.mpp_override, spec.slide.allow_odd_mpp, spec.slide.reader) == (0.7, False, None)
    assert (spec.engine.threads, spec.encoder.batch_size) == (2, ExtractSpec().encoder.batch_size)


def test_what_differs_is_told_by_name() -> None:
    one, other = recipe_for(), recipe_for(tiles={"mpp": 1.0}, encoder={"precision": "bf16"})
    assert one.fingerprint != other.fingerprint
    told = one.differences(other)
    assert "mpp: 0.5 / 1.0" in told
    assert "encoder.precision: fp32 / bf16" in told
    assert one.differences(one) == []


def test_recipes_that_cannot_be_followed_say_what_to_do() -> None:
    made = recipe_for()
    with pytest.raises(UsageError, match="imported"):
        replace(made, extraction=None).extract_spec({})
    extraction = made.extraction or {}
    regions = replace(made, extraction={**extraction, "regions": {"annotations": "(given)", "roi": ["Tumor"]}})
    with pytest.raises(UsageError, match="--annotations DIR"):
        regions.extract_spec({})
    assert regions.extract_spec({"regions": {"annotations": "a"}}).regions.roi == ("Tumor",)
    local = replace(made, extraction={**extraction, "encoder": {"name": "local:bundle"}})
    with pytest.raises(UsageError, match="--encoder local:PATH"):
        local.extract_spec({})
    assert local.extract_spec({"encoder": {"name": "local:/b/bundle"}}).encoder.name == "local:/b/bundle"
