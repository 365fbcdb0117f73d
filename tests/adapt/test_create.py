"""Encoders with adapters on them: one backbone in memory, each known by what it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pathotune_pipeline.adapt.create import create_adapted_encoder
from pathotune_pipeline.adapt.file import load_adapter
from pathotune_pipeline.encoders.card import EncoderSpec
from pathotune_pipeline.encoders.create import create_encoder
from pathotune_pipeline.encoders.encoder import Encoder
from pathotune_pipeline.errors import CorruptDataError, SpecError, UsageError
from tests.adapt.files import NOTE, write_adapter
from tests.adapt.toys import METHODS
from tests.encoders.checkpoints import write_checkpoint

TILES = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`toy`, an encoder's folder, and an adapter of each method for it; `both` is one of two tasks."""
    root = tmp_path_factory.mktemp("adapted")
    write_checkpoint(root / "toy")
    for method in METHODS:
        write_adapter(root / f"{method}.safetensors", root / "toy", method)
    write_adapter(root / "both.safetensors", root / "toy", "pathotune", tasks=2)
    return root


def spec(place: Path, *adapters: str, **changes: object) -> EncoderSpec:
    given = [name if name == "none" else str(place / name) for name in adapters]
    return EncoderSpec.parse({"name": f"local:{place / 'toy'}", "batch_size": 4, "adapter": given, **changes})


def tensors(encoder: Encoder) -> dict[str, torch.Tensor]:
    return dict(encoder.module.named_parameters())


@pytest.mark.parametrize("method", METHODS)
def test_an_adapted_encoder_gives_what_the_adapted_network_gives(place: Path, method: str) -> None:
    frozen = create_adapted_encoder(spec(place))
    before = frozen.encode(TILES)
    adapted = create_adapted_encoder(spec(place, f"{method}.safetensors"), base=frozen)
    network = load_adapter(place / f"{method}.safetensors", frozen.module, frozen.card)
    expected = Encoder(network, frozen.card, spec(place), frozen.device).encode(TILES)
    found = adapted.encode(TILES)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)  # LoRA's is merged
    assert (found - before).abs().max() > 1e-2
    assert torch.equal(frozen.encode(TILES), before), "the encoder as it is stays as it is"


def test_the_card_says_what_is_on_the_encoder(place: Path) -> None:
    frozen = create_adapted_encoder(spec(place))
    plain, card = frozen.card, create_adapted_encoder(spec(place, "pathotune.safetensors"), base=frozen).card
    assert plain.adapter is None
    assert (card.name, card.dim, card.weights_sha256) == ("local:toy+pathotune", plain.dim, plain.weights_sha256)
    facts = card.adapter
    assert facts is not None
    assert (facts.name, facts.method, facts.text, facts.text_encoder) == (
        "pathotune",
        "pathotune",
        "image for grading",
        "hash-ngram",
    )
    assert "reconstruction" in facts.note
    assert facts.note.endswith(NOTE)
    assert str(place) not in card.model_dump_json()
    assert card.recipe() == {**plain.recipe(), "adapter": facts.recipe}
    assert facts.recipe["sha256"] == facts.sha256


def test_an_adapted_encoder_is_known_by_contents_and_not_by_names(place: Path, tmp_path: Path) -> None:
    frozen = create_adapted_encoder(spec(place))

    def known(file: str) -> str:
        return create_adapted_encoder(spec(place, file), base=frozen).fingerprint()

    one = known("vpt-deep.safetensors")
    copied = shutil.copy(place / "vpt-deep.safetensors", tmp_path / "other.safetensors")
    assert known(copied) == one
    write_adapter(tmp_path / "named.safetensors", place / "toy")
    assert known(str(tmp_path / "named.safetensors")) == one, "its maker's name for it decides nothing"
    write_adapter(tmp_path / "drawn.safetensors", place / "toy", seed=2)
    write_adapter(tmp_path / "rank.safetensors", place / "toy", "lora", alpha=32)
    others = [
        str(tmp_path / "drawn.safetensors"),
        str(tmp_path / "rank.safetensors"),
        "lora.safetensors",
        "vpt-shallow.safetensors",
    ]
    assert len({one, frozen.fingerprint(), *map(known, others)}) == 6
    assert frozen.fingerprint() == create_adapted_encoder(spec(place, "none")).fingerprint()
    assert "adapter" not in frozen.recipe()["card"]


def own_tensors(frozen: Encoder, adapted: Encoder) -> int:
    """How many of the frozen encoder's tensors the adapted one does not take from its memory."""
    own, other = ({tensor.data_ptr() for tensor in tensors(encoder).values()} for encoder in (frozen, adapted))
    return len(own - other)


