"""A Prefect server that is away costs a run its summary, and nothing else."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import pytest
from prefect.exceptions import PrefectException

from flows import summaries


@pytest.mark.parametrize(
    "error", [httpx.ConnectError("http://user:SECRET@x"), PrefectException("no"), ConnectionResetError()]
)
def test_a_server_that_is_away_is_told_of_and_fails_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def away(**words: Any) -> None:
        raise error

    monkeypatch.setattr(summaries, "create_markdown_artifact", away)
    with caplog.at_level(logging.WARNING):
        assert summaries.leave_summary("extract-summary", "# What", "Every slide") is False
    (said,) = caplog.messages
    assert said.startswith(f"Prefect did not take the extract-summary ({type(error).__name__})")
    assert "SECRET" not in caplog.text


def test_what_is_wrong_with_us_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(**words: Any) -> None:
        raise TypeError("a bug")

    monkeypatch.setattr(summaries, "create_markdown_artifact", wrong)
    with pytest.raises(TypeError):
        summaries.leave_summary("extract-summary", "# What", "Every slide")
