"""What texts and instance prompts are for: tasks that nothing else could solve."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pathotune_pipeline.encoders.encoder import Encoder
from pathotune_pipeline.tuning.patches.patch_set import PatchSet
from pathotune_pipeline.tuning.run.adapt import PatchTask, adapt_patches, adapt_tasks
from pathotune_pipeline.tuning.run.spec import AdaptSpec

STAINS = [(200, 120, 180), (120, 90, 190)]
TASKS = {"colour": {"task": "telling stains apart"}, "density": {"task": "counting crowded nuclei"}}
EXACT = {"colour_share": 0, "stain_share": 0, "blur_share": 0}


def stained_nuclei(make_patches, count: int, *, seed: int = 0) -> tuple[PatchSet, PatchSet]:
    """The same patches under two labels: which of two stains, and whether dark nuclei are many or few."""
    rng = np.random.default_rng(seed)
    stain, crowded = rng.integers(0, 2, count), rng.integers(0, 2, count)
    pixels = np.array(STAINS)[stain][:, None, None] + rng.normal(0, 25, (count, 32, 32, 3))
    for place in range(count):
        for _ in range(14 if crowded[place] else 4):
            x, y = rng.integers(0, 28, 2)
            pixels[place, y : y + 4, x : x + 4] -= 70
    images = np.clip(pixels, 0, 255).astype(np.uint8)
    return tuple(make_patches(images, labels, classes=("low", "high")) for labels in (stain, crowded))


def unit_gain(encoder: Encoder) -> Encoder:
    """Weights at random so large that every layer bends what goes through it, as a trained network's do.

    timm's own random weights are so small that a block hardly changes its input: nothing could be steered by a prompt.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for module in encoder.module.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
    return encoder


def accuracy(result, patches: PatchSet, index: np.ndarray, **which: int) -> float:
    return float((result.predict(patches, index, **which).argmax(1) == patches.labels[index]).mean())


def learn_both(encoder: Encoder, sets: tuple[PatchSet, PatchSet], **changes):
    adapter = {"n_prompts": 4, "n_text": 4, "ivp": False}
    train = {"epochs": 10, "warmup_epochs": 1, "lr": 0.003, "patience": 0}
    plain = {"method": "pathotune", "shared_head": True, "adapter": adapter, "augment": EXACT, "train": train}
    tasks = [
        PatchTask(patches, np.arange(200), np.arange(200, 260), name, words)
        for patches, (name, words) in zip(sets, TASKS.items(), strict=True)
    ]
    return adapt_tasks(encoder, tasks, spec=AdaptSpec.parse({**plain, **changes}))


def test_one_adapter_solves_two_tasks_that_only_their_text_tells_apart(new_encoder, new_patches):
    sets, test = stained_nuclei(new_patches, 400), np.arange(260, 400)
    result = learn_both(unit_gain(new_encoder()), sets)
    assert result.text is not None
    assert [text.split(" for ")[1] for text in result.text.texts] == [
        "telling stains apart; classes: low, high",
        "counting crowded nuclei; classes: low, high",
    ]
    right = [accuracy(result, patches, test, task=number) for number, patches in enumerate(sets)]
    wrong = [accuracy(result, patches, test, task=number, text=1 - number) for number, patches in enumerate(sets)]
    assert min(right) > 0.9
    assert max(wrong) < 0.7  # it answers the other question


def test_without_texts_one_head_cannot_tell_two_tasks_apart(new_encoder, new_patches):
    sets, test = stained_nuclei(new_patches, 400), np.arange(260, 400)
    result = learn_both(unit_gain(new_encoder()), sets, method="vpt-deep")
    assert np.mean([accuracy(result, patches, test, task=number) for number, patches in enumerate(sets)]) < 0.85


def test_heads_of_their_own_need_no_text(new_encoder, new_patches):
    sets, test = stained_nuclei(new_patches, 400), np.arange(260, 400)
    result = learn_both(unit_gain(new_encoder()), sets, method="vpt-deep", shared_head=False)
    assert min(accuracy(result, patches, test, task=number) for number, patches in enumerate(sets)) > 0.9


def crowded_for_its_stain(make_patches, count: int, *, seed: int = 0) -> PatchSet:
    """Of one stain many nuclei are of class 1, of the other few are; all else varies and means nothing.

    Brightness, tint, illumination, noise, and the nuclei's darkness and number vary from patch to patch.
    """
    rng, vary = np.random.default_rng(seed), 0.25
    stain, crowded = rng.integers(0, 2, count), rng.integers(0, 2, count)
    base = np.array([(200, 120, 180), (150, 110, 200)])[stain].astype(float)
    base = base * (1 + vary * rng.uniform(-0.25, 0.25, (count, 1))) + vary * rng.normal(0, 12, (count, 3))
    down, right = np.mgrid[-1:1:32j, -1:1:32j]
    slope = vary * rng.normal(0, 12, (count, 2))
    light = slope[:, 0, None, None] * down + slope[:, 1, None, None] * right
    noise = 20 * (1 + vary * rng.uniform(-0.5, 0.5, count))[:, None, None, None]
    pixels = base[:, None, None] + light[..., None] + noise * rng.normal(0, 1, (count, 32, 32, 3))
    for place in range(count):
        darkness = 70 * (1 + vary * rng.uniform(-0.4, 0.4))
        for _ in range(rng.integers(10, 15) if crowded[place] else rng.integers(3, 8)):
            x, y = rng.integers(0, 28, 2)
            pixels[place, y : y + 4, x : x + 4] -= darkness
    return make_patches(np.clip(pixels, 0, 255).astype(np.uint8), (stain + crowded) % 2, classes=("no", "yes"))


@pytest.mark.slow
def test_where_the_class_hangs_on_the_instances_stain_pathotune_beats_vpt_and_vpt_a_probe(new_encoder, new_patches):
    """The encoder's features tell stain and number of nuclei, each linearly, but not which number means what.

    Prompts that are the same for all images can bend the frozen network a little towards that; prompts that are made
    of the image can tell the network what this image's stain asks for.
    """
    patches, test = crowded_for_its_stain(new_patches, 840), np.arange(440, 840)
    scores: dict[str, list[float]] = {}
    for seed in range(3):
        for method in ("linear", "vpt-deep", "pathotune"):
            spec = AdaptSpec.parse(
                {
                    "method": method,
                    "refine_lr": 0.3,
                    "adapter": {"n_prompts": 8, "n_text": 2, "n_instance": 4},
                    "augment": EXACT,
                    "train": {"epochs": 15, "warmup_epochs": 1, "lr": 0.003, "patience": 0, "seed": seed},
                }
            )
            encoder = unit_gain(new_encoder())
            result = adapt_patches(encoder, patches, train=np.arange(320), val=np.arange(320, 440), spec=spec)
            scores.setdefault(method, []).append(accuracy(result, patches, test))
    for seed in range(3):
        linear, vpt, pathotune = (scores[method][seed] for method in ("linear", "vpt-deep", "pathotune"))
        assert linear + 0.03 < vpt < pathotune - 0.05, scores
