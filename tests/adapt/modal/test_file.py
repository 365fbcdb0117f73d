"""Files of modal networks: everything that decides an embedding, the projector too, and nothing of the slide encoder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pathotune_pipeline.adapt.file import save_adapter
from pathotune_pipeline.adapt.modal import ModalNetwork, attach_modal
from pathotune_pipeline.adapt.modal.card import LabelCard, ModalCard
from pathotune_pipeline.adapt.modal.file import load_modal, read_modal_card, save_modal
from pathotune_pipeline.adapt.modal.projector import TextProjector
from pathotune_pipeline.adapt.modal.survival_words import SurvivalBins
from pathotune_pipeline.errors import CorruptDataError, UsageError
from tests.adapt.modal.toys import TABLE, answer, case_of, encoder, network_of, spec_of
from tests.adapt.toys import card_of, fresh, vit
from tests.adapt.toys import spec_of as adapter_spec

ROOT = Path(__file__).resolve().parents[3]
RECIPE = {"name": "toy", "weights_sha256": "ab" * 32}
LABELS = LabelCard(
    encoder="hash-ngram",
    encoder_sha256="cd" * 32,
    dim=24,
    projector_seed=7,
    bins={"brca": SurvivalBins(edges=(12.0, 30.5, 60.0))},
    note="no language",
)


def network() -> ModalNetwork:
    made = network_of(encoder(), opened=True)
    genes, clinical = made.adapter.tokens.genes, made.adapter.tokens.clinical
    assert genes is not None
    assert clinical is not None
    genes.standardise.set(np.linspace(-1, 1, 8), np.linspace(1, 2, 8))
    clinical.standardise.set([60.0, 0.5, 2.0], [10.0, 1.0, 1.0])
    return made


def saved(path: Path, made: ModalNetwork) -> ModalCard:
    return save_modal(
        path,
        made,
        name="toy",
        slide_encoder=RECIPE,
        projector=TextProjector(24, 32, seed=7),
        labels=LABELS,
        training={"seed": 3},
    )


def test_a_file_gives_back_the_same_embeddings_and_the_same_projector(tmp_path: Path) -> None:
    made, case = network(), case_of()
    card = saved(tmp_path / "deep" / "a.safetensors", made)
    assert read_modal_card(tmp_path / "deep" / "a.safetensors") == card
    assert (card.genes, card.pathways, card.clinical) == (TABLE.genes, TABLE.pathways, made.clinical)
    assert card.parameters == sum(parameter.numel() for parameter in made.adapter.parameters())
    state = torch.get_rng_state()
    loaded = load_modal(tmp_path / "deep" / "a.safetensors", encoder(), RECIPE)
    assert torch.equal(torch.get_rng_state(), state)
    assert loaded.card == card
    assert loaded.network.pathways == TABLE
    assert not loaded.network.training
    assert torch.equal(answer(loaded.network, case), answer(made, case))
    texts = torch.randn(3, 24)
    assert loaded.projector is not None
    assert torch.equal(loaded.projector(texts), TextProjector(24, 32, seed=7)(texts))
    assert not any(parameter.requires_grad for parameter in loaded.projector.parameters())


def test_the_projector_is_the_stored_one_whatever_its_seed_draws_now(tmp_path: Path) -> None:
    projector = TextProjector(24, 32, seed=7)
    with torch.no_grad():
        projector.layers[0].weight += 1  # as if torch drew otherwise
    path = tmp_path / "a.safetensors"
    save_modal(path, network(), name="toy", slide_encoder=RECIPE, projector=projector, labels=LABELS)
    loaded, texts = load_modal(path, encoder(), RECIPE), torch.randn(3, 24)
    assert loaded.projector is not None
    assert torch.equal(loaded.projector(texts), projector(texts))


def test_a_fresh_process_gives_the_same_embeddings(tmp_path: Path) -> None:
    made = network()
    saved(tmp_path / "a.safetensors", made)
    script = (
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from pathotune_pipeline.adapt.modal.file import load_modal\n"
        "from tests.adapt.modal.test_file import RECIPE\n"
        "from tests.adapt.modal.toys import answer, case_of, encoder\n"
        "torch.set_num_threads(1)\n"
        "loaded = load_modal(Path(sys.argv[1]), encoder(), RECIPE)\n"
        "torch.save(answer(loaded.network, case_of()).detach(), sys.argv[2])\n"
    )
    out = tmp_path / "a.pt"
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.safetensors"), str(out)], check=True, cwd=ROOT)
    assert torch.equal(torch.load(out), answer(made, case_of()).detach())


def test_a_file_holds_nothing_of_the_slide_encoder_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    made = network()
    one, two = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    assert saved(one, made).recipe() == saved(two, made).recipe()
    assert one.read_bytes() == two.read_bytes()
    names = {f"adapter.{name}" for name in made.adapter.state_dict()}
    assert {name for name in load_file(one) if not name.startswith("projector.")} == names
    with torch.no_grad():
        made.adapter.blocks[0].inject.gate += 1e-3
    assert saved(two, made).recipe() != read_modal_card(one).recipe()


def test_genes_and_clinical_variables_alone_are_stored_without_a_slide_encoder(tmp_path: Path) -> None:
    made = attach_modal(None, spec_of(dim=48, n_heads=3), pathways=TABLE).eval()
    path = tmp_path / "a.safetensors"
    save_modal(path, made, name="toy")
    loaded = load_modal(path, None)
    assert loaded.projector is None
    genes = case_of().genes
    assert torch.equal(loaded.network(None, None, 1, genes=genes), made(None, None, 1, genes=genes))
    with pytest.raises(UsageError, match="takes no slide encoder"):
        load_modal(path, encoder(), RECIPE)


def test_another_slide_encoder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    saved(path, network())
    others = {
        "weights_sha256: abab": {**RECIPE, "weights_sha256": "00" * 32},
        "segments: None there": {**RECIPE, "segments": 4},
    }
    for said, recipe in others.items():
        with pytest.raises(UsageError, match=f"with another slide encoder: {said}"):
            load_modal(path, encoder(), recipe)
    with pytest.raises(UsageError, match="needs the slide encoder it was trained with"):
        load_modal(path, None)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"slide_encoder": None}, "vectors is not told"),
        ({"projector": None}, "the projector .* is None"),
        ({"labels": None}, "with the network gives None"),
        ({"projector": TextProjector(24, 16, seed=7)}, r"is \(24, 16, 7\)"),
        ({"projector": TextProjector(24, 32, seed=8)}, r"is \(24, 32, 8\)"),
    ],
)
def test_what_could_not_be_used_again_is_not_written(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    whole: dict[str, Any] = {"slide_encoder": RECIPE, "projector": TextProjector(24, 32, seed=7), "labels": LABELS}
    with pytest.raises(UsageError, match=said):
        save_modal(tmp_path / "a.safetensors", network(), name="toy", **{**whole, **changes})
    with pytest.raises(UsageError, match=r"must end in \.safetensors"):
        save_modal(tmp_path / "a.pt", network(), name="toy", **whole)
    assert list(tmp_path.iterdir()) == []


def _truncate(data: bytearray) -> bytearray:
    return data[: len(data) // 2]


def _flip(data: bytearray) -> bytearray:
    data[-5] ^= 1
    return data


@pytest.mark.parametrize(
    ("damage", "said"), [(_truncate, "cannot be read"), (_flip, "not those that its card tells of")]
)
def test_a_damaged_file_is_found(tmp_path: Path, damage: Callable[[bytearray], bytearray], said: str) -> None:
    path = tmp_path / "a.safetensors"
    saved(path, network())
    path.write_bytes(damage(bytearray(path.read_bytes())))
    with pytest.raises(CorruptDataError, match=said):
        load_modal(path, encoder(), RECIPE)


@pytest.mark.parametrize(
    "change", [{"pathways": ("one", "two")}, {"genes": ("A",)}, {"clinical": ("age",)}, {"spec": spec_of(n_blocks=2)}]
)
def test_a_card_that_does_not_fit_its_tensors_is_found(tmp_path: Path, change: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    card = saved(path, network())
    told = card.model_copy(update=change)
    save_file(load_file(path), path, metadata={"pathotune_modal": told.model_dump_json()})
    with pytest.raises(CorruptDataError, match="do not fit what its card says"):
        load_modal(path, encoder(), RECIPE)


def test_another_kind_of_file_is_said_to_be_one(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_adapter(path, fresh(vit(), adapter_spec("vpt-deep")), backbone=card_of(vit()), name="toy")
    with pytest.raises(UsageError, match="no modal network of this package"):
        read_modal_card(path)
    with pytest.raises(UsageError, match=r"nothing lies there\. Give a file of `pathotune slide-tune`"):
        read_modal_card(tmp_path / "b.safetensors")
