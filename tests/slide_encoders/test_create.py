"""Names to slide encoders: published weights on small networks, files of our own, fresh ones; and what is refused."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file

from pathotune_pipeline.encoders.catalogue import find_card
from pathotune_pipeline.errors import SpecError, UnknownNameError, UsageError, WeightsError
from pathotune_pipeline.slide_encoders import (
    SlideEncoderSpec,
    StagedSlideEncoder,
    catalogue,
    create,
    create_slide_encoder,
    save_slide_encoder,
)
from pathotune_pipeline.slide_encoders.card import SlideEncoderCard
from pathotune_pipeline.slide_encoders.catalogue import PublishedCard, published
from pathotune_pipeline.slide_encoders.create import build
from tests.slide_encoders.published_states import (
    State,
    feather_state,
    gigapath_state,
    titan_state,
    walk_feather,
    walk_gigapath,
    walk_titan,
)
from tests.slide_encoders.toys import IN_DIM, STRIDE_PX, slide

DIM, LAYERS, HEADS = 16, 2, 4
COMMIT = "0" * 40


def card(name: str, architecture: str, **settings: object) -> PublishedCard:
    return PublishedCard.parse(
        {
            "name": name, "about": "a toy", "page": "https://example.org/toy", "hub": f"lab/{name}", "gated": True,
            "licence": "MIT", "architecture": architecture, "settings": {"dim": DIM, **settings}, "in_dim": IN_DIM,
            "dim": DIM, "tile_encoder": "uni", "source": ["none"],
        }
    )  # fmt: skip


CARDS = {
    "toy-gigapath": card("toy-gigapath", "longnet", layers=LAYERS, heads=HEADS, attends_padding=True),
    "toy-titan": card("toy-titan", "alibi-vit", layers=LAYERS, heads=HEADS, pool_heads=2),
    "toy-feather": card("toy-feather", "abmil", attention_dim=8),
}


def published_state(name: str) -> State:
    if name == "toy-gigapath":
        return gigapath_state(IN_DIM, DIM, LAYERS)
    return titan_state(IN_DIM, DIM, LAYERS) if name == "toy-titan" else feather_state(IN_DIM, DIM, 8)


@pytest.fixture(autouse=True)
def _toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The toys as names of the catalogue, and the hub's cache, empty, with the hub out of reach."""
    from huggingface_hub import constants

    monkeypatch.setattr(catalogue, "published_by_any_name", lambda: CARDS)
    for name in CARDS:
        monkeypatch.setitem(create.SLIDE_ENCODERS._loaded, name, create.published_encoder)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def made(name: str, in_dim: int | None = IN_DIM, **values: object) -> StagedSlideEncoder:
    return create_slide_encoder(SlideEncoderSpec.parse({"name": name, **values}), in_dim=in_dim)


@pytest.mark.parametrize("name", CARDS)
def test_published_weights_make_what_the_publication_says(name: str, tmp_path: Path) -> None:
    state = published_state(name)
    save_file(state, tmp_path / "model.safetensors")
    encoder, (features, coords) = made(name, weights=str(tmp_path / "model.safetensors")), slide(23)
    cells = coords // STRIDE_PX
    expected = {
        "toy-gigapath": lambda: walk_gigapath(state, features, cells, layers=LAYERS, heads=HEADS),
        "toy-titan": lambda: walk_titan(state, features, cells, layers=LAYERS, heads=HEADS, pool_heads=2),
        "toy-feather": lambda: walk_feather(state, features),
    }[name]()
    with torch.no_grad():
        found = encoder(features, coords, STRIDE_PX)
    # One segment holds all 24 tokens; of GigaPath's five branches each then gives every head its own share of them.
    if name == "toy-gigapath":
        plain = build(encoder.card.with_values(settings={**encoder.card.settings, "segments": [64], "dilations": [1]}))
        plain.load_state_dict(encoder.state_dict())
        found, branched = plain.eval()(features, coords, STRIDE_PX).detach(), found
        assert (found - branched).abs().max() > 1e-4
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (encoder.card.source, encoder.card.tile_encoder) == ("catalogue", "uni")


def in_cache(hub: Path, repository: str, file: str, content: bytes) -> None:
    """A file as the hub's cache has it: a blob by its SHA-256, and a link to it in a snapshot."""
    folder = hub / f"models--{repository.replace('/', '--')}"
    for part in (folder / "snapshots" / COMMIT, folder / "blobs", folder / "refs"):
        part.mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
    blob.write_bytes(content)
    (folder / "snapshots" / COMMIT / file).symlink_to(blob)


def test_file_folder_pickle_and_the_hubs_cache_are_the_same(tmp_path: Path) -> None:
    state, (features, coords) = published_state("toy-gigapath"), slide(23)
    (tmp_path / "given").mkdir()
    save_file(state, tmp_path / "given" / "model.safetensors")
    torch.save({"model": {**state, "decoder_pred.weight": torch.ones(2)}}, tmp_path / "slide_encoder.pth")
    in_cache(tmp_path / "hub", "lab/toy-gigapath", "model.safetensors", save(state))
    ways = [{"weights": str(tmp_path / way)} for way in ("given/model.safetensors", "given", "slide_encoder.pth")]
    encoders = [made("toy-gigapath", **way) for way in (*ways, {})]
    first = encoders[0](features, coords, STRIDE_PX)
    for encoder in encoders:
        assert torch.equal(encoder(features, coords, STRIDE_PX), first)
        assert encoder.card == encoders[0].card
        assert not encoder.training


