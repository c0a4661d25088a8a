"""python -m deepsentinel.embed, with a checkpoint that is made up and everything else real."""

import dataclasses
import os

import numpy as np
import pytest
import rasterio
from absl import flags
from absl.testing import flagsaver

from deepsentinel import embed
from deepsentinel.sources import base
from deepsentinel.train import checkpoint, inputs
from tests.embedding.small_area import make_grid, make_model
from tests.sources.scene_files import write

if not flags.FLAGS.is_parsed():
  flags.FLAGS(['embed', '--checkpoint=run', '--out=out'])


@pytest.fixture
def scene_files(tmp_path):
  """A Sentinel-2 and a Sentinel-1 GeoTIFF of the same ground."""
  grid = make_grid(100, 90)
  rng = np.random.default_rng(0)
  for name, bands, dtype, values in (
    ('S2_20200601', ('B2', 'B3', 'B4'), 'uint16', rng.integers(200, 4000, (3, 100, 90))),
    ('S1_20200602', ('VV', 'VH'), 'float32', rng.uniform(-25, -5, (2, 100, 90))),
  ):
    (tmp_path / name).mkdir()
    with rasterio.open(
      tmp_path / name / f'{name}.tif', 'w', driver='GTiff', height=100, width=90, count=len(bands), dtype=dtype,
      crs='EPSG:32632', transform=grid.transform,
    ) as dataset:  # fmt: skip
      dataset.write(values.astype(dtype))
      dataset.descriptions = bands
  times = '{"S2_20200601": "2020-06-01T10:00:00Z", "S1_20200602": "2020-06-02T05:00:00Z"}'
  return {
    's2': str(tmp_path / 'S2_20200601'),
    's1': str(tmp_path / 'S1_20200602'),
    's2_unit': 'reflectance_x1e4',
    's1_unit': 'db',
    's1_quantity': 'sigma0_ellipsoid',
    'option': [f'times={times}'],
  }


@pytest.fixture(autouse=True)
def made_up_checkpoint(monkeypatch):
  model = make_model(attention=True)
  monkeypatch.setattr(checkpoint, 'load_trained', lambda path, stage=None: model)


def run(out, **values):
  with flagsaver.flagsaver(out=str(out), progress=False, **values):
    embed.run()


def test_local_files(scene_files, tmp_path, capsys):
  run(tmp_path / 'out', **scene_files)
  with rasterio.open(tmp_path / 'out' / 'embedding.tif') as dataset:
    assert dataset.shape == (7, 6)
    assert dataset.transform[:6] == (160, 0, 600_010, 0, -160, 5_300_020)
    assert np.isfinite(dataset.read()).all()
    assert dataset.tags()['scenes'] == 'S2_20200601,S1_20200602'
  printed = capsys.readouterr().out
  assert 'sentinel2: S2_20200601, 2020-06-01 10:00 UTC' in printed
  assert 'area: 0.90 x 1.00 km, EPSG:32632, 90 x 100 px' in printed


def test_a_model_fine_tuned_on_a_part_of_its_bands_sees_that_part_alone(scene_files, tmp_path, capsys, monkeypatch):
  model = make_model(stage='finetune', subsets=[('VV', 'VH')])
  model = dataclasses.replace(model, config={**model.config, 'data': {'crop_px': 64, 'bands': 'VH,VV'}})
  assert model.shown == ('VV', 'VH')
  monkeypatch.setattr(checkpoint, 'load_trained', lambda path, stage=None: model)
  run(tmp_path / 'both', **scene_files)
  assert 'S2_20200601 is left out: the model takes no sentinel2 band' in capsys.readouterr().out
  with rasterio.open(tmp_path / 'both' / 'embedding.tif') as dataset:
    assert dataset.tags()['bands'] == 'VV,VH'
  # Whatever gives it pixels: those of the other bands are absent.
  rng, spec, radar = np.random.default_rng(0), model.spec, [False] * 3 + [True] * 2
  s1 = rng.integers(-2500, -300, (1, 1, 32, 32, 2)).astype(np.int16)
  for s2 in (np.zeros((1, 1, 32, 32, 3), np.uint16), np.full((1, 1, 32, 32, 3), 3000, np.uint16)):
    ready = inputs.as_stored(model.prepare(spec), {'s2': s2, 's1': s1})
    np.testing.assert_array_equal(ready['present'][0, 0], radar)
    np.testing.assert_array_equal(ready['images'][..., :3], 0)
  for present in (None, np.ones((1, 5), bool)):
    np.testing.assert_array_equal(model._present(np.zeros((1, 32, 32, 5)), present), [radar])
  with pytest.raises(ValueError, match=r'fine-tuned on VV,VH alone .*these pixels are B2,B3,B4'):
    model.prepare(spec.select(spec.s2_bands))
  assert dataclasses.replace(model, stage='pretrain').shown == ()


def test_a_local_scene_that_was_fetched_anew_is_another(scene_files, tmp_path):
  run(tmp_path / 'out', **scene_files)
  run(tmp_path / 'out', **scene_files)  # nothing is left to do
  os.utime(tmp_path / 'S2_20200601' / 'S2_20200601.tif', (1, 1))
  with pytest.raises(ValueError, match=r'holds another embedding \(inputs: .*Pass another --out'):
    run(tmp_path / 'out', **scene_files)


