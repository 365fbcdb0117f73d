"""The hub's empty cache and the small encoder, as the tests of encoders have them."""

from tests.encoders.conftest import hub, toy  # noqa: F401
