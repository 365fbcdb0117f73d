"""Attention, gates and their numbers, held against torch's own attention and against the published counts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pathotune_pipeline.adapt.modal.attention import NarrowAttention, NarrowMlp
from pathotune_pipeline.adapt.modal.interaction import (
    Extractor,
    Injector,
    count_parameters,
    interaction_blocks,
)
from pathotune_pipeline.adapt.modal.spec import ModalSpec
from pathotune_pipeline.errors import SpecError


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_published_numbers_of_parameters() -> None:
    spec = ModalSpec()
    with torch.device("meta"):
        assert count(NarrowAttention(768, n_heads=12, reduction=4)) == 668_352
        assert count(NarrowAttention(768, n_heads=12, reduction=4, self_attention=True)) == 666_816
        assert count(Injector(spec, 768)) == 669_120
        assert count(Extractor(spec, 768)) == 965_760
        blocks = interaction_blocks(spec, 768)
    assert count(blocks) == count_parameters(768) == 8_169_792
    assert [len(block.extract) for block in blocks] == [1, 1, 3]
    assert [block.mix is None for block in blocks] == [True, False, False]


@pytest.mark.parametrize(("n_blocks", "reduction"), [(1, 4), (3, 4), (3, 2), (5, 4)])
def test_the_formula_holds_at_a_width_of_64(n_blocks: int, reduction: int) -> None:
    spec = ModalSpec(n_blocks=n_blocks, reduction=reduction, n_heads=4)
    assert count(interaction_blocks(spec, 64)) == count_parameters(64, n_blocks, reduction)
    assert count_parameters(64) == 61_296  # by hand: 3 (5,072 + 7,264) + 2 * 4,880 + 2 * 7,264


def test_a_width_that_heads_cannot_share_is_refused() -> None:
    with pytest.raises(
        SpecError, match=r"width of 64 cannot be shared by reduction 4 and 12 heads.*--n-heads 8 would do"
    ):
        interaction_blocks(ModalSpec(), 64)


@pytest.mark.parametrize("itself", [False, True])
def test_attention_is_torchs_own(itself: bool) -> None:
    dim, narrow, heads = 48, 12, 3
    ours = NarrowAttention(dim, n_heads=heads, reduction=4, self_attention=itself)
    theirs = nn.MultiheadAttention(narrow, heads, kdim=dim, vdim=dim, batch_first=True)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
        theirs.q_proj_weight.copy_(ours.query.weight)
        theirs.k_proj_weight.copy_(ours.key.weight)
        theirs.v_proj_weight.copy_(ours.value.weight)
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]))
        theirs.out_proj.weight.copy_(ours.merge.weight)
        theirs.out_proj.bias.copy_(ours.merge.bias)
    tokens, source = torch.randn(1, 7, dim), torch.randn(1, 5, dim)
    asking = ours.norm(tokens)
    asked = asking if itself else ours.norm_source(source)
    expected = ours.widen(theirs(ours.narrow(asking), asked, asked)[0])
    assert torch.allclose(ours(tokens) if itself else ours(tokens, source), expected, atol=1e-6)


def test_a_closed_gate_passes_tiles_bit_by_bit_and_an_open_one_adds_once() -> None:
    inject = Injector(ModalSpec(n_heads=4), 64)
    tiles, modal = torch.randn(1, 9, 64), torch.randn(1, 4, 64)
    assert torch.equal(inject(tiles, modal), tiles)
    with torch.no_grad():
        inject.gate.copy_(torch.arange(64.0))
    added = torch.arange(64.0) * inject.attention(tiles, modal)
    assert torch.allclose(inject(tiles, modal), tiles + added, atol=1e-6)


def test_an_extractor_adds_its_attention_and_its_mlp_once() -> None:
    extract = Extractor(ModalSpec(n_heads=4), 64).eval()
    modal, tiles = torch.randn(1, 4, 64), torch.randn(1, 9, 64)
    after = modal + extract.attention(modal, tiles)
    assert torch.allclose(extract(modal, tiles), after + extract.mlp.layers(after), atol=1e-6)


def test_drop_path_leaves_out_a_share_and_keeps_the_mean() -> None:
    mlp = NarrowMlp(8, reduction=2, drop_path=0.25)
    tokens = torch.randn(1, 3, 8)
    with torch.no_grad():
        full = mlp.eval()(tokens)
        torch.manual_seed(0)
        drawn = [mlp.train()(tokens) for _ in range(400)]
    left_out = sum(bool((each == 0).all()) for each in drawn)
    assert 70 <= left_out <= 130  # 100 expected, standard deviation 8.7
    assert all(torch.allclose(each, full / 0.75) for each in drawn if bool((each != 0).any()))
