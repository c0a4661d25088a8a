"""The index: what it is built of, what it finds, and that a half of one is none."""

import dataclasses
import json
import shutil

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import shapely

from deepsentinel.embedding import cells, index, queries, rows
from deepsentinel.evaluation import frozen, vectors
from tests.embedding import cell_maps
from tests.embedding.small_area import make_model
from tests.tiny_records import tiny_records


def build(out, *folders, mean_cells=1, kind='auto'):
  sources = rows.distinct([rows.of_embedding(folder, mean_cells) for folder in folders])
  return index.build(sources, out, mean_cells=mean_cells, kind=kind, progress=False)


@pytest.fixture(scope='module')
def two_maps(tmp_path_factory):
  """Two maps of one name beside each other, and their index."""
  home = tmp_path_factory.mktemp('maps')
  vectors = [cell_maps.random_vectors(12, 10, seed=seed) for seed in (0, 1)]
  corners = (cell_maps.LEFT, cell_maps.TOP), (cell_maps.LEFT + 1600, cell_maps.TOP)
  folders = [
    cell_maps.write(home / str(i) / 'm', v, corner=corner)
    for i, (v, corner) in enumerate(zip(vectors, corners, strict=True))
  ]
  made, again = build(home / 'index', *folders)
  assert not again
  return home, folders, vectors, made


def test_the_nearest_rows_are_those_of_numpy(two_maps):
  _, _, vectors, made = two_maps
  flat = np.concatenate([v.reshape(-1, 8) for v in vectors])
  flat = flat[np.isfinite(flat[:, 0])]
  flat /= np.linalg.norm(flat, axis=1, keepdims=True)
  assert len(made) == len(flat) == 2 * 119
  query = cells.unit(np.random.default_rng(5).normal(size=8))
  cosine = flat @ query
  similarity, number = made.nearest(query, 7)
  np.testing.assert_array_equal(number, np.argsort(-cosine)[:7])
  np.testing.assert_allclose(similarity, np.sort(cosine)[::-1][:7], atol=1e-6)
  np.testing.assert_allclose(made.similarities(query), cosine, atol=1e-6)
  np.testing.assert_allclose(made.vectors([3, 200]), flat[[3, 200]], atol=1e-6)


def test_every_source_has_a_name_of_its_own():
  found = rows.distinct([rows.MapRows(None, name) for name in ('maps', 'maps', 'maps_2', 'other', 'maps')])
  assert [source.name for source in found] == ['maps', 'maps_3', 'maps_2', 'other', 'maps_4']


def test_rows_say_where_they_lie(two_maps):
  home, folders, _, _ = two_maps
  about = json.loads((home / 'index' / 'index.json').read_text())
  assert about['checkpoint_sha256'] == cell_maps.SHA
  assert (about['features'], about['rows'], about['synthetic'], about['search']) == (8, 238, False, {'kind': 'exact'})
  assert [source['name'] for source in about['sources']] == ['m', 'm_2']
  table = geopandas.read_parquet(home / 'index' / 'rows.parquet')
  assert table.crs == 4326
  assert table['id'].is_unique
  row = table.set_index('id').loc['m_2/7_4']
  expected = cell_maps.lonlat(7.5, 14.5)
  np.testing.assert_allclose([row['lon_deg'], row['lat_deg']], expected, atol=1e-9)
  assert row['geometry'].contains(shapely.Point(*expected))
  assert row['time'] == '2018-06-16T10:29:30Z'
  assert about['sources'][1]['path'] == str((folders[1] / 'embedding.tif').resolve())


def test_an_index_is_made_once(two_maps, tmp_path):
  home, folders, _, _ = two_maps
  shutil.copytree(home / 'index', tmp_path / 'index')
  before = (tmp_path / 'index' / 'index.faiss').stat().st_mtime_ns
  _, again = build(tmp_path / 'index', *folders)
  assert again
  assert (tmp_path / 'index' / 'index.faiss').stat().st_mtime_ns == before
  with pytest.raises(ValueError, match=r'index of m, m_2 with other inputs. Pass another --out'):
    build(tmp_path / 'index', folders[0])
  with pytest.raises(ValueError, match=r'with other --kind. Pass another --out'):
    build(tmp_path / 'index', *folders, kind='exact')


def test_half_an_index_is_none(two_maps, tmp_path):
  home, folders, _, _ = two_maps
  with pytest.raises(ValueError, match=r'is not there. `python -m deepsentinel.search build'):
    index.open_index(tmp_path / 'nowhere')
  shutil.copytree(home / 'index', tmp_path / 'index')
  (tmp_path / 'index' / 'index.json').unlink()  # a build that was killed before the end
  with pytest.raises(ValueError, match='is not finished: run the same build again'):
    index.open_index(tmp_path / 'index')
  made, again = build(tmp_path / 'index', *folders)
  assert not again
  assert len(made) == 238
  with (tmp_path / 'index' / 'index.faiss').open('r+b') as file:
    file.truncate(100)
  with pytest.raises(ValueError, match=r'damaged: a file is not as long as it was. Remove it and build it again'):
    index.open_index(tmp_path / 'index')


