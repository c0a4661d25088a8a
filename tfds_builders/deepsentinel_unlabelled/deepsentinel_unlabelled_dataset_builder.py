"""Paired Sentinel-1 / Sentinel-2 patches without labels, for pretraining."""

from deepsentinel import packaging

_DEMO = packaging.CorpusConfig(
  name='demo', description='A region of SyntheticEarth; sampled on the spot.', corpus='demo_unlabelled'
)


class Builder(packaging.CorpusBuilder):
  """`tfds build tfds_builders/deepsentinel_unlabelled [--config=...]`; see README.md."""

  LABELLED = False
  BUILDER_CONFIGS = [_DEMO]  # noqa: RUF012 (TFDS wants a list)
  CONFIGS = (
    _DEMO,
    packaging.CorpusConfig(name='unlabelled_10k', description='10,000 patches.', corpus='unlabelled_10k'),
    packaging.CorpusConfig(name='unlabelled_100k', description='100,000 patches.', corpus='unlabelled_100k'),
    packaging.CorpusConfig(name='custom', description='A corpus folder of your own.'),
  )
