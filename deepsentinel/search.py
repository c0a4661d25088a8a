r"""Finds places like one that you point at.

    python -m deepsentinel.search build --embedding=maps/synthetic --out=index
    python -m deepsentinel.search --index=index --point=11.98,52.53 --k=20 --out=results

`build` makes an index of embeddings: the cells of maps that deepsentinel.embed wrote (--embedding, may be repeated), or
the patches of a record set (--checkpoint=RUN --data=RECORDS). All of one checkpoint. It is compared by cosine; up to a
million rows exactly, beyond approximately, with the share of true neighbours that it finds measured and told.

A query is a point (--point), the mean of what a polygon holds (--polygon), or a row (--patch=ID); with --embedding it
is taken from another map of the same checkpoint. Results: a table (results.csv, results.gpkg), a map of similarity on
the embedding's own cells (similarity_NAME.tif, .png), the ground of the query and of what was found (chips.png) and
search.json.
"""

import pathlib
import sys

from absl import flags

from deepsentinel import commandline

_EMBEDDING = flags.DEFINE_multi_string(
  'embedding', [], 'folder that deepsentinel.embed wrote; with build may be repeated, in a search the map of the query'
)
_CHECKPOINT = flags.DEFINE_string('checkpoint', '', 'build: run directory whose encoder embeds --data')
_STAGE = flags.DEFINE_enum(
  'stage', '', ['', 'pretrain', 'finetune'], 'build: whose encoder; default: the last there is'
)
_DATA = flags.DEFINE_string('data', '', 'build: prepared record set: a directory, or a name in data_dir')
_DATA_DIR = flags.DEFINE_string('data_dir', '', 'build: where prepared record sets lie; default TFDS_DATA_DIR')
_SPLITS = flags.DEFINE_list('splits', [], 'build: splits of --data; default: all')
_MEAN_CELLS = flags.DEFINE_integer('mean_cells', 3, 'build: a row is the mean of so many cells a side; 1: of one cell')
_KIND = flags.DEFINE_enum('kind', 'auto', ['auto', 'exact', 'approximate'], 'build: auto is exact up to 1,000,000 rows')
_INDEX = flags.DEFINE_string('index', '', 'folder that build wrote')
_POINT = flags.DEFINE_string('point', '', 'query: LON,LAT in degrees')
_POLYGON = flags.DEFINE_string('polygon', '', 'query: vector file with polygons, in any CRS')
_LAYER = flags.DEFINE_string('layer', '', 'layer of --polygon, where it has several')
_PATCH = flags.DEFINE_string('patch', '', 'query: id of a row, as rows.parquet of the index and results.csv have it')
_K = flags.DEFINE_integer('k', 20, 'places to find', lower_bound=1)
_MIN_KM = flags.DEFINE_float('min_km', 0.5, 'pass over places nearer to the query', lower_bound=0)
_APART_KM = flags.DEFINE_float('apart_km', 0.5, 'pass over places nearer to a better one', lower_bound=0)
_MAP = flags.DEFINE_bool('map', True, 'write the maps of similarity')
_CHIPS = flags.DEFINE_bool('chips', True, 'write the sheet of chips')
_S2 = flags.DEFINE_string('s2', '', 'where the local Sentinel-2 scene lies that was embedded, for the chips')
_S1 = flags.DEFINE_string('s1', '', 'where the local Sentinel-1 scene lies, for the chips')
_OUT = flags.DEFINE_string('out', None, 'folder for the index, or for the results')
_PROGRESS = flags.DEFINE_bool('progress', True, 'show progress bars')


