"""What every slide encoder keeps to, and what each makes of order and place."""

from __future__ import annotations

import pytest
import torch

from pathotune_pipeline.errors import SpecError
from pathotune_pipeline.slide_encoders import encoder as encoder_module
from pathotune_pipeline.slide_encoders.alibi_vit import AlibiViT, AlibiViTSpec
from pathotune_pipeline.slide_encoders.longnet import LongNet, LongNetSpec
from tests.slide_encoders.toys import IN_DIM, KINDS, STRIDE_PX, slide, toy

LAYERED = ("longnet", "alibi-vit")


@pytest.mark.parametrize("kind", KINDS)
def test_steps_one_by_one_make_the_same_bits(kind: str) -> None:
    encoder, (features, coords) = toy(kind), slide(40)
    whole = encoder(features, coords, STRIDE_PX)
    tokens = encoder.embed(features, coords, stride_px=STRIDE_PX)
    assert tokens.x.shape[:2] == (1, encoder.prefix + 40)
    for layer in range(encoder.n_layers):
        tokens = encoder.run(tokens, layer, layer + 1)
    assert torch.equal(encoder.read_out(tokens), whole)
    assert whole.shape == (encoder.dim,)
    assert torch.equal(encoder(features, coords, STRIDE_PX), whole)


@pytest.mark.parametrize("kind", LAYERED)
def test_tokens_that_are_given_back_unchanged_change_nothing_and_others_do(kind: str) -> None:
    encoder, (features, coords) = toy(kind), slide(30)
    tokens = encoder.run(encoder.embed(features, coords, stride_px=STRIDE_PX), 0, 1)
    rest = [encoder.read_out(encoder.run(tokens.with_x(x), 1, 3)) for x in (tokens.x.clone(), tokens.x.flip(2))]
    assert torch.equal(rest[0], encoder(features, coords, STRIDE_PX))
    assert not torch.allclose(rest[1], rest[0], atol=1e-3)


@pytest.mark.parametrize("kind", ["mean", "abmil", "alibi-vit"])
def test_the_order_of_tiles_does_not_matter(kind: str) -> None:
    encoder, (features, coords) = toy(kind), slide(60)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(2))
    mixed = encoder(features[order], coords[order], STRIDE_PX)
    torch.testing.assert_close(mixed, encoder(features, coords, STRIDE_PX), rtol=1e-5, atol=1e-6)


def test_the_order_matters_to_longnet_where_it_cuts_segments_and_only_there() -> None:
    features, coords = slide(60)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(2))
    torch.manual_seed(1)
    settings = LongNetSpec(dim=16, layers=2, heads=4, segments=(100,), dilations=(1,))
    whole, cut = LongNet(IN_DIM, settings).eval(), toy("longnet")
    as_is, mixed = (whole(features[o], coords[o], STRIDE_PX) for o in (torch.arange(60), order))
    torch.testing.assert_close(mixed, as_is, rtol=1e-5, atol=1e-6)
    as_is, mixed = (cut(features[o], coords[o], STRIDE_PX) for o in (torch.arange(60), order))
    assert (mixed - as_is).abs().max() > 1e-3


@pytest.mark.parametrize("kind", LAYERED)
def test_places_matter(kind: str) -> None:
    encoder, (features, coords) = toy(kind), slide(40)
    apart = encoder(features, coords * torch.tensor([3, 1]), STRIDE_PX)
    assert (apart - encoder(features, coords, STRIDE_PX)).abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["mean", "abmil", "alibi-vit"])
def test_a_slide_may_lie_anywhere_on_its_glass(kind: str) -> None:
    encoder, (features, coords) = toy(kind), slide(40)
    moved = encoder(features, coords + torch.tensor([77, 900]) * STRIDE_PX, STRIDE_PX)
    assert torch.equal(moved, encoder(features, coords, STRIDE_PX))