def test_a_part_of_a_local_scene(scene_files, tmp_path):
  west, south, east, north = make_grid(100, 90).window(20, 30, 40, 40).outline_lonlat().bounds
  run(tmp_path / 'out', bounds=[str(v) for v in (west, south, east, north)], **scene_files)
  with rasterio.open(tmp_path / 'out' / 'embedding.tif') as dataset:
    # The box of longitudes and latitudes around the window, on the scene's own pixels.
    assert 0 <= 600_010 + 300 - dataset.bounds.left < 20
    assert (dataset.bounds.left - 600_010) % 10 == 0


def test_masked_clouds(scene_files, tmp_path, monkeypatch, capsys):
  model = make_model(attention=True)
  monkeypatch.setattr(checkpoint, 'load_trained', lambda path, stage=None: model)
  with pytest.raises(ValueError, match='this checkpoint has never seen missing optical pixels'):
    run(tmp_path / 'out', mask_clouds=True, **scene_files)
  model.config['pretrain']['masked_cloud'] = 0.3
  with pytest.raises(ValueError, match=r'--mask_clouds: Scene S2_20200601 has no cloud mask.*leave the flag out'):
    run(tmp_path / 'out', mask_clouds=True, **scene_files)
  assert not (tmp_path / 'out').exists()
  classes = np.full((1, 50, 45), 4, np.uint8)
  classes[0, :10] = 9
  write(tmp_path / 'S2_20200601' / 'SCL.tif', classes, pixel=20.0, x=600_010, y=5_300_020)
  run(tmp_path / 'out', mask_clouds=True, **scene_files)
  printed = capsys.readouterr().out
  assert 'clouds masked by: scene classification (SCL)' in printed
  assert '% of the area is under masked cloud' in printed
  with rasterio.open(tmp_path / 'out' / 'embedding.tif') as dataset:
    assert dataset.tags()['clouds_masked_by'] == 'scene classification (SCL)'
    assert np.isfinite(dataset.read()).all()


@pytest.mark.parametrize(
  ('values', 'message'),
  [
    ({'source': 'synthetic'}, 'is searched: pass --bounds'),
    ({'source': 'syntetic', 'bounds': ['1', '2', '3', '4'], 'date': '2020-06-01'}, "Did you mean 'synthetic'"),
    ({'source': 'synthetic', 'bounds': ['a', '2', '3', '4']}, 'is no west,south,east,north'),
    ({'source': 'synthetic', 'bounds': ['1', '2', '3', '4'], 'date': '1st of May'}, 'is no YYYY-MM-DD'),
    ({}, 'needs --s2=... or --s1=...'),
    ({'option': ['x']}, 'is no key=value'),
  ],
)
def test_bad_flags(values, message, tmp_path):
  extra = {'s2': 'x'} if 'option' in values else {}
  with pytest.raises(ValueError, match=message):
    run(tmp_path / 'out', **values, **extra)


def test_one_sensor_alone_is_refused(scene_files, tmp_path):
  scene_files = {**scene_files, 's1': ''}
  with pytest.raises(ValueError, match='these pixels have no VV, VH'):
    run(tmp_path / 'out', **scene_files)


@pytest.mark.parametrize(
  ('values', 'message'),
  [
    (
      {'s1_quantity': 'gamma0_terrain'},
      'radar sigma0_ellipsoid; these pixels are gamma0_terrain.*checkpoint',
    ),
    ({'s1_unit': 'power'}, r"Scene S1_20200602: .*no linear power.*unit='db'"),
    (
      {'bounds': ['100', '10', '100.1', '10.1']},
      r'S2_20200601 does not touch the area: it lies.*--bounds',
    ),
    ({'s2_unit': ''}, 'State s2_unit='),
    ({'s1_scene': ['S1_elsewhere']}, "'S1_elsewhere' is not among the scenes: S1_20200602"),
  ],
)
def test_scenes_that_do_not_fit(scene_files, tmp_path, values, message):
  with pytest.raises(ValueError, match=message):
    run(tmp_path / 'out', **{**scene_files, **values})
  assert not (tmp_path / 'out' / 'embedding.tif').exists()


def test_a_searched_source(tmp_path, monkeypatch, capsys):
  from deepsentinel import registry
  from tests.embedding.small_area import ArraySource

  grid = make_grid(200, 200)
  monkeypatch.setattr(registry, 'load', lambda kind, name: lambda **options: ArraySource(grid, **options))
  west, south, east, north = grid.window(50, 50, 60, 60).outline_lonlat().bounds
  bounds = [str(v) for v in (west, south, east, north)]
  run(tmp_path / 'out', source='synthetic', bounds=bounds, date='2020-05-30', option=['seed=3'])
  printed = capsys.readouterr().out
  assert 'sentinel2: sentinel2_a, 2020-06-01 12:00 UTC, shows 100% of the area' in printed
  assert 'computed, not observed' in printed
  with rasterio.open(tmp_path / 'out' / 'embedding.tif') as dataset:
    assert dataset.crs.to_epsg() == base.PatchGrid(32632, 0, 0, 1, 1).epsg
    assert np.isfinite(dataset.read()).all()