def build(_: list[str]) -> None:
  """search build --embedding=MAP --out=INDEX"""
  from deepsentinel.embedding import index, rows

  if bool(_CHECKPOINT.value) != bool(_DATA.value):
    raise ValueError('--checkpoint=RUN and --data=RECORDS go together: the encoder of the one embeds the other.')
  sources: list[rows.RowSource] = [rows.of_embedding(path, _MEAN_CELLS.value) for path in _EMBEDDING.value]
  if _DATA.value:
    sources += _records()
  made, again = index.build(
    rows.distinct(sources), pathlib.Path(str(_OUT.value)), mean_cells=_MEAN_CELLS.value, kind=_KIND.value,
    progress=_PROGRESS.value,
  )  # fmt: skip
  print(
    f'{made.folder}: {len(made):,} rows of {made.about["features"]} dimensions' + (', made before' if again else '')
  )
  if not made.exact:
    found = made.about['search']
    print(f'approximate: finds {found["recall"]:.1%} of {found["recall_of"]}')
  if made.synthetic:
    print('SyntheticEarth: these pixels are computed, not observed.')


def _records():
  from deepsentinel.data import records
  from deepsentinel.embedding import rows
  from deepsentinel.train import checkpoint, parallel, xla

  directory = records.resolve(_DATA.value, _DATA_DIR.value)
  xla.prepare_backend()
  parallel.require_devices()
  return rows.of_records(checkpoint.load_trained(_CHECKPOINT.value, _STAGE.value or None), directory, _SPLITS.value)


def main(_: list[str]) -> None:
  from deepsentinel.embedding import index, queries, similar

  given = {'--point': _POINT.value, '--polygon': _POLYGON.value, '--patch': _PATCH.value}
  if sum(map(bool, given.values())) != 1:
    raise ValueError(f'Pass one of {", ".join(given)}; found {", ".join(k for k, v in given.items() if v) or "none"}.')
  if not _INDEX.value:
    raise ValueError(
      'Pass --index=FOLDER; `python -m deepsentinel.search build --embedding=MAP --out=FOLDER` makes it.'
    )
  point = queries.parse_point(_POINT.value) if _POINT.value else None
  there = index.open_index(_INDEX.value)
  out = pathlib.Path(str(_OUT.value))
  found = similar.search(
    there, _query(there, point), out, k=_K.value, min_km=_MIN_KM.value, apart_km=_APART_KM.value,
    with_map=_MAP.value, with_chips=_CHIPS.value, progress=_PROGRESS.value,
    paths={'sentinel2': _S2.value, 'sentinel1': _S1.value},
  )  # fmt: skip
  _report(there, found)


def _query(there, point: tuple[float, float] | None):
  import shapely

  from deepsentinel.embedding import cells, places, queries

  name = f'point {_POINT.value}' if point else pathlib.Path(_POLYGON.value).name
  polygon = places.read_polygon(_POLYGON.value, _LAYER.value) if _POLYGON.value else None
  if _EMBEDDING.value:
    if _PATCH.value or len(_EMBEDDING.value) > 1:
      raise ValueError('With one --embedding, the map of the query, pass --point or --polygon.')
    other = cells.open_map(_EMBEDDING.value[0], there.about['mean_cells'])
    geometry = shapely.Point(*point) if point else polygon
    return queries.in_another_map(there, other, geometry, f'{name} of {other.name}')
  if point:
    return queries.at_point(there, *point)
  return queries.in_polygon(there, polygon, name) if polygon else queries.of_row(there, _PATCH.value)


def _report(there, found) -> None:
  from deepsentinel.embedding import results

  frame = results.table(there, found.found)
  shown = frame[['rank', 'similarity', 'distance_km', 'lon_deg', 'lat_deg', 'id']].head(10)
  print(shown.to_string(index=False, float_format=lambda v: f'{v:.4f}'))
  if len(frame) > len(shown):
    print(f'... and {len(frame) - len(shown)} more in results.csv')
  for note in found.about['notes']:
    print(note)
  for path in found.files:
    print(path)
  if found.again:
    print('Nothing was left to do.')
  if there.synthetic:
    print('SyntheticEarth: these pixels are computed, not observed.')


if __name__ == '__main__' and 'build' in sys.argv[1:2]:
  commandline.run(build, required=['out'], arguments='build', resumes=True)
elif __name__ == '__main__':
  commandline.run(main, required=['out'], words=['build'], resumes=True)