@pytest.mark.parametrize("kind", ["longnet", "alibi-vit"])
def test_cells_count_and_not_pixels(kind: str) -> None:
    """The same grid on a slide scanned at twice the magnification."""
    encoder, (features, coords) = toy(kind), slide(40)
    assert torch.equal(encoder(features, coords * 2, STRIDE_PX * 2), encoder(features, coords, STRIDE_PX))


@pytest.mark.parametrize("kind", LAYERED)
def test_long_slides_are_recomputed_to_the_same_gradients(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    features, coords = slide(50)
    found = {}
    for long in (False, True):
        monkeypatch.setattr(encoder_module, "RECOMPUTE_FROM", 10 if long else 1000)
        encoder, kept = toy(kind).train(), []
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x)  # noqa: B023
        with hooks:
            out = encoder(features, coords, STRIDE_PX)
        (out * torch.linspace(-1, 1, encoder.dim)).sum().backward()
        found[long] = sum(kept), {name: each.grad for name, each in encoder.named_parameters()}
    assert found[True][0] < found[False][0] / 2
    for name, grad in found[False][1].items():
        assert grad is not None, name
        assert grad.abs().max() > 0, name
        assert torch.equal(found[True][1][name], grad), name


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_that_do_not_fit_are_refused(kind: str) -> None:
    encoder, (features, coords) = toy(kind), slide(5)
    wrong = {
        "features must be": (features[:, :-1], coords, STRIDE_PX),
        "at least 1": (features[:0], coords[:0], STRIDE_PX),
        "coords must be": (features, coords[:-1], STRIDE_PX),
        "stride_px must be above 0": (features, coords, 0),
    }
    for told, given in wrong.items():
        with pytest.raises(ValueError, match=told):
            encoder(*given)


def test_dropout_in_training_alone() -> None:
    torch.manual_seed(0)
    encoder = AlibiViT(IN_DIM, AlibiViTSpec(dim=16, layers=1, heads=2, dropout=0.5))
    features, coords = slide(9)
    assert not torch.equal(encoder(features, coords, STRIDE_PX), encoder(features, coords, STRIDE_PX))
    encoder.eval()
    assert torch.equal(encoder(features, coords, STRIDE_PX), encoder(features, coords, STRIDE_PX))


def test_the_mean_of_tiles_leaves_the_class_token_out() -> None:
    torch.manual_seed(0)
    settings = LongNetSpec(dim=16, layers=1, heads=2, pooling="mean")
    encoder, (features, coords) = LongNet(IN_DIM, settings).eval(), slide(9)
    tokens = encoder.run(encoder.embed(features, coords, stride_px=STRIDE_PX), 0, 1)
    other = tokens.x.clone()
    other[0, 0] += 7
    assert torch.equal(encoder.read_out(tokens.with_x(other)), encoder.read_out(tokens))
    other[0, 5] += 7
    assert not torch.equal(encoder.read_out(tokens.with_x(other)), encoder.read_out(tokens))


@pytest.mark.parametrize(
    ("spec", "values", "told"),
    [
        (LongNetSpec, {"dim": 20, "heads": 8}, "multiple of heads"),
        (LongNetSpec, {"segments": [4, 8]}, "must be as many"),
        (LongNetSpec, {"segments": [4, 8], "dilations": [2, 4]}, "must hold a 1"),
        (AlibiViTSpec, {"dim": 20}, "multiple of heads, 12"),
    ],
)
def test_settings_that_do_not_fit(spec: type[LongNetSpec], values: dict[str, object], told: str) -> None:
    with pytest.raises(SpecError, match=told):
        spec.parse(values)


def test_published_sizes() -> None:
    """86.3 and 48.5 million with TITAN's second pooler, of 2,463,744, which its slide embedding does not use."""
    with torch.device("meta"):
        built = LongNet(1536, LongNetSpec()), AlibiViT(768, AlibiViTSpec())
    assert [sum(each.numel() for each in network.parameters()) for network in built] == [86_330_880, 46_076_160]
