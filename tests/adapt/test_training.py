"""What training moves, and what it must leave alone: byte by byte."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pathotune_pipeline.adapt.attach import AdaptedNetwork
from tests.adapt.toys import DIM, KINDS, METHODS, fresh, frozen, moved, pixels, snapshot, spec_of, vit

STEPS = 25


def train(adapted: AdaptedNetwork, *, steps: int = STEPS, seed: int = 0) -> nn.Linear:
    """A few steps towards random labels, as a careless caller takes them: everything is told to train."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        images, labels = torch.randn(8, 3, 32, 32), torch.arange(8) % 2
        head = nn.Linear(adapted.eval()(images[:1]).shape[1], 2)
        adapted.train()
        parameters = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW([*parameters, *head.parameters()], lr=3e-3, weight_decay=0.05)
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(head(adapted(images)), labels).backward()
            optimizer.step()
    adapted.eval()
    return head


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_training_moves_every_tensor_of_the_adapter_and_no_byte_of_the_backbone(kind: str, method: str) -> None:
    module = KINDS[kind]()
    adapted = fresh(module, spec_of(method, targets="all"))
    before, start = snapshot(module), {name: p.detach().clone() for name, p in adapted.named_parameters()}
    declared = set(adapted.trainable_names())
    assert declared == {f"adapter.{name}" for name, _ in adapted.adapter.named_parameters()}
    train(adapted)
    assert snapshot(module) == before == snapshot(adapted.network)
    changed = {name for name, parameter in adapted.named_parameters() if not torch.equal(parameter, start[name])}
    assert changed == declared
    if method.startswith("vpt"):
        rows = adapted.adapter["visual"].prompts.detach()
        assert min(float(torch.pdist(block).min()) for block in rows) > 1e-3


def test_every_tensor_of_pathotune_gets_gradients_once_the_gate_is_open() -> None:
    adapted = fresh(vit(), spec_of("pathotune"))
    adapted(pixels()).square().sum().backward()
    silent = {name for name, p in adapted.adapter.named_parameters() if p.grad is None or not p.grad.any()}
    assert silent == {
        n for n, _ in adapted.adapter.named_parameters() if n.startswith(("instance.refine", "instance.norm"))
    }
    with torch.no_grad():
        adapted.adapter["instance"].gate.fill_(0.1)
    adapted.zero_grad()
    adapted(pixels()).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in adapted.adapter.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_the_backbone_stays_in_eval_mode_within_a_model_that_trains(method: str) -> None:
    """With drop-path and dropout in the backbone, outputs while training are those in use: the adapter has none itself."""
    adapted = fresh(KINDS["SwiGLU packed"](), spec_of(method, lora_dropout=0))
    in_use = adapted(pixels())
    model = nn.Sequential(adapted, nn.Linear(DIM, 2)).train()
    assert adapted.training
    assert adapted.adapter.training
    assert not any(part.training for part in adapted.network.modules())
    assert torch.equal(model[0](pixels()), in_use)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["class token", "rotary"])
def test_checkpointed_blocks_give_the_same_gradients(kind: str, method: str) -> None:
    """Two batches before one backward, so that nothing may be remembered from the last one alone."""
    adapted = moved(KINDS[kind](), spec_of(method, text_scope="deep", prompt_dropout=0.2, lora_dropout=0.2)).train()

    def gradients() -> list[torch.Tensor]:
        adapted.zero_grad()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            first = adapted(pixels(seed=1))
            if method == "pathotune":
                adapted.select_text(1)
            second = adapted(pixels(seed=2))
            adapted.select_text(0)
        (first.square().sum() + second.sum()).backward()
        return [parameter.grad.clone() for parameter in adapted.adapter.parameters()]

    plain = gradients()
    adapted.checkpoint_blocks(enabled=True)
    assert adapted.network.grad_checkpointing
    again = gradients()
    assert all(torch.allclose(one, other, atol=1e-5, rtol=1e-4) for one, other in zip(plain, again, strict=True))
    adapted.eval()
    assert not adapted.network.grad_checkpointing
    adapted.train()
    assert adapted.network.grad_checkpointing


def test_checkpointing_keeps_less() -> None:
    adapted = fresh(vit(), spec_of("vpt-deep")).train()

    def kept() -> int:
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            adapted(pixels())
        return sum(sizes)

    plain = kept()
    adapted.checkpoint_blocks(enabled=True)
    assert kept() < plain / 4


@pytest.mark.parametrize("method", METHODS)
def test_threads_that_share_a_backbone_get_what_they_get_alone(method: str) -> None:
    module = frozen("class token")
    adapted = {name: moved(module, spec_of(method), seed=seed) for seed, name in enumerate(("one", "other"))}
    networks = {**adapted, "again": adapted["one"], "frozen": module}
    images = {name: pixels(seed=number) for number, name in enumerate(networks)}
    with torch.inference_mode():
        alone = {name: network(images[name]) for name, network in networks.items()}
    wrong: list[str] = []
    gate = threading.Barrier(len(networks))

    def work(name: str) -> None:
        with torch.inference_mode():
            gate.wait()
            for _ in range(20):
                if not torch.equal(networks[name](images[name]), alone[name]):
                    wrong.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in networks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("kind", "method"), [*(("class token", method) for method in METHODS), ("rotary", "pathotune")]
)
def test_compiled_is_eager_and_not_frozen(kind: str, method: str) -> None:
    module = frozen(kind)
    adapted = moved(module, spec_of(method))
    torch._dynamo.reset()
    compiled = torch.compile(adapted, backend="aot_eager", dynamic=False, fullgraph=True)
    with torch.inference_mode():
        eager, plain = adapted(pixels()), module(pixels())
        assert torch.allclose(compiled(pixels()), eager, atol=1e-5)
        assert torch.equal(adapted(pixels()), eager)
        assert torch.allclose(compiled(pixels(seed=8)), adapted(pixels(seed=8)), atol=1e-5)
    assert not torch.allclose(eager, plain, atol=1e-3)


def test_an_adapter_on_a_compiled_network_is_not_lost_in_its_graph() -> None:
    module = frozen("class token")
    torch._dynamo.reset()
    compiled = torch.compile(module, backend="eager", dynamic=False)
    with torch.inference_mode():
        plain = compiled(pixels())
        adapted = moved(compiled, spec_of("vpt-deep"))
        assert torch.equal(adapted(pixels()), moved(module, spec_of("vpt-deep"))(pixels()))
        assert torch.equal(compiled(pixels()), plain)


@pytest.mark.parametrize("method", METHODS)
def test_a_deep_copy_is_on_its_own(method: str) -> None:
    adapted = moved(vit(), spec_of(method))
    before = adapted(pixels())
    copied = copy.deepcopy(adapted)
    train(adapted, steps=2)
    assert not torch.allclose(adapted(pixels()), before, atol=1e-3)
    assert torch.equal(copied(pixels()), before)


@pytest.mark.parametrize("method", METHODS)
def test_what_extraction_uses_says_the_same(method: str) -> None:
    adapted = moved(vit(), spec_of(method)).train()
    used = adapted.for_inference()
    assert adapted.training
    assert not used.training
    assert torch.allclose(used(pixels()), adapted.eval()(pixels()), atol=1e-5)
