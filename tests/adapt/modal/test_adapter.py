"""The network: nothing changed at the start, everything learned that should be, and every set of modalities answered."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from pathotune_pipeline.adapt.modal import ModalCase, ModalNetwork, attach_modal
from pathotune_pipeline.adapt.modal.losses import text_loss
from pathotune_pipeline.errors import SpecError, UsageError
from tests.adapt.modal.toys import (
    CLINICAL,
    KINDS,
    STRIDE,
    TABLE,
    answer,
    case_of,
    encoder,
    image_of,
    network_of,
    of_kind,
    spec_of,
)
from tests.adapt.toys import snapshot

PARTS = ("tiles", "genes", "clinical")


def without(case: ModalCase, *parts: str) -> ModalCase:
    gone: dict[str, Any] = {}
    for part in parts:
        gone |= {"features": None, "coords": None} if part == "tiles" else {part: None}
    return replace(case, **gone)


@pytest.mark.parametrize("kind", KINDS)
def test_with_closed_gates_the_image_is_the_slide_encoders_bit_by_bit(kind: str) -> None:
    slide_encoder = of_kind(kind)
    network, whole = network_of(slide_encoder), network_of(slide_encoder, checkpoint_tiles=0)
    slide_encoder.eval().requires_grad_(
        False
    )  # as it is used: torch may sum otherwise where a weight asks for gradients
    case = case_of(in_dim=slide_encoder.in_dim)
    bare = slide_encoder(case.features, case.coords, STRIDE)
    for given in (
        case,
        replace(case, genes=1e3 * case.genes),
        without(case, "genes"),
        without(case, "genes", "clinical"),
    ):
        assert torch.equal(image_of(network, given), bare.expand(3, -1))
    assert torch.equal(image_of(whole, case), bare.expand(3, -1))


@pytest.mark.parametrize("kind", KINDS)
def test_with_open_gates_genes_and_clinical_variables_change_the_image(kind: str) -> None:
    network = network_of(of_kind(kind), opened=True)
    case = case_of(in_dim=network.encoder.in_dim if network.encoder else 0)
    bare = image_of(network, case)
    for changed in (replace(case, genes=case.genes.flip(0)), replace(case, clinical=case.clinical + 1)):
        assert not torch.allclose(image_of(network, changed), bare, atol=1e-3)


def test_layers_are_shared_out_among_blocks_in_their_order() -> None:
    ran: list[tuple[int, int]] = []
    network = network_of(encoder(n_layers=7))
    held: Any = network.encoder
    run = held.run
    held.run = lambda tokens, start, stop: (ran.append((start, stop)), run(tokens, start, stop))[1]
    answer(network, case_of(), task=[0])
    assert ran == [(0, 2), (2, 4), (4, 7)]


def test_three_tasks_give_three_embeddings() -> None:
    network, case = network_of(encoder()), case_of()
    found = answer(network, case)
    assert found.shape == (3, 32)
    assert float(torch.pdist(found.detach()).min()) > 0.05
    assert torch.equal(answer(network, case, task=[2, 0]), found[[2, 0]])
    assert torch.equal(answer(network, case, task=torch.tensor([1])), found[[1]])
    for numbers in ([3], [-1], []):
        with pytest.raises(UsageError, match="it has 0 to 2: general, diagnosis, survival"):
            answer(network, case, task=numbers)


@pytest.mark.parametrize(("combine", "width"), [("sum", 64), ("concat", 192)])
def test_the_embedding_is_made_of_the_three_read_outs(combine: str, width: int) -> None:
    network, case = network_of(encoder(), combine=combine, opened=True), case_of()
    read = network.read(network.inputs(case))
    norm, linear = network.adapter.head
    assert linear.in_features == width
    parts = [read.image, read.gene, read.task]
    joined = torch.cat(parts, 1) if combine == "concat" else parts[0] + parts[1] + parts[2]
    assert torch.allclose(read.embedding, linear(norm(joined)), atol=1e-5)


MISSING = [(), *((part,) for part in PARTS), *(tuple(other for other in PARTS if other != part) for part in PARTS)]


@pytest.mark.parametrize("parts", MISSING)
def test_every_set_of_modalities_is_answered_and_each_in_its_own_way(parts: tuple[str, ...]) -> None:
    network, case = network_of(encoder(), opened=True), case_of()
    found = answer(network, without(case, *parts))
    assert torch.isfinite(found).all()
    for others in MISSING:
        if others != parts:
            assert not torch.allclose(found, answer(network, without(case, *others)), atol=1e-4)


def test_a_modality_of_which_nothing_is_known_is_one_that_is_missing() -> None:
    network, case = network_of(encoder(), opened=True), case_of()
    for part in ("genes", "clinical"):
        unknown = replace(case, **{part: torch.full_like(getattr(case, part), float("nan"))})
        assert torch.equal(answer(network, unknown), answer(network, without(case, part)))


def test_what_stands_for_a_missing_modality_is_learned() -> None:
    network, case = network_of(encoder(), opened=True), case_of()
    absent = network.adapter.tokens.absent
    vectors = {**absent, "tiles": network.adapter.absent_image}
    for part, vector in vectors.items():
        network.zero_grad()
        answer(network, case).square().sum().backward()
        assert vector.grad is None
        answer(network, without(case, part)).square().sum().backward()
        assert float(vector.grad.abs().sum()) > 0


def test_genes_and_clinical_variables_need_no_slide_encoder() -> None:
    torch.manual_seed(0)
    network = attach_modal(None, spec_of(dim=48, n_heads=3), pathways=TABLE, clinical=CLINICAL).eval()
    case = without(case_of(), "tiles")
    assert answer(network, case).shape == (3, 32)
    assert not torch.allclose(answer(network, case), answer(network, without(case, "genes")), atol=1e-3)
    with pytest.raises(UsageError, match="without a slide encoder and takes no tiles"):
        answer(network, case_of())


@pytest.mark.parametrize("pathways", [None, TABLE])
@pytest.mark.parametrize("clinical", [(), CLINICAL])
def test_a_network_may_know_fewer_modalities(pathways: Any, clinical: tuple[str, ...]) -> None:
    network = attach_modal(encoder(), spec_of(), pathways=pathways, clinical=clinical).eval()
    case = case_of()
    given = without(case, *([] if pathways else ["genes"]), *([] if clinical else ["clinical"]))
    assert answer(network, given).shape == (3, 32)
    assert (network.read(network.inputs(given)).gene is None) == (pathways is None)
    for part, known in (("genes", pathways), ("clinical", clinical)):
        if not known:
            with pytest.raises(UsageError, match=f"{part}.* were given, and it was made without"):
                answer(network, replace(given, **{part: getattr(case, part)}))


def test_what_cannot_be_taken_is_refused() -> None:
    network, case = network_of(encoder()), case_of()
    with pytest.raises(UsageError, match="no tiles, no expression and no clinical value"):
        answer(network, without(case, *PARTS))
    with pytest.raises(UsageError, match=r"genes must be \[8\]; found \(7,\)"):
        answer(network, replace(case, genes=case.genes[:7]))
    with pytest.raises(UsageError, match="clinical values hold an infinite value"):
        answer(network, replace(case, clinical=case.clinical / 0))
    with pytest.raises(UsageError, match="without their coordinates"):
        answer(network, replace(case, coords=None))
    with pytest.raises(SpecError, match="one is named twice"):
        attach_modal(encoder(), spec_of(), clinical=("age", "age"))
    with pytest.raises(SpecError, match="neither a slide encoder, nor pathways"):
        attach_modal(None, spec_of())
    with pytest.raises(SpecError, match="named once each"):
        spec_of(tasks=["general", "general"])


def test_modality_dropout_leaves_out_each_at_its_rate_and_never_all() -> None:
    network, case = network_of(encoder(), modality_dropout=0.5), case_of()
    inputs = network.inputs(case)
    torch.manual_seed(0)
    drawn = [network._dropped(inputs) for _ in range(800)]
    assert not any(seen.is_empty() for seen in drawn)
    for name in ("tiles", "memberships", "clinical"):
        left_out = sum(getattr(seen, name) is None for seen in drawn)
        # 1/2 less the 1/8 in which all went and came back: 300, with a standard deviation of 13.7.
        assert 245 <= left_out <= 355
    assert all(
        network._dropped(network.inputs(without(case, "tiles", "genes"))).clinical is not None for _ in range(20)
    )


def test_modality_dropout_is_for_training_alone_and_draws_the_same_for_every_case() -> None:
    network, case = network_of(encoder(), modality_dropout=0.9), case_of()
    assert torch.equal(answer(network, case), answer(network, case))
    after = []
    for given in (case, without(case, "tiles", "genes")):
        torch.manual_seed(1)
        network._dropped(network.inputs(given))
        after.append(torch.get_rng_state())
    assert torch.equal(*after)


def test_attaching_leaves_the_encoder_as_it_is_and_shares_its_memory() -> None:
    slide_encoder = encoder()
    before = snapshot(slide_encoder)
    network = attach_modal(slide_encoder, spec_of(), pathways=TABLE)
    assert slide_encoder.training
    assert all(parameter.requires_grad for parameter in slide_encoder.parameters())
    assert network.encoder is not None
    assert network.training
    assert not any(module.training for module in network.encoder.modules())
    assert [p.data_ptr() for p in network.encoder.parameters()] == [p.data_ptr() for p in slide_encoder.parameters()]
    assert network.trainable_names() == [name for name, _ in network.named_parameters() if name.startswith("adapter.")]
    assert snapshot(slide_encoder) == before


def trained(network: ModalNetwork, cases: list[ModalCase], steps: int) -> dict[str, float]:
    """Train on texts of one's own for each case; returns the largest gradient that each tensor met."""
    targets = torch.randn(len(cases), 3, 32, generator=torch.Generator().manual_seed(8))
    optimiser = torch.optim.AdamW(network.adapter.parameters(), lr=3e-3)
    largest = dict.fromkeys(network.trainable_names(), 0.0)
    network.train()
    for step in range(steps):
        optimiser.zero_grad()
        text_loss(answer(network, cases[step % len(cases)]), targets[step % len(cases)], temperature=0.1).backward()
        for name, parameter in network.named_parameters():
            if parameter.grad is not None:
                largest[name] = max(largest[name], float(parameter.grad.abs().max()))
        optimiser.step()
    network.eval()
    return largest


