"""What became of a slide, as it comes from another process."""

from __future__ import annotations

import pickle

from pathotune_pipeline.features.outcome import Outcome


def test_outcomes_of_other_processes_hold_their_strings_once() -> None:
    sent = Outcome(
        "a", "committed", stages={"read_s": 1.0}, facts={"slide": {"levels": [{"reader": "jpeg"}], "icc": None}}
    )
    one, two = (pickle.loads(pickle.dumps(sent)).sharing() for _ in range(2))
    assert one == two == sent
    for left, right in zip(
        one.facts["slide"]["levels"][0].items(), two.facts["slide"]["levels"][0].items(), strict=True
    ):
        assert left[0] is right[0]
        assert left[1] is right[1]
    assert next(iter(one.stages)) is next(iter(two.stages))
