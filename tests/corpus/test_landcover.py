"""A corpus whose label is a map of its own legend: from the GeoTIFF through files, manifest and page to the records."""

import json

import numpy as np
import pytest
import rasterio

from deepsentinel import corpus, legend, schema
from deepsentinel.corpus import examples, manifest, page, settings, worker
from deepsentinel.sources import base
from tests.corpus.test_sample import hashes, tiny_config

LEGEND = 'value,name,colour,corine_level1\n0,,,\n7,Wheat,#e0c040,agriculture\n9,Spruce,#207030,natural\n'
EDGE_LON = 14.0  # wheat west of it, spruce east of it


def world(folder, values=(7, 9), names=LEGEND):
  """A map of the tiny corpus' box in degrees, and its legend; returns the settings that name them."""
  values = np.repeat(np.array([values], np.uint8), 100, axis=1).repeat(100, axis=0)
  profile = {'driver': 'GTiff', 'height': 100, 'width': 200, 'count': 1, 'dtype': 'uint8', 'crs': 4326}
  with rasterio.open(
    folder / 'map.tif', 'w', transform=rasterio.Affine(0.02, 0, 12, 0, -0.02, 52.5), **profile
  ) as file:
    file.write(values, 1)
  (folder / 'legend.csv').write_text(names)
  return {'name': 'raster', 'path': str(folder / 'map.tif'), 'legend': str(folder / 'legend.csv')}


def config_of(section):
  config = tiny_config()
  config.labelled = True
  config.labels.landcover = section
  return config


@pytest.fixture(scope='module')
def sampled(tmp_path_factory):
  folder = tmp_path_factory.mktemp('landcover')
  return corpus.run(config_of(world(folder)), folder / 'corpus')


def expected_classes(row):
  grid = base.PatchGrid(row.epsg, row.x0_m, row.y0_m, 32, 32)
  return np.where(grid.pixel_centres_lonlat()[0] < EDGE_LON, 1, 2)


def test_patches_hold_the_class_under_each_pixel(sampled):
  table = sampled.manifest()
  assert set(table['state']) == {'done'}  # without CORINE and OpenStreetMap
  assert sampled.landcover == (
    legend.MapClass('Wheat', (224, 192, 64), (7,), 'agriculture'),
    legend.MapClass('Spruce', (32, 112, 48), (9,), 'natural'),
  )
  for row in table.itertuples():
    arrays = sampled.read(row.id)
    np.testing.assert_array_equal(arrays['landcover'], expected_classes(row))
    assert not arrays['corine'].any()
    assert not arrays['osm'].any()
    with rasterio.open(sampled.path / 'patches' / row.id / 'landcover.tif') as file:
      assert file.colormap(1)[1] == (224, 192, 64, 255)
      assert (file.nodata, file.dtypes, file.descriptions) == (0, ('uint8',), ('land-cover class',))
      assert file.crs.to_epsg() == row.epsg


def test_level_1_shares_come_through_the_crosswalk(sampled):
  for row in sampled.manifest().itertuples():
    wheat = (expected_classes(row) == 1).sum()
    assert (row.agriculture_px, row.natural_px) == (wheat, 32 * 32 - wheat)
    assert row.urban_px == row.wetland_px == row.water_px == 0
  text = (sampled.path / page.FILE).read_text()
  assert 'land cover' in text
  assert 'CCLC' not in text
  assert '2 classes' in text


def test_the_card_carries_the_legend(sampled):
  card = json.loads((sampled.path / 'corpus.json').read_text())
  assert card['landcover'] == [
    {'name': 'Wheat', 'colour': '#e0c040', 'values': [7], 'corine_level1': 'agriculture'},
    {'name': 'Spruce', 'colour': '#207030', 'values': [9], 'corine_level1': 'natural'},
  ]
  record = examples.example(sampled.manifest()['id'].iloc[0], sampled.path, labelled=True)
  assert list(record)[: len(record) - len(schema.SCALARS)] == ['s2', 's1', 'corine', 'osm', 'landcover']
  assert 'landcover' not in examples.example(sampled.manifest()['id'].iloc[0], sampled.path, labelled=False)


def test_a_damaged_map_is_made_again_and_another_legend_is_refused(tmp_path):
  section = world(tmp_path)
  made = corpus.run(config_of(section), tmp_path / 'corpus')
  before, table = hashes(made.path), made.manifest()
  (made.path / 'patches' / 'p000003' / 'landcover.tif').unlink()
  (made.path / 'patches' / 'p000004' / 'landcover.tif').write_bytes(b'II*')
  again = corpus.run(config_of(section), made.path)
  assert hashes(made.path) == before
  assert again.manifest().equals(table)
  (tmp_path / 'legend.csv').write_text(LEGEND.replace('Wheat', 'Maize'))
  worker.workshop.cache_clear()  # as in the process of another run
  with pytest.raises(ValueError, match=r'corpus of another config. What differs: the legend of labels.landcover'):
    corpus.run(config_of(section), made.path)


def test_a_number_that_the_legend_lacks_fails_its_patches_alone(tmp_path):
  made = corpus.run(config_of(world(tmp_path, values=(7, 8))), tmp_path / 'corpus')
  table = made.manifest()
  failed = table[table['state'] == 'failed']
  assert 0 < len(failed) < len(table)
  assert failed['reason'].str.contains(r'map\.tif holds 8, which the legend lacks').all()
  assert (failed['sha256_landcover'] == '').all()
  assert (failed['lon_deg'] > EDGE_LON - 0.01).all()


def test_a_place_without_a_class_is_no_labelled_patch(tmp_path):
  made = corpus.run(config_of(world(tmp_path, values=(7, 0))), tmp_path / 'corpus')
  failed = made.manifest().query('state == "failed"')
  assert len(failed)
  assert set(failed['reason']) == {'corine and landcover: not one pixel has a class here'}


def test_no_other_corpus_changes(tmp_path):
  """Without the map: no column, no field, no key of the card; and a folder of before it was known is gone on with."""
  made = corpus.run(tiny_config(), tmp_path / 'corpus')
  assert 'sha256_landcover' not in made.manifest()
  assert 'landcover' not in made.card
  assert 'landcover' not in manifest.blank_row()
  assert list(schema.tensor_fields(made.spec, 32, labelled=True)) == ['s2', 's1', 'corine', 'osm']
  chosen = settings.checked(tiny_config())
  older = json.loads(json.dumps(chosen))
  del older['labels']['landcover']
  assert settings.differences(older, chosen) == []
  asked = settings.checked(config_of(world(tmp_path)))
  assert any('labels.landcover' in difference for difference in settings.differences(older, asked))


def test_sections_take_their_own_kind_of_source(tmp_path):
  section = world(tmp_path)
  config = config_of(section)
  config.labels.landcover = {'name': 'corine_raster', 'path': section['path'], 'codes': 'code'}
  with pytest.raises(ValueError, match=r"labels.landcover takes a source with a legend of its own.*'corine_raster'"):
    corpus.run(config, tmp_path / 'corpus')
  config = config_of({'name': 'raster', 'path': ''})
  config.labels.corine = section
  with pytest.raises(ValueError, match=r"labels.corine takes no source with a legend of its own; found name='raster'"):
    corpus.run(config, tmp_path / 'corpus')
  with pytest.raises(ValueError, match=r'state labels.corine.path.*labels.landcover.path'):
    corpus.run(config_of({'name': 'raster', 'path': '', 'legend': ''}), tmp_path / 'corpus')