def test_training_opens_gates_moves_all_of_the_adapter_and_nothing_of_the_encoder() -> None:
    slide_encoder = encoder()
    network = network_of(slide_encoder)
    frozen = snapshot(slide_encoder)
    start = {name: parameter.detach().clone() for name, parameter in network.adapter.named_parameters()}
    whole = case_of()
    cases = [whole, case_of(4), without(whole, "tiles"), without(whole, "genes"), without(whole, "clinical")]
    torch.manual_seed(2)
    largest = trained(network, cases, 25)
    assert snapshot(slide_encoder) == frozen
    # Softmax takes no notice of what all keys have in common, so their bias meets rounding alone.
    assert [name for name, slope in largest.items() if slope < 1e-7 and not name.endswith("key.bias")] == []
    assert [name for name, p in network.adapter.named_parameters() if torch.equal(p.detach(), start[name])] == []
    for block in network.adapter.blocks:
        assert (block.inject.gate != 0).all()
    bare = slide_encoder.eval()(whole.features, whole.coords, STRIDE)
    assert not torch.allclose(image_of(network, whole), bare, atol=1e-3)
    shuffled = replace(whole, genes=whole.genes[torch.randperm(8, generator=torch.Generator().manual_seed(1))])
    assert not torch.allclose(image_of(network, whole), image_of(network, shuffled), atol=1e-4)


def test_mixed_precision_trains_as_full_precision_does() -> None:
    found = []
    for enabled in (False, True):
        network, case = network_of(encoder(), opened=True), case_of()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            said = answer(network, case)
        text_loss(said, torch.eye(3, 32)).backward()
        found.append((said.float(), network.adapter.blocks[0].inject.gate.grad))
    (full, slope), (mixed, other) = found
    assert torch.allclose(full, mixed, atol=0.15)
    assert torch.nn.functional.cosine_similarity(slope, other, dim=0) > 0.9


def test_training_brings_embeddings_to_their_texts() -> None:
    network = network_of(encoder())
    cases = [case_of(1), case_of(2)]
    targets = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(8))

    def loss() -> float:
        with torch.no_grad():
            return sum(
                float(text_loss(answer(network, c), t, temperature=0.1)) for c, t in zip(cases, targets, strict=True)
            )

    before = loss()
    torch.manual_seed(2)
    trained(network, cases, 40)
    assert loss() < 0.3 * before
