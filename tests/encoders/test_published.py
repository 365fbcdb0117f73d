"""Catalogue encoders with real loading code on small weights: cache, file, bundle; and what is refused, with what to do."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from pathotune_pipeline.encoders.bundle import write_bundle
from pathotune_pipeline.encoders.card import EncoderSpec
from pathotune_pipeline.encoders.catalogue import CatalogueCard
from pathotune_pipeline.encoders.create import create_encoder
from pathotune_pipeline.encoders.encoder import Encoder
from pathotune_pipeline.encoders.hub import hub_errors
from pathotune_pipeline.errors import MissingExtraError, SpecError, WeightsError
from tests.encoders.conftest import as_safetensors, filled, in_cache, trunk_state


def tiles(side: int = 80) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, side, side, 3), dtype=np.uint8)


def encoder(name: str = "toy", **settings: object) -> Encoder:
    return create_encoder(EncoderSpec.parse({"name": name, "batch_size": 4, **settings}))


def written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def pickled(thing: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    return buffer.getvalue()


@pytest.fixture
def weights(tmp_path: Path, toy: CatalogueCard) -> Path:
    return written(tmp_path / "given" / "toy.safetensors", as_safetensors(filled(toy)))


def test_one_encoder_from_cache_file_pickle_and_bundle_is_the_same(
    tmp_path: Path, hub: Path, toy: CatalogueCard, weights: Path
) -> None:
    in_cache(hub, "lab/toy", {"model.safetensors": weights.read_bytes(), "config.json": b"{}"})
    other = written(tmp_path / "given" / "toy.pth", pickled({"state_dict": trunk_state(filled(toy))}))
    bundle = write_bundle(toy, tmp_path / "bundles")
    assert sorted(path.name for path in bundle.iterdir()) == ["card.json", "config.json", "model.safetensors"]
    made = [
        encoder(),
        encoder(weights=str(weights)),
        encoder(weights=str(other)),
        encoder(weights=str(bundle)),
        encoder(f"local:{bundle}"),
    ]
    expected = made[0].encode(tiles())
    assert expected.shape == (3, 64)
    assert {one.fingerprint() for one in made} == {made[0].fingerprint()}
    assert all(torch.equal(one.encode(tiles()), expected) for one in made)
    assert {(one.card.name, one.card.source) for one in made} == {("toy", "catalogue")}
    assert str(tmp_path) not in json.dumps([one.card.model_dump() for one in made])


def test_a_bundle_works_when_the_cache_is_gone(tmp_path: Path, hub: Path, toy: CatalogueCard, weights: Path) -> None:
    import shutil

    in_cache(hub, "lab/toy", {"model.safetensors": weights.read_bytes()})
    bundle = write_bundle(toy, tmp_path / "bundles")
    before = encoder().encode(tiles())
    shutil.rmtree(hub)
    assert torch.equal(encoder(f"local:{bundle}").encode(tiles()), before)
    with pytest.raises(WeightsError, match="not in the local cache"):
        encoder()


def test_tiles_are_resized_then_cut_as_torchvision_does(toy: CatalogueCard, weights: Path) -> None:
    """80 px to 72 px, of which the central 64 are seen; a tile of 72 px is cut and not resized."""
    one = encoder(weights=str(weights), pooling="cls")
    exact = tiles(72)
    pixels = torch.from_numpy(exact[:, 4:68, 4:68]).permute(0, 3, 1, 2) / 255.0
    mean, std = torch.tensor(toy.mean).view(1, 3, 1, 1), torch.tensor(toy.std).view(1, 3, 1, 1)
    with torch.inference_mode():
        expected = filled(toy).trunk.forward_features((pixels - mean) / std)[:, 0]
    torch.testing.assert_close(one.encode(exact), expected, rtol=1e-4, atol=1e-5)
    assert one.card.dim == 32
    blank = exact.copy()
    blank[:, :4] = blank[:, 68:] = blank[:, :, :4] = blank[:, :, 68:] = 0
    assert torch.equal(one.encode(blank), one.encode(exact))


def test_fetching_goes_on_where_it_stopped_and_mends_what_is_torn(
    tmp_path: Path, hub: Path, toy: CatalogueCard, weights: Path
) -> None:
    in_cache(hub, "lab/toy", {"model.safetensors": weights.read_bytes()})
    bundle = write_bundle(toy, tmp_path / "bundles")
    first = (bundle / "model.safetensors").stat()
    (bundle / "card.json").unlink()  # killed before the end
    write_bundle(toy, tmp_path / "bundles")
    assert (bundle / "model.safetensors").stat().st_mtime_ns == first.st_mtime_ns
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    (bundle / "model.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match="differs from what the bundle was written with"):
        encoder(f"local:{bundle}")
    write_bundle(toy, tmp_path / "bundles")
    assert encoder(f"local:{bundle}").encode(tiles()).shape == (3, 64)
    listed = json.loads((bundle / "card.json").read_text())["files"]["model.safetensors"]
    assert listed["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_a_torn_download_is_not_carried_on(tmp_path: Path, hub: Path, toy: CatalogueCard, weights: Path) -> None:
    snapshot = in_cache(hub, "lab/toy", {"model.safetensors": weights.read_bytes()})
    (snapshot / "model.safetensors").resolve().write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(WeightsError, match="damaged"):
        write_bundle(toy, tmp_path / "bundles")
    assert not (tmp_path / "bundles" / "toy" / "card.json").exists()


def test_absent_and_gated_weights_say_where_to_ask_and_how_to_do_without(hub: Path, toy: CatalogueCard) -> None:
    with pytest.raises(WeightsError) as absent:
        encoder()
    for part in ("https://example.org/toy", "hf auth login", "--weights PATH", "pathotune encoders fetch toy --to DIR"):
        assert part in str(absent.value)
    with pytest.raises(WeightsError, match=r"huggingface\.co/MahmoodLab/UNI"):
        encoder("uni")


@pytest.mark.parametrize(
    ("error", "message"), [("GatedRepoError", "gated"), ("RepositoryNotFoundError", "no such repository")]
)
def test_what_the_hub_says_is_one_sentence(error: str, message: str) -> None:
    import httpx
    from huggingface_hub import errors

    refusal = getattr(errors, error)(
        "no", response=httpx.Response(403, request=httpx.Request("GET", "https://example.org"))
    )
    with pytest.raises(WeightsError, match=message), hub_errors("toy", "https://example.org/toy"):
        raise refusal


def test_weights_that_lie_nowhere_a_program_can_reach(tmp_path: Path, hub: Path, toy: CatalogueCard) -> None:
    with pytest.raises(WeightsError, match="no program can fetch"):
        write_bundle(toy.with_values(hub=None), tmp_path)


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("suffix", [".bin", ".pth", ".pt"])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, toy: CatalogueCard, suffix: str) -> None:
    for content in (pickled({"a": Evil(tmp_path / "ran")}), pickle.dumps({"a": Evil(tmp_path / "ran")})):
        path = written(tmp_path / f"weights{suffix}", content)
        with pytest.raises(WeightsError, match=r"was not run|cannot be read"):
            encoder(weights=str(path))
    assert not (tmp_path / "ran").exists()


def test_files_that_do_not_fit_are_one_clear_error(tmp_path: Path, toy: CatalogueCard) -> None:
    from safetensors.torch import save

    state = trunk_state(filled(toy))
    wrong = {
        "pos_embed has shape": {**state, "pos_embed": torch.zeros(1, 9, 32)},
        "trunk.norm.bias is missing. Did you mean 'norms.bias'": {
            **{name: tensor for name, tensor in state.items() if name != "norm.bias"},
            "norms.bias": torch.zeros(32),
        },
        "extra.weight is unexpected": {**state, "extra.weight": torch.zeros(2)},
    }
    for message, content in wrong.items():
        path = written(tmp_path / "toy.safetensors", save(content))
        with pytest.raises(WeightsError, match="do not fit") as error:
            encoder(weights=str(path))
        assert message in str(error.value)
        assert len(str(error.value)) < 1500


def test_damaged_and_absent_files_are_one_clear_error(tmp_path: Path, toy: CatalogueCard, weights: Path) -> None:
    cut = written(tmp_path / "cut.safetensors", weights.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="cannot be read"):
        encoder(weights=str(cut))
    with pytest.raises(WeightsError, match="not a state dict"):
        encoder(weights=str(written(tmp_path / "list.pth", pickled([1]))))
    with pytest.raises(WeightsError, match="neither a file nor a folder"):
        encoder(weights=str(tmp_path / "nothing"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "model.safetensors").write_bytes(weights.read_bytes())
    assert encoder(weights=str(tmp_path / "folder")).card.dim == 64


def test_a_bundle_of_another_encoder_or_version_is_refused(
    tmp_path: Path, hub: Path, toy: CatalogueCard, weights: Path
) -> None:
    in_cache(hub, "lab/toy", {"model.safetensors": weights.read_bytes()})
    bundle = write_bundle(toy, tmp_path)
    with pytest.raises(WeightsError, match="is a bundle of toy, and uni was asked for"):
        encoder("uni", weights=str(bundle))
    content = json.loads((bundle / "card.json").read_text())
    content["card"]["colour"] = "pink"
    (bundle / "card.json").write_text(json.dumps(content))
    with pytest.raises(WeightsError, match="of another version"):
        encoder(f"local:{bundle}")
    (bundle / "card.json").write_text("{")
    with pytest.raises(WeightsError, match="cannot be read"):
        encoder(f"local:{bundle}")


@pytest.mark.parametrize("settings", [{"weights": "a.pth"}, {"pooling": "cls"}])
def test_settings_of_the_catalogue_do_not_go_with_other_encoders(settings: dict) -> None:
    for name in ("stain-texture", "timm:resnet18"):
        with pytest.raises(SpecError, match="pathotune encoders list"):
            encoder(name, **settings)


REMOTE = {"auto_map": {"AutoModel": "modeling_toy.Toy"}, "hidden_size": 4, "image_size": 32}


def test_code_of_a_repository_is_not_run_unasked(
    hub: Path, toy: CatalogueCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_cache(hub, "lab/toy", {"config.json": json.dumps(REMOTE).encode()})
    with pytest.raises(WeightsError, match=r"modeling_toy\.Toy.*not run unasked.*--trust-remote-code"):
        encoder("hf-hub:lab/toy")
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"pathotune_pipeline\[transformers\]"):
        encoder("hf-hub:lab/toy", trust_remote_code=True)
    in_cache(hub, "histai/hibou-L", {"config.json": json.dumps(REMOTE).encode()})
    with pytest.raises(WeightsError, match="--encoder hibou-l runs the same weights without it"):
        encoder("hf-hub:histai/hibou-L")
    in_cache(hub, "lab/plain", {"config.json": b'{"model_type": "vit"}'})
    with pytest.raises(WeightsError, match="not in timm's layout"):
        encoder("hf-hub:lab/plain", trust_remote_code=True)


def test_code_of_a_repository_is_run_with_consent(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    class Toy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.arange(4.0))

        def forward(self, pixels: torch.Tensor) -> object:
            tokens = pixels.mean((1, 2, 3))[:, None, None] * self.scale
            return types.SimpleNamespace(last_hidden_state=tokens.expand(-1, 5, 4))

    asked = {}

    def from_pretrained(name: str, **settings: object) -> Toy:
        asked.update(settings, name=name)
        return Toy()

    module = types.ModuleType("transformers")
    module.AutoModel = types.SimpleNamespace(from_pretrained=from_pretrained)
    monkeypatch.setitem(sys.modules, "transformers", module)
    normal = {"image_mean": [0.0, 0.0, 0.0], "image_std": [1.0, 1.0, 1.0]}
    files = {"config.json": json.dumps(REMOTE).encode(), "preprocessor_config.json": json.dumps(normal).encode()}
    in_cache(hub, "lab/toy", files)
    one = encoder("hf-hub:lab/toy", trust_remote_code=True)
    assert asked == {"name": "lab/toy", "revision": None, "trust_remote_code": True}
    white = np.full((1, 32, 32, 3), 255, np.uint8)
    torch.testing.assert_close(one.encode(white), torch.arange(4.0)[None])
    assert (one.card.source, one.card.dim, one.card.input_px) == ("remote-code", 4, 32)
