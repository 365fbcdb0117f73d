"""Checkpoints with the names of the authors' code, of each version of it that is known."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from pathotune_pipeline.bags.bag import BagBatch
from pathotune_pipeline.errors import UsageError, WeightsError
from pathotune_pipeline.heads.head import HEADS, create_head
from pathotune_pipeline.heads.published import SOURCES, load_published, read_published

CLAM_EMBED = [("attention_net.0.weight", (24, 6)), ("attention_net.0.bias", (24,))]
CLAM_TAIL = [
    ("classifiers.weight", (2, 24)),
    ("classifiers.bias", (2,)),
    ("instance_classifiers.0.weight", (2, 24)),
    ("instance_classifiers.0.bias", (2,)),
    ("instance_classifiers.1.weight", (2, 24)),
    ("instance_classifiers.1.bias", (2,)),
]


def clam_gated(at: int, columns: int = 1) -> list:
    name = f"attention_net.{at}.attention"
    return [
        (f"{name}_a.0.weight", (8, 24)),
        (f"{name}_a.0.bias", (8,)),
        (f"{name}_b.0.weight", (8, 24)),
        (f"{name}_b.0.bias", (8,)),
        (f"{name}_c.weight", (columns, 8)),
        (f"{name}_c.bias", (columns,)),
    ]


def clam_ungated(last: int) -> list:
    name = "attention_net.3.module"
    return [
        (f"{name}.0.weight", (8, 24)),
        (f"{name}.0.bias", (8,)),
        (f"{name}.{last}.weight", (1, 8)),
        (f"{name}.{last}.bias", (1,)),
    ]


def clam_logits(state: dict[str, Tensor], bag: Tensor) -> Tensor:
    """CLAM-SB on a bag, by the published names alone."""
    layers = {key.removeprefix("attention_net.").rpartition(".")[0]: key.rpartition(".")[0] for key in state}

    def apply(end: str, x: Tensor) -> Tensor:
        (name,) = {full for short, full in layers.items() if short.endswith(end)}
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    h = F.linear(bag, state["attention_net.0.weight"], state["attention_net.0.bias"]).relu()
    if any("attention_a" in key for key in state):
        scores = apply("attention_c", apply("attention_a.0", h).tanh() * apply("attention_b.0", h).sigmoid())
    else:
        last = max(key for key in state if ".module." in key).split(".")[3]
        scores = apply(f"module.{last}", apply("module.0", h).tanh())
    return F.linear((scores.softmax(dim=0) * h).sum(dim=0), state["classifiers.weight"], state["classifiers.bias"])


@pytest.mark.parametrize(
    ("attention", "gated"),
    [(clam_gated(3), True), (clam_gated(2), True), (clam_ungated(2), False), (clam_ungated(3), False)],
)
def test_clam_of_every_version(attention, gated, recipe, small_head, some_bags):
    state = recipe([*CLAM_EMBED, *attention, *CLAM_TAIL], 5)
    bag, model = some_bags(9)[0], small_head("clam-sb", n_classes=2, gated=gated)
    with_loss = state | {"instance_loss_fn.labels": torch.arange(2)}
    load_published(model, with_loss, source="clam")
    assert (model(BagBatch.of(bag)).logits[0] - clam_logits(state, bag)).abs().max() < 1e-12
    assert torch.equal(model.instance_classifiers.weight[2:], state["instance_classifiers.1.weight"])
    assert torch.equal(model.instance_classifiers.bias[:2], state["instance_classifiers.0.bias"])


def test_clam_saved_from_several_gpus(recipe, small_head, some_bags):
    state = recipe([*CLAM_EMBED, *clam_gated(3), *CLAM_TAIL], 5)
    parallel = {key.replace("attention_net.", "attention_net.module."): value for key, value in state.items()}
    bag, model = some_bags(9)[0], small_head("clam-sb", n_classes=2)
    load_published(model, parallel, source="clam")
    assert (model(BagBatch.of(bag)).logits[0] - clam_logits(state, bag)).abs().max() < 1e-12


def test_clam_with_a_classifier_for_each_class(recipe, small_head):
    single = [
        (f"classifiers.{i}.{kind}", shape) for i in (0, 1) for kind, shape in (("weight", (1, 24)), ("bias", (1,)))
    ]
    state = recipe([*CLAM_EMBED, *clam_gated(3, columns=2), *single, *CLAM_TAIL[2:]], 5)
    model = small_head("clam-mb", n_classes=2)
    load_published(model, state, source="clam")
    assert torch.equal(model.classifier.weight[1], state["classifiers.1.weight"][0])
    assert torch.equal(model.classifier.bias, torch.cat([state["classifiers.0.bias"], state["classifiers.1.bias"]]))


def test_transmil_from_a_lightning_checkpoint(recipe, small_head, some_bags, tmp_path):
    layer = [
        ("norm.weight", (32,)),
        ("norm.bias", (32,)),
        ("attn.to_qkv.weight", (96, 32)),
        ("attn.to_out.0.weight", (32, 32)),
        ("attn.to_out.0.bias", (32,)),
        ("attn.res_conv.weight", (4, 1, 33, 1)),
    ]
    keys = [
        ("cls_token", (1, 1, 32)),
        *((f"pos_layer.proj{i}.weight", (32, 1, k, k)) for i, k in (("", 7), ("1", 5), ("2", 3))),
        *((f"pos_layer.proj{i}.bias", (32,)) for i in ("", "1", "2")),
        ("_fc1.0.weight", (32, 6)),
        ("_fc1.0.bias", (32,)),
        *((f"layer{i}.{key}", shape) for i in (1, 2) for key, shape in layer),
        ("norm.weight", (32,)),
        ("norm.bias", (32,)),
        ("_fc2.weight", (3, 32)),
        ("_fc2.bias", (3,)),
    ]
    state = recipe(keys, 5)
    torch.save({"state_dict": {f"model.{k}": v for k, v in state.items()}, "epoch": 3}, tmp_path / "transmil.ckpt")
    model, bare, bag = small_head("transmil"), small_head("transmil"), some_bags(9)[0]
    load_published(model, read_published(tmp_path / "transmil.ckpt"), source="transmil")
    load_published(bare, state, source="transmil")
    assert torch.equal(model(BagBatch.of(bag)).logits, bare(BagBatch.of(bag)).logits)
    assert torch.equal(model.layer2.attention.to_out.weight, state["layer2.attn.to_out.0.weight"])
    assert torch.equal(model.position.convs[1].weight, state["pos_layer.proj1.weight"])


DSMIL_TAIL = [("b_classifier.fcc.weight", (2, 2, 6)), ("b_classifier.fcc.bias", (2,))]
DSMIL_VALUES = [("b_classifier.v.1.weight", (6, 6)), ("b_classifier.v.1.bias", (6,))]
DSMIL = {
    "newest": (
        {},
        [("i_classifier.fc.0.weight", (2, 6)), ("i_classifier.fc.0.bias", (2,))]
        + [
            (f"b_classifier.q.{i}.{k}", s)
            for i, d in ((0, 6), (2, 16))
            for k, s in (("weight", (16, d)), ("bias", (16,)))
        ],
    ),
    "first": (
        {"query": "linear", "values": "linear"},
        [
            ("i_classifier.fc.weight", (2, 6)),
            ("i_classifier.fc.bias", (2,)),
            ("b_classifier.q.weight", (16, 6)),
            ("b_classifier.q.bias", (16,)),
            *DSMIL_VALUES,
        ],
    ),
}


@pytest.mark.parametrize("version", list(DSMIL))
@torch.no_grad()
def test_dsmil_of_every_version(version, recipe, small_head, some_bags):
    settings, keys = DSMIL[version]
    state = recipe([*keys, *DSMIL_TAIL], 5)
    model, bag = small_head("dsmil", n_classes=2, **settings), some_bags(9)[0]
    load_published(model, state | {"i_classifier.feature_extractor.conv1.weight": torch.zeros(3)}, source="dsmil")

    def layer(name: str, x: Tensor) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    scores = layer("i_classifier.fc.0" if version == "newest" else "i_classifier.fc", bag)
    queries = layer("b_classifier.q", bag) if version == "first" else layer("b_classifier.q.0", bag).relu()
    queries = queries if version == "first" else layer("b_classifier.q.2", queries).tanh()
    values = layer("b_classifier.v.1", bag) if version == "first" else bag
    attention = (queries @ queries[scores.argmax(dim=0)].mT / 16**0.5).softmax(dim=0)  # [N, C]
    pooled = (attention.mT @ values)[None]
    logits = F.conv1d(pooled, state["b_classifier.fcc.weight"], state["b_classifier.fcc.bias"])[0, :, 0]
    assert (model(BagBatch.of(bag)).logits[0] - logits).abs().max() < 1e-12


def test_dtfd_from_its_four_state_dicts(recipe, small_head, tmp_path):
    def tier(name: str) -> list:
        shapes = {"attention_V.0": (8, 24), "attention_U.0": (8, 24), "attention_weights": (1, 8)}
        return [
            (f"{name}{key}.{kind}", size if kind == "weight" else size[:1])
            for key, size in shapes.items()
            for kind in ("weight", "bias")
        ]

    saved = {
        "classifier": recipe([("fc.weight", (3, 24)), ("fc.bias", (3,))], 1),
        "dim_reduction": recipe([("fc1.weight", (24, 6))], 2),
        "attention": recipe(tier(""), 3),
        "att_classifier": recipe(
            [*tier("attention."), ("classifier.fc.weight", (3, 24)), ("classifier.fc.bias", (3,))], 4
        ),
    }
    parallel = {name: {f"module.{key}": value for key, value in each.items()} for name, each in saved.items()}
    for state in (saved, parallel):
        torch.save(state, tmp_path / "best_model.pth")
        model = small_head("dtfd")
        load_published(model, read_published(tmp_path / "best_model.pth"), source="dtfd")
        assert torch.equal(model.embed[0].weight, saved["dim_reduction"]["fc1.weight"])
        assert torch.equal(model.first.classifier.bias, saved["classifier"]["fc.bias"])
        assert torch.equal(model.first.attention.u.weight, saved["attention"]["attention_U.0.weight"])
        assert torch.equal(
            model.second.attention.w.weight, saved["att_classifier"]["attention.attention_weights.weight"]
        )
        assert torch.equal(model.second.classifier.weight, saved["att_classifier"]["classifier.fc.weight"])


def test_weights_that_do_not_fit_are_named(recipe, small_head):
    with pytest.raises(WeightsError, match=r"missing \['attention_u.bias'"):
        load_published(small_head("abmil", embed=False), {"attention.0.weight": torch.zeros(1)})
    state = recipe([*CLAM_EMBED, *clam_gated(3), *CLAM_TAIL], 5)
    with pytest.raises(WeightsError, match=r"of another shape \['classifier.bias'"):
        load_published(small_head("clam-sb", n_classes=3), state, source="clam")
    with pytest.raises(WeightsError, match=r"not known \['extra.weight'\]"):
        load_published(small_head("clam-sb", n_classes=2), state | {"extra.weight": torch.zeros(1)}, source="clam")
    with pytest.raises(UsageError, match="known for abmil, clam"):
        load_published(small_head("mean"), {}, source="mean")


def test_files_are_read_without_running_them(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    assert read_published(tmp_path / "a.safetensors")["a"].tolist() == [1, 1]

    class Trap:
        def __reduce__(self) -> tuple:
            return (tmp_path.joinpath("sprung").touch, ())

    torch.save({"state_dict": {"a": torch.ones(1)}, "trap": Trap()}, tmp_path / "trap.pt")
    (tmp_path / "short.pt").write_bytes(b"\x80")
    (tmp_path / "short.safetensors").write_bytes(b"\x80")
    torch.save([1], tmp_path / "list.pt")
    for name in ("trap.pt", "short.pt", "short.safetensors", "list.pt"):
        with pytest.raises(WeightsError, match="state_dict alone"):
            read_published(tmp_path / name)
    assert not (tmp_path / "sprung").exists()
    with pytest.raises(FileNotFoundError):
        read_published(tmp_path / "absent.pt")


def test_every_head_with_known_weights_exists():
    for name in SOURCES:
        assert HEADS.get(name)
        assert create_head(name, in_dim=4, n_classes=2).in_dim == 4
