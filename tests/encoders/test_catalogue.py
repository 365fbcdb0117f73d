"""Every card: it can be built, gives what it says, has the published size, and names its sources."""

from __future__ import annotations

import math

import pytest
import torch

from pathotune_pipeline.encoders import catalogue
from pathotune_pipeline.encoders.catalogue import CatalogueCard, find_card, parse_cards
from pathotune_pipeline.encoders.network import build_network, with_pooling
from pathotune_pipeline.encoders.published import encoder_card
from pathotune_pipeline.errors import SpecError, UnknownNameError
from tests.encoders.conftest import filled, toy_card

CARDS = catalogue.catalogue()
SMALL = ("kaiko-vits16", "resnet50", "dinov3-s")

WANTED = {
    *(
        "uni",
        "uni2-h",
        "virchow",
        "virchow2",
        "gigapath",
        "h-optimus-0",
        "h-optimus-1",
        "h0-mini",
        "phikon",
        "phikon-v2",
    ),
    *("conch", "conch-v1.5", "hibou-b", "hibou-l", "kaiko-vits16", "kaiko-vits8", "kaiko-vitb16", "kaiko-vitb8"),
    *("kaiko-vitl14", "lunit-vits16", "lunit-vits8", "gpfm", "midnight", "pathoduet"),
    *("resnet50", "convnext-b", "dinov2-b", "dinov2-l", "dinov2-g", "dinov3-s", "dinov3-b", "dinov3-l"),
}


def test_the_catalogue_holds_what_was_promised() -> None:
    assert set(CARDS) >= WANTED


@pytest.mark.parametrize("card", CARDS.values(), ids=list(CARDS))
def test_a_card_is_built_gives_its_dimension_and_has_the_published_size(card: CatalogueCard) -> None:
    with torch.device("meta"):
        network = build_network(card).eval()
        features = network(torch.zeros(2, 3, card.input_px, card.input_px))
    assert features.shape == (2, card.dim)
    if card.parameters_million is not None:
        found = sum(parameter.numel() for parameter in network.parameters()) / 1e6
        assert math.isclose(found, card.parameters_million, rel_tol=0.015)


@pytest.mark.parametrize("name", SMALL)
def test_small_networks_run_with_random_weights(name: str) -> None:
    card = CARDS[name]
    torch.manual_seed(0)
    network = build_network(card).eval()
    with torch.inference_mode():
        features = network(torch.rand(1, 3, card.input_px, card.input_px))
    assert features.shape == (1, card.dim)
    assert features.isfinite().all()


@pytest.mark.parametrize("card", CARDS.values(), ids=list(CARDS))
def test_a_card_says_where_it_comes_from_and_promises_no_more_than_was_seen(card: CatalogueCard) -> None:
    assert card.verified in ("never", "keys")  # no real weights have been seen
    assert all(len(line) > 20 for line in card.source)
    assert card.hub is None or card.hub.count("/") == 1
    assert card.hub is not None or "--weights" in card.note
    assert 0.2 <= card.mpp <= 1
    assert card.input_px <= (card.resize_px or card.input_px) <= card.tile_px
    plain = encoder_card(card, "0" * 64)
    assert (plain.dim, plain.tile_px, plain.licence) == (card.dim, card.tile_px, card.licence)


def test_names_of_other_pipelines_are_known_and_wrong_ones_offer_the_nearest() -> None:
    assert find_card("uni_v2") is find_card("uni2-h")
    assert find_card("conch_v15").name == "conch-v1.5"
    with pytest.raises(UnknownNameError, match="Did you mean 'virchow2'"):
        find_card("vrichow2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"poling": "cls"}, "Did you mean 'pooling'"),
        ({"licence": ""}, "licence"),
        ({"std": [0.2, 0.0, 0.2]}, "std"),
        ({"resize_px": 32}, "nothing could be cut"),
        ({"pooling": "attention"}, "does not go with tower"),
        ({"verified": "yes"}, "verified"),
        ({"source": []}, "source"),
    ],
)
def test_a_wrong_card_is_refused(change: dict, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        toy_card(**change)


def test_a_card_that_timm_cannot_build_says_so() -> None:
    with pytest.raises(SpecError, match="vit_nano_patch16"):
        build_network(toy_card(architecture="vit_nano_patch16"))
    with pytest.raises(SpecError, match="as the card says"):
        build_network(toy_card(arguments={"number_of_heads": 2}))


def test_a_file_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(SpecError, match="must map"):
        parse_cards("- a\n- b\n", "mine.yaml")


def test_registers_count_neither_as_class_token_nor_as_patches() -> None:
    card = toy_card(arguments={**toy_card().arguments, "reg_tokens": 4})
    pixels = torch.rand(2, 3, 64, 64)
    results = {}
    for pooling in ("cls", "mean", "cls+mean"):
        network = filled(with_pooling(card, pooling))
        with torch.inference_mode():
            tokens = network.trunk.forward_features(pixels)
            results[pooling] = network(pixels)
    assert tokens.shape[1] == 1 + 4 + 16
    torch.testing.assert_close(results["cls"], tokens[:, 0])
    torch.testing.assert_close(results["mean"], tokens[:, 5:].mean(1))
    torch.testing.assert_close(results["cls+mean"], torch.cat([results["cls"], results["mean"]], 1))


def test_another_pooling_changes_the_vectors_length_and_the_recipe() -> None:
    card = toy_card()
    one = with_pooling(card, "cls")
    assert (one.dim, with_pooling(one, "cls+mean").dim, with_pooling(card, "card")) == (32, 64, card)
    assert encoder_card(one, "0").recipe() != encoder_card(card, "0").recipe()
    for name in ("resnet50", "conch", "pathoduet"):
        with pytest.raises(SpecError, match="itself"):
            with_pooling(CARDS[name], "cls")
