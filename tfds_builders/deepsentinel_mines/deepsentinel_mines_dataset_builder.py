"""Paired Sentinel-1 / Sentinel-2 patches of coal mines and of background."""

from deepsentinel import packaging
from deepsentinel.corpus import card

_DEMO = packaging.CorpusConfig(name='demo', description='Mines of SyntheticEarth.', corpus='demo_mines')


class Builder(packaging.CorpusBuilder):
  """`tfds build tfds_builders/deepsentinel_mines [--config=...]`; see README.md."""

  LABELLED = False
  BUILDER_CONFIGS = [_DEMO]  # noqa: RUF012 (TFDS wants a list)
  CONFIGS = (_DEMO, packaging.CorpusConfig(name='custom', description='A corpus folder of your own.'))

  def _check_corpus(self, corpus: card.Corpus) -> None:
    if not corpus.mines:
      raise ValueError(
        f'The corpus {corpus.path} is not of mines: its config names no mines.polygons. Package it with '
        f'`tfds build tfds_builders/deepsentinel_{"labelled" if corpus.labelled else "unlabelled"}`.'
      )
