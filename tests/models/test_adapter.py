"""The adapter that a model's folder keeps is the one that its features were made with."""

from __future__ import annotations

from pathlib import Path

import pytest

from pathotune_pipeline.adapt.create import create_adapted_encoder
from pathotune_pipeline.errors import CorruptDataError, UsageError
from pathotune_pipeline.features.plan import ExtractSpec, make_recipe
from pathotune_pipeline.models.adapter import ADAPTER, check_adapter, keep_adapter, kept_adapter
from pathotune_pipeline.models.recipe import FeatureRecipe, recipe_of_spec
from tests.adapt.files import write_adapter
from tests.encoders.checkpoints import write_checkpoint


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder's folder `toy`, an adapter `both` of two texts, and one without."""
    root = tmp_path_factory.mktemp("adapters")
    write_checkpoint(root / "toy")
    write_adapter(root / "both.safetensors", root / "toy", "pathotune", tasks=2)
    write_adapter(root / "plain.safetensors", root / "toy")
    return root


def features_of(place: Path, *adapters: str) -> FeatureRecipe:
    given = tuple(str(place / name) for name in adapters)
    spec = ExtractSpec.parse({"encoder": {"name": f"local:{place / 'toy'}", "adapter": given}})
    encoder = create_adapted_encoder(spec.encoder)
    return recipe_of_spec(make_recipe(spec, encoder.card, encoder.recipe()))


def test_the_number_of_the_text_comes_from_the_features(place: Path, tmp_path: Path) -> None:
    second = features_of(place, "both.safetensors#1")
    file = place / "both.safetensors"
    assert check_adapter(str(file), second) == check_adapter(f"{file}#1", second) == file
    with pytest.raises(UsageError, match=r"made with the adapter's text 1. Give FILE, or FILE#1"):
        check_adapter(f"{file}#0", second)
    assert kept_adapter(tmp_path, second) is None
    keep_adapter(file, tmp_path)
    assert kept_adapter(tmp_path, second) == f"{tmp_path / ADAPTER}#1"


def test_another_adapter_is_refused(place: Path, tmp_path: Path) -> None:
    plain, other = features_of(place, "plain.safetensors"), str(place / "both.safetensors")
    with pytest.raises(UsageError, match="made with adapter plain, SHA-256"):
        check_adapter(f"{other}#0", plain)
    with pytest.raises(UsageError, match=r"without an adapter\. Leave it out"):
        check_adapter(other, features_of(place))
    keep_adapter(place / "plain.safetensors", tmp_path)
    assert kept_adapter(tmp_path, plain) == str(tmp_path / ADAPTER)
    assert kept_adapter(tmp_path, features_of(place)) is None
    write_adapter(tmp_path / ADAPTER, place / "toy", seed=9)
    with pytest.raises(CorruptDataError, match="is not its own"):
        kept_adapter(tmp_path, plain)