def test_weights_out_of_reach_say_where_they_are_had() -> None:
    with pytest.raises(WeightsError, match=r"toy-titan.*not in the local cache.*example.org/toy.*--weights FILE"):
        made("toy-titan")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s.pop("norm.weight"), "norm.weight is missing"),
        (
            lambda s: s.update({"encoder.layers.1.ffn.fc3.weight": torch.ones(2)}),
            r"layers.1.ffn.fc3.weight is unexpected",
        ),
        (lambda s: s.update({"cls_token": torch.ones(1, 1, 8)}), r"cls_token has shape \(1, 1, 8\) and must have"),
    ],
    ids=["missing", "left over", "of another shape"],
)
def test_weights_that_do_not_fit_are_named(change: object, told: str, tmp_path: Path) -> None:
    state = published_state("toy-gigapath")
    change(state)  # type: ignore[operator]
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=told):
        made("toy-gigapath", weights=str(tmp_path / "x.safetensors"))


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"epoch": 3}, buffer)
    for name, content, told in (
        ("text.safetensors", b"hello", "cannot be read"),
        ("none.pth", buffer.getvalue(), "holds no parameters"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=told):
            made("toy-feather", weights=str(tmp_path / name))
    with pytest.raises(WeightsError, match="nothing lies at"):
        made("toy-feather", weights=str(tmp_path / "absent.pth"))


def test_an_untrained_encoder_is_its_seeds_alone() -> None:
    settings = {"dim": 16, "layers": 1, "heads": 2}
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = (made("longnet", settings=settings, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert one.card == same.card
    assert one.card.recipe() != other.card.recipe()
    assert one.card.source == "random"
    assert "random" in one.card.note


@pytest.mark.parametrize("name", ["longnet", "alibi-vit", "abmil"])
def test_a_trained_encoder_is_kept_and_found_again(name: str, tmp_path: Path) -> None:
    settings = {"dim": 16} if name == "abmil" else {"dim": 16, "layers": 1, "heads": 2}
    encoder, (features, coords) = (
        made(name, settings=settings | ({"pool_heads": 2} if name == "alibi-vit" else {})),
        slide(9),
    )
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1)
    path = tmp_path / "new" / "mine.safetensors"
    card = save_slide_encoder(path, encoder, name="mine", tile_encoder="uni", training={"cases": 3})
    again = made(f"local:{path}", in_dim=None)
    assert again.card == card
    assert (card.name, card.source, card.tile_encoder, card.training, card.note) == (
        "mine",
        "local",
        "uni",
        {"cases": 3},
        "",
    )
    assert card.weights_sha256 != encoder.card.weights_sha256
    assert torch.equal(again(features, coords, STRIDE_PX), encoder(features, coords, STRIDE_PX))


def test_files_of_ours_that_cannot_be_taken(tmp_path: Path) -> None:
    encoder = made("abmil", settings={"dim": 16})
    path = tmp_path / "mine.safetensors"
    card = save_slide_encoder(path, encoder, name="mine")
    assert "random" in card.note  # nothing was learnt meanwhile
    whole = path.read_bytes()
    torn = bytearray(whole)
    torn[-1] ^= 1
    bare = save({"w.bias": torch.ones(1)})
    for content, told in (
        (bytes(torn), "not those that its card"),
        (whole[:-9], "cannot be read"),
        (bare, "--weights FILE"),
    ):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=told):
            made(f"local:{path}")
    with pytest.raises(WeightsError, match="nothing lies at"):
        made(f"local:{tmp_path / 'absent.safetensors'}")
    with pytest.raises(UsageError, match=r"must end in \.safetensors"):
        save_slide_encoder(tmp_path / "mine.pt", encoder, name="mine")
    with pytest.raises(UsageError, match="has no weights to keep"):
        save_slide_encoder(path, made("mean"), name="mine")


@pytest.mark.parametrize(
    ("values", "error", "told"),
    [
        ({"name": "gigapth"}, UnknownNameError, "Did you mean 'gigapath'"),
        ({"name": "longnet", "settings": {"layer": 1}}, SpecError, "there is no setting 'layer'"),
        ({"name": "longnet", "weights": "x.pth"}, SpecError, "--weights goes with a published"),
        ({"name": "mean", "settings": {"dim": 3}}, SpecError, "cannot be changed"),
    ],
)
def test_wrong_calls(values: dict[str, object], error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        create_slide_encoder(SlideEncoderSpec.parse(values), in_dim=IN_DIM)


def test_features_of_another_length_are_refused(tmp_path: Path) -> None:
    save_file(published_state("toy-titan"), tmp_path / "x.safetensors")
    with pytest.raises(SpecError, match=r"takes features of 12 numbers, and these have 99.*features of uni"):
        made("toy-titan", in_dim=99, weights=str(tmp_path / "x.safetensors"))
    with pytest.raises(SpecError, match="say with in_dim"):
        made("mean", in_dim=None)


@pytest.mark.parametrize("name", list(published()))
def test_published_cards_build_networks_of_the_published_size(name: str) -> None:
    facts = published()[name]
    with torch.device("meta"):
        encoder = build(
            SlideEncoderCard(
                name=name, source="catalogue", architecture=facts.architecture, settings=facts.settings,
                in_dim=facts.in_dim, dim=facts.dim,
            )
        )  # fmt: skip
    assert encoder.dim == facts.dim
    assert find_card(facts.tile_encoder).dim == facts.in_dim
    size = sum(parameter.numel() for parameter in encoder.parameters())
    captions = {"titan": 2_463_744, "feather": 108 * 513}.get(name, 0)  # what the file holds and is left out
    if facts.parameters_million is not None:
        assert (size + captions) / 1e6 == pytest.approx(facts.parameters_million, abs=0.06)
