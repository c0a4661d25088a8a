"""Fixtures of the corpus tests: an empty place on each kind of store."""

import pytest

from tests import emulators


@pytest.fixture(params=emulators.STORES)
def store(request, tmp_path):
  """URL of an empty place: a folder, or real emulators of Google Cloud Storage and of Azure on loopback."""
  with emulators.store(request.param, tmp_path) as url:
    yield url
