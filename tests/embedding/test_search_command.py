"""python -m deepsentinel.search and deepsentinel.detect, as typed."""

import geopandas
import numpy as np
import pytest
import shapely

from deepsentinel.embedding import places
from tests import commands
from tests.embedding import cell_maps

SEARCH, DETECT = 'deepsentinel.search', 'deepsentinel.detect'


@pytest.fixture(scope='module')
def home(tmp_path_factory):
  """A map, and examples on it."""
  home = tmp_path_factory.mktemp('home')
  cell_maps.write(home / 'maps', cell_maps.random_vectors(12, 10), computed=True)
  points = [shapely.Point(*cell_maps.lonlat(row + 0.5, col + 0.5)) for row in (1, 5, 9) for col in (4, 7)]
  frame = geopandas.GeoDataFrame({'label': [1, 0] * 3}, geometry=points, crs=4326)
  places.write(home / 'examples.gpkg', {'examples': frame})
  return home


def test_build_search_and_detect(home):
  build = (SEARCH, 'build', f'--embedding={home / "maps"}', f'--out={home / "index"}', '--noprogress')
  said = commands.run(*build)
  assert said.code == 0, said.err
  assert 'index: 119 rows of 8 dimensions' in said.out
  assert 'computed, not observed' in said.out
  assert 'made before' in commands.run(*build).out
  point = ','.join(f'{v:.5f}' for v in cell_maps.lonlat(5.5, 5.5))
  said = commands.run(SEARCH, f'--index={home / "index"}', f'--point={point}', '--k=3', f'--out={home / "found"}')
  assert said.code == 0, said.err
  assert (home / 'found' / 'similarity_maps.png').exists()
  assert 'Chips without pixels: ' in said.out
  assert said.out.count('maps/') >= 3
  detect = (DETECT, f'--embedding={home / "maps"}', f'--examples={home / "examples.gpkg"}', f'--out={home / "seen"}')
  said = commands.run(*detect, '--refits=5')
  assert said.code == 0, said.err
  assert 'positive: 3 examples, 3 cells' in said.out
  assert np.isin(['detection.json', 'detection.png'], [path.name for path in (home / 'seen').iterdir()]).all()


@pytest.mark.parametrize(
  ('command', 'says'),
  [
    ((SEARCH, '--index=x'), 'Pass one of --point, --polygon, --patch; found none.'),
    ((SEARCH, '--index=x', '--point=1,2', '--patch=a'), 'found --point, --patch.'),
    ((SEARCH, '--point=1,2'), 'search build --embedding=MAP --out=FOLDER` makes it'),
    ((SEARCH, 'build'), 'Nothing to build an index of. Pass --embedding=MAP'),
    ((SEARCH, 'build', '--data=deepsentinel_unlabelled'), '--checkpoint=RUN and --data=RECORDS go together'),
    ((DETECT, '--embedding=x'), 'Pass the examples as --examples=FILE, or as --positive=LON,LAT'),
    ((DETECT, '--embedding=x', '--examples=y'), 'x is not there. `python -m deepsentinel.embed'),
  ],
)
def test_bad_flags(command, says, tmp_path):
  error = commands.run(*command, f'--out={tmp_path / "out"}', cwd=tmp_path).error
  assert says in error
  assert not (tmp_path / 'out').exists()
