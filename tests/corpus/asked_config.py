"""The tiny corpus from a source on a network; half of its box was never seen."""

from tests.corpus import tiny_config


def get_config():
  config = tiny_config.get_config()
  config.source = {
    'name': 'tests.corpus.asked_source:AskedEarth', 'log': '', 'search_s': 0.0, 'closed': '', 'barren': 14.0,
  }  # fmt: skip
  return config
