"""Fixtures of the gateway's tests: the fake provider over real HTTP."""

from collections.abc import Iterator

import pytest

from tests.provider import Provider


@pytest.fixture(scope="session")
def _provider_server() -> Iterator[Provider]:
    server = Provider().start()
    yield server
    server.stop()


@pytest.fixture
def provider(_provider_server: Provider) -> Provider:
    """The fake provider, with nothing received yet. Scripts: see `tests/provider.py`."""
    _provider_server.requests.clear()
    return _provider_server
