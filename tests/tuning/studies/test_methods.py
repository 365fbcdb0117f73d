from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pathotune_pipeline.encoders.card import EncoderSpec
from pathotune_pipeline.errors import SpecError
from pathotune_pipeline.tuning.patches.patch_set import PatchSet
from pathotune_pipeline.tuning.run.spec import AdaptSpec
from pathotune_pipeline.tuning.studies.file import StudyFile, merged
from pathotune_pipeline.tuning.studies.grid import scaling_grid
from pathotune_pipeline.tuning.studies.methods import PatchFit, stretched
from pathotune_pipeline.tuning.studies.spec import ScalingSpec
from tests.adapt.files import write_adapter
from tests.encoders.checkpoints import write_checkpoint
from tests.tuning.run.conftest import stained


def spec_of(method: str = "lora", **train: object) -> AdaptSpec:
    return AdaptSpec.parse({"method": method, "batch": 32, "train": {"epochs": 10, "warmup_epochs": 2, **train}})


@pytest.mark.parametrize(("images", "epochs"), [(320, 10), (32, 100), (27, 100), (3200, 1), (100_000, 1)])
def test_steps_stay_while_images_get_few(images: int, epochs: int) -> None:
    train = stretched(spec_of(patience=3), images, 100).train
    assert train.epochs == epochs
    assert train.warmup_epochs == round(0.2 * epochs)
    assert train.patience == max(1, -(-3 * epochs // 10))
    assert stretched(spec_of(patience=0), images, 100).train.patience == 0


def test_accumulated_batches_make_one_step() -> None:
    assert stretched(spec_of(accumulate=4), 320, 30).train.epochs == 10


def test_recipes_know_settings_and_steps_but_not_the_seed(patches: PatchSet) -> None:
    encoders = {"texture": EncoderSpec()}

    def recipe(spec: AdaptSpec, steps: int | None = None) -> dict[str, object]:
        (contender,) = PatchFit(patches, encoders, [("texture", "row", spec)], steps=steps).contenders
        return dict(contender.recipe)

    base = recipe(spec_of("linear"))
    assert recipe(spec_of("linear", seed=7)) == base
    assert recipe(spec_of("linear"), steps=50) == base, "a probe is solved, not stepped"
    assert recipe(spec_of("knn")) != base
    assert recipe(spec_of("full"), steps=50) != recipe(spec_of("full"), steps=60)
    assert base["encoder"]["card"]["architecture"] == "stain-texture"


def test_rows_are_methods_on_the_encoders_they_name() -> None:
    file = StudyFile.parse(
        {
            "encoders": {"a": {"name": "stain-texture"}, "b": {"name": "stain-texture", "batch_size": 8}},
            "adapt": {"train": {"epochs": 3}},
            "methods": {
                "net": {"method": "cnn", "cnn": "resnet18"},
                "probe": {"method": "linear"},
                "lora": {"method": "lora", "encoders": ["b"], "train": {"lr": 0.1}},
            },
        }
    )
    rows = file.rows()
    assert [row[:2] for row in rows] == [("a", "probe"), ("b", "probe"), ("b", "lora"), ("", "net")]
    assert {spec.train.epochs for _, _, spec in rows} == {3}
    assert next(spec for _, name, spec in rows if name == "lora").train.lr == 0.1
    assert file.encoder_specs()["b"].batch_size == 8
    with pytest.raises(SpecError, match="needs methods"):
        StudyFile().rows()


def test_settings_go_over_settings_below_them() -> None:
    assert merged({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"c": 4}, "e": 5}) == {"a": {"b": 1, "c": 4}, "d": 3, "e": 5}


def test_encoders_with_adapters_are_judged_by_probes_alone(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "toy")
    write_adapter(tmp_path / "prompts.safetensors", tmp_path / "toy", "vpt-deep")
    plain = {"name": f"local:{tmp_path / 'toy'}"}
    adapted = {**plain, "adapter": [str(tmp_path / "prompts.safetensors")]}
    encoders = {name: EncoderSpec.parse(each) for name, each in {"plain": plain, "adapted": adapted}.items()}
    colours = stained(24, [(200, 120, 190), (150, 90, 180)])
    fit = PatchFit(colours, encoders, [(name, "probe", spec_of("linear")) for name in encoders])
    recipes = [contender.recipe for contender in fit.contenders]
    assert recipes[0]["encoder"]["card"]["weights_sha256"] == recipes[1]["encoder"]["card"]["weights_sha256"]
    assert recipes[0] != recipes[1], "cells of the two are not taken for one another"
    everything = np.arange(24)
    grid = scaling_grid(colours, fit.contenders, ScalingSpec.parse({"fractions": [1.0], "seeds": 1}))
    plain_said, adapted_said = (fit(cell).predict(everything) for cell in grid.cells)
    assert not np.allclose(plain_said, adapted_said)
    with pytest.raises(SpecError, match=r"methods.tuned: lora would train encoder 'adapted'.*linear and knn"):
        PatchFit(colours, encoders, [("plain", "tuned", spec_of("lora")), ("adapted", "tuned", spec_of("lora"))])
