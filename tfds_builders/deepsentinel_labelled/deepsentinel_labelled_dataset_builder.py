"""Paired Sentinel-1 / Sentinel-2 patches with CORINE and OpenStreetMap label maps."""

from deepsentinel import packaging

_DEMO = packaging.CorpusConfig(
  name='demo', description='A region of SyntheticEarth; sampled on the spot.', corpus='demo_labelled'
)


class Builder(packaging.CorpusBuilder):
  """`tfds build tfds_builders/deepsentinel_labelled [--config=...]`; see README.md."""

  LABELLED = True
  BUILDER_CONFIGS = [_DEMO]  # noqa: RUF012 (TFDS wants a list)
  CONFIGS = (
    _DEMO,
    packaging.CorpusConfig(name='labelled_1k', description='1,000 labelled patches.', corpus='labelled_1k'),
    packaging.CorpusConfig(name='labelled_10k', description='10,000 labelled patches.', corpus='labelled_10k'),
    packaging.CorpusConfig(name='custom', description='A corpus folder of your own.'),
  )
