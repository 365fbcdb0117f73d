"""What became of a slide, as a run holds it."""

from __future__ import annotations

import json
import pickle
import sys

from pathotune_pipeline.features.outcome import Outcome, Packed

SENT = Outcome(
    "a",
    "committed",
    stages={"read_s": 1.0, "encode_s": 0.25},
    facts={"slide": {"levels": [{"width": 1024, "downsample": 1.0}] * 8, "icc": None}, "bytes_read": 7},
)


def test_packed_outcomes_say_what_they_said() -> None:
    packed = pickle.loads(pickle.dumps(SENT)).packed()
    assert packed.as_dict() == SENT.as_dict()
    assert json.loads(json.dumps(packed.as_dict())) == SENT.as_dict()
    assert packed == SENT
    assert packed.facts["slide"]["icc"] is None
    assert packed.facts.get("bytes_read", 0) == 7
    assert packed.stages.get("read_wait_s", 0.0) == 0.0
    assert list(packed.stages) == ["read_s", "encode_s"]
    assert Outcome(**packed.as_dict()) == SENT
    assert packed.packed() == SENT
    assert "icc" in repr(packed)


def test_packed_values_take_less_memory() -> None:
    assert _size(Packed(SENT.facts)) < 0.5 * _size(pickle.loads(pickle.dumps(SENT.facts)))


def _size(value: object) -> int:
    size = sys.getsizeof(value)
    if isinstance(value, Packed):
        return size + sys.getsizeof(value._text)
    if isinstance(value, dict):
        return size + sum(_size(each) for each in value.values())
    if isinstance(value, list):
        return size + sum(_size(each) for each in value)
    return size