def changed_by(method: str, frozen: Encoder) -> int:
    """LoRA's merged weights; prompts change none."""
    names = ("attn.qkv.weight", "attn.proj.weight") if method == "lora" else ()
    return sum(name.endswith(names) for name in tensors(frozen))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_backbone_is_in_memory(place: Path, precision: str) -> None:
    frozen = create_adapted_encoder(spec(place, precision=precision))
    for method in METHODS:
        adapted = create_adapted_encoder(spec(place, f"{method}.safetensors", precision=precision), base=frozen)
        assert adapted.encode(TILES).isfinite().all()
        assert own_tensors(frozen, adapted) == changed_by(method, frozen), method


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
def test_a_gpu_has_the_backbone_once_and_agrees_with_the_cpu(place: Path, method: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    frozen = create_adapted_encoder(spec(place), device="cuda")
    adapted = create_adapted_encoder(spec(place, f"{method}.safetensors"), base=frozen)
    assert own_tensors(frozen, adapted) == changed_by(method, frozen)
    assert {tensor.device.type for tensor in tensors(adapted).values()} == {"cuda"}
    here = create_adapted_encoder(spec(place, f"{method}.safetensors")).encode(TILES)
    torch.testing.assert_close(adapted.encode(TILES).cpu(), here, rtol=1e-2, atol=2e-2)  # convolutions may use TF32


def test_an_adapter_of_several_tasks_is_told_which(place: Path) -> None:
    frozen = create_adapted_encoder(spec(place))
    with pytest.raises(
        SpecError, match=r"holds 2 texts.*#0 'image for grading'; #1 'image for typing'.*both.safetensors#0"
    ):
        create_adapted_encoder(spec(place, "both.safetensors"), base=frozen)
    first, second = (create_adapted_encoder(spec(place, f"both.safetensors#{n}"), base=frozen) for n in (0, 1))
    assert second.card.name == "local:toy+both#1"
    assert second.card.adapter is not None
    assert second.card.adapter.text == "image for typing"
    assert first.fingerprint() != second.fingerprint()
    assert (first.encode(TILES) - second.encode(TILES)).abs().max() > 1e-4
    for asked, listed in (
        ("both.safetensors#2", "#1 'image for typing'"),
        ("lora.safetensors#0", "no text of that number"),
    ):
        with pytest.raises(SpecError, match=listed):
            create_adapted_encoder(spec(place, asked), base=frozen)


def test_a_file_may_be_called_as_it_likes(place: Path, tmp_path: Path) -> None:
    shutil.copy(place / "lora.safetensors", tmp_path / "lora#1")
    encoder = create_adapted_encoder(spec(place, str(tmp_path / "lora#1")))
    assert encoder.card.name == "local:toy+lora"


def test_what_is_no_adapter_of_this_encoder_is_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent.safetensors: nothing lies there"):
        create_adapted_encoder(spec(place, "absent.safetensors"))
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((place / "lora.safetensors").read_bytes()[:-100])
    with pytest.raises(CorruptDataError, match="cannot be read"):
        create_adapted_encoder(spec(place, str(cut)))
    write_checkpoint(tmp_path / "other", seed=1)
    with pytest.raises(UsageError, match=r"trained on local:toy.*local:other.*weights_sha256"):
        create_adapted_encoder(spec(place, "lora.safetensors", name=f"local:{tmp_path / 'other'}"))
    with pytest.raises(UsageError, match=r"trained on local:toy.*stain-texture"):
        create_adapted_encoder(spec(place, "lora.safetensors", name="stain-texture"))
    with pytest.raises(SpecError, match="taken as it is here"):
        create_encoder(spec(place, "lora.safetensors"))
    with pytest.raises(SpecError, match="2 were given"):
        create_adapted_encoder(spec(place, "lora.safetensors", "vpt-deep.safetensors"))


def test_adapters_go_with_one_encoder() -> None:
    with pytest.raises(SpecError, match="goes with one encoder, and uni, virchow2 were asked for"):
        EncoderSpec.parse({"name": "uni", "also": ["virchow2"], "adapter": ["x.safetensors"]})
    both = EncoderSpec.parse({"name": "uni", "also": ["uni"], "adapter": ["x", "none", "x", "y"]})
    assert [(each.name, each.also, each.adapter) for each in both.of_each()] == [
        ("uni", (), ("x",)), ("uni", (), ()), ("uni", (), ("y",)),
    ]  # fmt: skip
    several = EncoderSpec.parse({"name": "uni", "also": ["virchow2", "uni"]})
    assert [(each.name, each.adapter) for each in several.of_each()] == [("uni", ()), ("virchow2", ())]
