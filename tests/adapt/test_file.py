"""Adapter files: small, whole, honest about where they come from, and no use to another encoder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pathotune_pipeline.adapt.attach import AdaptedNetwork
from pathotune_pipeline.adapt.card import AdapterCard, TextCard
from pathotune_pipeline.adapt.file import load_adapter, read_adapter_card, save_adapter
from pathotune_pipeline.engine.device import cpu_threads
from pathotune_pipeline.errors import CorruptDataError, UsageError
from tests.adapt.toys import METHODS, card_of, fresh, moved, pixels, spec_of, vit

ROOT = Path(__file__).resolve().parents[2]
TEXT = TextCard(texts=("a colon; classes: x, y", "a kidney; classes: x, y"), encoder="hash-ngram", note="no language")


def saved(path: Path, adapted: AdaptedNetwork) -> AdapterCard:
    text = TEXT if "text" in adapted.adapter else None
    return save_adapter(
        path, adapted, backbone=card_of(vit()), name="toy", text=text, training={"seed": 3, "loss": 0.5}
    )


def rewritten(path: Path, change: object) -> None:
    """The file with its card or its tensors changed by hand."""
    from safetensors import safe_open

    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        card = json.loads(file.metadata()["pathotune_adapter"])
    change(card, tensors)  # type: ignore[operator]
    save_file(tensors, path, metadata={"pathotune_adapter": json.dumps(card)})


@pytest.mark.parametrize("method", METHODS)
def test_a_file_gives_back_the_same_features(tmp_path: Path, method: str) -> None:
    adapted = moved(vit(), spec_of(method))
    path = tmp_path / "deep" / "colon.safetensors"
    card = saved(path, adapted)
    assert read_adapter_card(path) == card
    assert card.spec == adapted.spec
    assert card.training == {"seed": 3, "loss": 0.5}
    assert card.parameters == sum(parameter.numel() for parameter in adapted.adapter.parameters())
    assert ("reconstruction" in card.note) == (method == "pathotune")
    module, backbone = vit(), card_of(vit())
    state = torch.get_rng_state()
    loaded = load_adapter(path, module, backbone)
    assert torch.equal(torch.get_rng_state(), state)
    assert not loaded.training
    assert torch.equal(loaded(pixels()), adapted(pixels()))


@pytest.mark.parametrize("method", METHODS)
def test_a_file_holds_the_adapter_and_nothing_of_the_backbone(tmp_path: Path, method: str) -> None:
    adapted = moved(vit(), spec_of(method))
    saved(tmp_path / "a.safetensors", adapted)
    tensors = load_file(tmp_path / "a.safetensors")
    assert tensors.keys() == adapted.adapter.state_dict().keys()
    size = sum(tensor.numel() for tensor in tensors.values()) * 4
    assert (tmp_path / "a.safetensors").stat().st_size < size + 8192


def test_the_same_adapter_gives_the_same_bytes_and_other_tensors_another_recipe(tmp_path: Path) -> None:
    adapted = moved(vit(), spec_of("vpt-deep"))
    one, two, three = (tmp_path / f"{name}.safetensors" for name in "abc")
    assert saved(one, adapted).recipe() == saved(two, adapted).recipe()
    assert one.read_bytes() == two.read_bytes()
    with torch.no_grad():
        adapted.adapter["visual"].prompts[2, 0, 0] += 1e-3
    assert saved(three, adapted).recipe() != read_adapter_card(one).recipe()


def test_half_precision_is_stored_in_full(tmp_path: Path) -> None:
    adapted = moved(vit(), spec_of("vpt-deep")).to(torch.bfloat16)
    saved(tmp_path / "a.safetensors", adapted)
    loaded = load_adapter(tmp_path / "a.safetensors", vit(), card_of(vit()))
    assert torch.equal(loaded.adapter["visual"].prompts, adapted.adapter["visual"].prompts.float())


def test_a_fresh_process_gives_the_same_features(tmp_path: Path) -> None:
    adapted = {method: moved(vit(), spec_of(method)) for method in METHODS}
    for method, one in adapted.items():
        saved(tmp_path / f"{method}.safetensors", one)
    script = (
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from pathotune_pipeline.adapt.file import load_adapter\n"
        "from tests.adapt.toys import card_of, pixels, vit\n"
        "torch.set_num_threads(1)\n"
        "for path in Path(sys.argv[1]).glob('*.safetensors'):\n"
        "    adapted = load_adapter(path, vit(), card_of(vit()))\n"
        "    torch.save(adapted(pixels()).detach(), path.with_suffix('.pt'))\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, cwd=ROOT)
    with cpu_threads(1):
        for method, one in adapted.items():
            assert torch.equal(torch.load(tmp_path / f"{method}.pt"), one(pixels()))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weights_sha256": "0" * 64}, "weights_sha256: "),
        ({"architecture": "vit_tiny"}, "architecture: toy there, vit_tiny here"),
        ({"pooling": "mean"}, "pooling: cls there, mean here"),
        ({"input_px": 64}, "input_px: 32 there, 64 here"),
    ],
)
def test_another_encoder_is_refused(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    path = tmp_path / "a.safetensors"
    saved(path, moved(vit(), spec_of("vpt-deep")))
    with pytest.raises(UsageError, match=f"is another: {said}"):
        load_adapter(path, vit(), card_of(vit(), **changes))


def test_names_and_recommendations_do_not_make_another_encoder(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    saved(path, moved(vit(), spec_of("vpt-deep")))
    load_adapter(path, vit(), card_of(vit(), name="local:toy", tile_px=512, mpp=0.25))


@pytest.mark.parametrize("part", [0.0, 0.02, 0.5, 0.999])
def test_a_truncated_file_is_damaged(tmp_path: Path, part: float) -> None:
    path = tmp_path / "a.safetensors"
    saved(path, moved(vit(), spec_of("vpt-deep")))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    for read in (lambda: read_adapter_card(path), lambda: load_adapter(path, vit(), card_of(vit()))):
        with pytest.raises(CorruptDataError, match="cannot be read"):
            read()


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    saved(path, moved(vit(), spec_of("vpt-deep")))
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptDataError, match="not those that its card tells of"):
        load_adapter(path, vit(), card_of(vit()))


def _with_sha(card: dict[str, object], tensors: dict[str, torch.Tensor]) -> None:
    from pathotune_pipeline.encoders.checkpoint import tensors_sha256

    card["sha256"] = tensors_sha256(tensors)


def _shorter(card: dict[str, object], tensors: dict[str, torch.Tensor]) -> None:
    tensors["visual.prompts"] = tensors["visual.prompts"][:, :3].contiguous()
    _with_sha(card, tensors)


def _renamed(card: dict[str, object], tensors: dict[str, torch.Tensor]) -> None:
    tensors["other"] = tensors.pop("visual.prompts")
    _with_sha(card, tensors)


def _of_another_method(card: dict[str, object], tensors: dict[str, torch.Tensor]) -> None:
    card["spec"]["method"] = "pathotune"  # type: ignore[index]


@pytest.mark.parametrize("change", [_shorter, _renamed, _of_another_method])
def test_tensors_that_do_not_fit_the_card_are_refused(tmp_path: Path, change: object) -> None:
    path = tmp_path / "a.safetensors"
    saved(path, moved(vit(), spec_of("vpt-deep")))
    rewritten(path, change)
    with pytest.raises(CorruptDataError, match="do not fit what its card says"):
        load_adapter(path, vit(), card_of(vit()))


def test_a_card_of_a_later_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    saved(path, moved(vit(), spec_of("vpt-deep")))
    rewritten(path, lambda card, tensors: card.update(gift=1))
    with pytest.raises(CorruptDataError, match=r"there is no setting 'gift'.*newer version"):
        read_adapter_card(path)


def test_what_is_no_adapter_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing lies there"):
        read_adapter_card(tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match=r"is a folder\. Give the file in it: .*adapter\.safetensors"):
        read_adapter_card(tmp_path)
    save_file({"x": torch.zeros(2)}, tmp_path / "b.safetensors")
    with pytest.raises(UsageError, match="no adapter of this package"):
        read_adapter_card(tmp_path / "b.safetensors")


def test_a_file_that_could_not_be_known_again_is_not_written(tmp_path: Path) -> None:
    adapted = fresh(vit(), spec_of("vpt-deep"))
    with pytest.raises(UsageError, match="no SHA-256"):
        save_adapter(tmp_path / "a.safetensors", adapted, backbone=card_of(vit(), weights_sha256=None), name="toy")
    with pytest.raises(UsageError, match=r"must end in \.safetensors"):
        save_adapter(tmp_path / "a.pt", adapted, backbone=card_of(vit()), name="toy")
    with pytest.raises(UsageError, match="holds 0 texts and the card names 2"):
        save_adapter(tmp_path / "a.safetensors", adapted, backbone=card_of(vit()), name="toy", text=TEXT)
    with pytest.raises(UsageError, match="holds 2 texts and the card names 0"):
        save_adapter(
            tmp_path / "a.safetensors", fresh(vit(), spec_of("pathotune")), backbone=card_of(vit()), name="toy"
        )
    assert list(tmp_path.iterdir()) == []
