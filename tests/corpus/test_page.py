"""corpus.html: what it says is what the corpus holds."""

import re

import numpy as np
import pytest

from deepsentinel import corpus
from deepsentinel.corpus import card, page
from tests.corpus.tiny_config import get_config


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  config = get_config()
  config.source.broken = 0.3
  folder = tmp_path_factory.mktemp('corpus')
  return corpus.run(config, folder / 'out')


def test_the_page_is_whole(made):
  table = made.manifest()
  failed = int((table['state'] == 'failed').sum())
  assert failed
  text = (made.path / page.FILE).read_text()
  assert '{{' not in text
  assert 'src="http' not in text
  assert text.count('data:image/png;base64,') == 4
  plain = re.sub(r'<[^>]+>', ' ', re.sub(r'base64,[^"]+', '', text))
  assert f'{12 - failed} of 32 x 32 px' in plain
  assert f'{failed} failed' in plain
  assert ('simulated world' in plain) == made.synthetic
  reason = re.sub(r'\d+', 'N', table.loc[table['state'] == 'failed', 'reason'].iloc[0])
  assert reason[:30] in plain


def test_bands_are_those_of_the_pixels(made):
  done = made.manifest().query('state == "done"')
  arrays = [made.read(i) for i in done['id']]
  bands = {band.name: band for band in page.band_samples(made, done)}
  for field, names, scale, nodata in (('s2', made.spec.s2_bands, 1, 0), ('s1', made.spec.s1_bands, 100, -32768)):
    stored = np.concatenate([a[field].reshape(-1, len(names)) for a in arrays])
    for i, name in enumerate(names):
      values = stored[:, i][stored[:, i] != nodata] / scale
      assert bands[name].mean == pytest.approx(values.mean())
      assert bands[name].percentiles[2] == pytest.approx(np.median(values))
      assert bands[name].nodata_share == pytest.approx((stored[:, i] == nodata).mean())


def test_another_split_is_drawn_anew(made):
  (made.path / page.FILE).write_text('old')
  config = get_config()
  config.source.broken = 0.3
  corpus.run(config, made.path)
  assert (made.path / page.FILE).read_text() == 'old'  # nothing changed, nothing drawn
  (made.path / page.FILE).unlink()
  corpus.run(config, made.path)
  assert card.Corpus(made.path).card['name'] in (made.path / page.FILE).read_text()