def test_two_checkpoints_or_dimensions_are_refused(two_maps, tmp_path):
  _, folders, _, _ = two_maps
  other = cell_maps.write(tmp_path / 'other', cell_maps.random_vectors(3, 3), sha='cd' * 32)
  with pytest.raises(ValueError, match=r'm is of checkpoint abababababab and other of cdcdcdcdcdcd: .*one checkpoint'):
    build(tmp_path / 'index', folders[0], other)
  wide = cell_maps.write(tmp_path / 'wide', cell_maps.random_vectors(3, 3, features=9))
  with pytest.raises(ValueError, match='m has vectors of 8 dimensions and wide of 9'):
    build(tmp_path / 'index', folders[0], wide)
  empty = cell_maps.write(tmp_path / 'empty', np.full((3, 3, 8), np.nan))
  with pytest.raises(ValueError, match='No row of empty has an embedding'):
    build(tmp_path / 'index', empty)
  with pytest.raises(ValueError, match=r'Nothing to build an index of. Pass --embedding'):
    build(tmp_path / 'index')
  assert not (tmp_path / 'index' / 'index.json').exists()


def test_an_approximate_index_says_what_it_finds(tmp_path):
  rng = np.random.default_rng(0)
  centres = rng.normal(size=(30, 16))
  vectors = centres[rng.integers(0, 30, (60, 60))] + 0.3 * rng.normal(size=(60, 60, 16))
  folder = cell_maps.write(tmp_path / 'm', vectors)
  made, _ = build(tmp_path / 'index', folder, kind='approximate')
  search = made.about['search']
  assert search['kind'] == 'approximate'
  assert search['looked_through'] < search['lists']
  assert 0.95 <= search['recall'] <= 1
  # The recall that is told holds for rows that were not among those it was measured on.
  exact, _ = build(tmp_path / 'exact', folder)
  query = rng.choice(len(exact), 50)
  found = [len(np.intersect1d(made.nearest(v, 10)[1], exact.nearest(v, 10)[1])) for v in exact.vectors(query)]
  assert np.mean(found) > 9
  np.testing.assert_allclose(made.vectors(query), exact.vectors(query))
  np.testing.assert_allclose(made.similarities(exact.vectors([5])[0]), exact.similarities(exact.vectors([5])[0]))
  with pytest.raises(ValueError, match='Unknown kind of index'):
    build(tmp_path / 'third', folder, kind='best')


@pytest.fixture(scope='module')
def recorded():
  """A model with made-up weights for the tiny records' bands."""
  directory = tiny_records(patches=12, patch_px=32, labelled=False)
  found = rows.of_records(make_model(bands=rows.records_lib.RecordSet(directory).spec.bands, crop_px=32), directory, [])
  return directory, found


def test_patches_of_records(recorded, tmp_path, monkeypatch):
  _, (source,) = recorded
  monkeypatch.setattr(rows, '_CHUNK', 5)
  made, _ = index.build([source], tmp_path / 'index', mean_cells=3, progress=False)
  table = source.records.table
  assert made.rows['id'].tolist() == table['id'].tolist()
  assert len(made) == 12
  encoder = frozen.of_trained(source.model, 'it')
  expected = cells.unit(vectors.of_patches(encoder, source.records, np.arange(12)))
  np.testing.assert_allclose(made.vectors(np.arange(12)), expected, atol=1e-5)
  assert shapely.contains_xy(made.rows.geometry.to_numpy(), table['lon_deg'], table['lat_deg']).all()
  assert not (tmp_path / 'index' / 'parts').exists()
  query = queries.of_row(made, table['id'][4])
  assert made.nearest(query.vector, 1)[1][0] == 4


def test_what_was_embedded_before_a_kill_is_kept(recorded, tmp_path, monkeypatch):
  _, (source,) = recorded
  monkeypatch.setattr(rows, '_CHUNK', 5)
  chunks = source.chunks(tmp_path)
  first, second = next(chunks), next(chunks)  # and no more: killed
  kept = {part.name: part.stat().st_mtime_ns for part in tmp_path.iterdir()}
  assert len(kept) == 2
  again = list(source.chunks(tmp_path))
  assert [seen for _, _, seen in again] == [5, 5, 2]
  assert {name: (tmp_path / name).stat().st_mtime_ns for name in kept} == kept
  np.testing.assert_array_equal(again[0][1], first[1])
  np.testing.assert_array_equal(again[1][1], second[1])
  # Another checkpoint's parts are others.
  other = dataclasses.replace(source, model=dataclasses.replace(source.model, sha256='9' * 64))
  next(other.chunks(tmp_path))
  assert len(list(tmp_path.iterdir())) == 4


def test_patches_of_an_area(tmp_path):
  vectors = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
  left = cell_maps.LEFT + 640 * np.arange(3)
  boxes = shapely.box(left, cell_maps.TOP - 640, left + 640, cell_maps.TOP)
  frame = geopandas.GeoDataFrame({'id': ['a', 'b', 'c']}, geometry=boxes, crs=cell_maps.EPSG)
  frame.to_parquet(tmp_path / 'plain.parquet')
  table = pyarrow.parquet.read_table(tmp_path / 'plain.parquet')
  with pytest.raises(
    ValueError, match=r'plain.parquet is no table of embedded patches: it lacks embedding, checkpoint'
  ):
    rows.of_embedding(tmp_path / 'plain.parquet', 1)
  folder = tmp_path / 'area'
  folder.mkdir()
  table = table.append_column('embedding', pa.array(vectors.tolist(), pa.list_(pa.float32())))
  tags = {**table.schema.metadata, b'checkpoint_sha256': cell_maps.SHA.encode(), b'synthetic': b'true'}
  pyarrow.parquet.write_table(table.replace_schema_metadata(tags), folder / 'patches.parquet')
  made, _ = build(tmp_path / 'index', folder)
  assert made.rows['id'].tolist() == ['area/a', 'area/b', 'area/c']
  assert made.synthetic
  query = queries.at_point(made, *cell_maps.lonlat(1, 5))
  np.testing.assert_array_equal(query.own, [1])
  np.testing.assert_allclose(query.vector, vectors[1] / np.linalg.norm(vectors[1]), atol=1e-6)
