"""One search, from a query to a folder of results."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import shapely

from deepsentinel import provenance
from deepsentinel.embedding import chips, placemaps, results
from deepsentinel.embedding.index import Index
from deepsentinel.embedding.queries import Query

_FEW_AGREE = 0.5  # below it, a polygon's rows are so different that their mean is like none of them


@dataclasses.dataclass(frozen=True)
class Searched:
  """A finished search.

  Attributes:
    found: the rows; None where the results were there already.
    about: search.json.
    files: what was written.
    again: whether the results were there already.
  """

  found: results.Found | None
  about: dict[str, Any]
  files: list[pathlib.Path]
  again: bool


def search(
  index: Index,
  query: Query,
  out: pathlib.Path,
  *,
  k: int,
  min_km: float = results.MIN_KM,
  apart_km: float = results.APART_KM,
  with_map: bool = True,
  with_chips: bool = True,
  paths: Mapping[str, str] | None = None,
  progress: bool = True,
) -> Searched:
  """Writes results.csv, results.gpkg, the similarity as maps and pictures, chips.png and, last, search.json.

  The maps are similarity_NAME.tif and .png of each source of cells; of patches there is similarity_patches.png.

  Args:
    index: where to search.
    query: what for.
    out: folder; one with other results is left as it is.
    k, min_km, apart_km: see `results.rank`.
    with_map: the maps of similarity; of patches a picture alone.
    with_chips: the sheet of chips.
    paths: sensor -> where a local scene lies, for the chips.
    progress: shows a bar.
  Raises:
    ValueError: more rows are wanted than there are, or `out` holds other results.
  """
  found = results.rank(index, query, k, min_km=min_km, apart_km=apart_km)
  about = results.describe(index, query, found, k, min_km, apart_km)
  job = {
    'index': index.fingerprint, 'query': shapely.to_wkt(query.geometry), 'of': query.name,
    'vector_sha256': hashlib.sha256(query.vector.tobytes()).hexdigest(), 'k': k, 'min_km': min_km,
    'apart_km': apart_km, 'map': with_map, 'chips': with_chips, 'paths': dict(paths or {}),
  }  # fmt: skip
  job = json.loads(json.dumps(job))
  if there := _finished(out, job):
    return Searched(found, there, [out / name for name in there['files']], True)
  out.mkdir(parents=True, exist_ok=True)
  (out / 'search.json').unlink(missing_ok=True)
  results.write_tables(index, query, found, out)
  files = ['results.csv', 'results.gpkg']
  caption = _caption(index, query)
  outlines = index.rows.geometry.to_numpy()[found.number]
  for layer in results.similarity_maps(index, query) if with_map else []:
    files.append(results.write_similarity(layer, query, index, out).name)
    picture = out / f'similarity_{layer.name}.png'
    placemaps.draw_similarity(picture, layer.map, layer.similarity, query.geometry, outlines, caption)
    files.append(picture.name)
  if with_map and any(source['kind'] != 'map' for source in index.about['sources']):
    files.append(_points(index, query, found, out / 'similarity_patches.png', caption).name)
  notes = _notes(index, query, found, k, apart_km)
  if with_chips:
    why = _chips(index, query, found, out / 'chips.png', caption, paths or {}, progress)
    if why:
      notes.append(f'Chips without pixels: {why}.')
    files.append('chips.png')
  about |= {'notes': notes, 'files': files, 'job': job}
  provenance.write_json(out / 'search.json', about)
  return Searched(found, about, [out / name for name in files], False)


def _finished(out: pathlib.Path, job: dict[str, Any]) -> dict[str, Any] | None:
  """search.json of this very search, None where `out` holds none; ValueError where it holds another."""
  try:
    there = json.loads((out / 'search.json').read_text())
  except FileNotFoundError:
    return None
  except ValueError as error:
    raise ValueError(f'{out / "search.json"} cannot be read ({error}). Remove it, or pass another --out.') from error
  if there.get('job') != job:
    raise ValueError(f'{out} holds the results of another search ({there["query"]["name"]}). Pass another --out.')
  return there


def _points(index: Index, query: Query, found: results.Found, path: pathlib.Path, caption: str) -> pathlib.Path:
  """The picture of an index of patches, which have no cells to map."""
  patches = np.array([source['kind'] != 'map' for source in index.about['sources']])
  number = np.flatnonzero(patches[index.rows['source'].to_numpy()])
  lon, lat = index.rows['lon_deg'].to_numpy(), index.rows['lat_deg'].to_numpy()
  similarity = index.similarities(query.vector)[number]
  middle, best = (query.lon_deg, query.lat_deg), (lon[found.number], lat[found.number])
  return placemaps.draw_similar_points(path, (lon[number], lat[number]), similarity, middle, best, caption)


def _caption(index: Index, query: Query) -> str:
  made = [placemaps.SYNTHETIC] if index.synthetic else []
  side = index.about['mean_cells']
  maps = any(source['kind'] == 'map' for source in index.about['sources'])
  what = f'mean of {query.averaged} rows' if query.averaged > 1 else 'one row'
  smoothed = f'; rows are means of {side} x {side} cells' if maps and side > 1 else ''
  times = sorted({source['tags'].get('times', '').replace(',', ', ') for source in index.about['sources']} - {''})
  return '\n'.join(
    [*made, f'Query: {query.name}, {what}{smoothed}', f'Checkpoint {index.checkpoint_sha256[:12]}', *times[:2]]
  )


def _notes(index: Index, query: Query, found: results.Found, k: int, apart_km: float) -> list[str]:
  notes = []
  if len(found.number) < k:
    notes.append(
      f'{len(found.number)} of the {k} rows asked for are far enough from the query and {apart_km:g} km apart: lower '
      '--apart_km or --min_km for more.'
    )
  if query.agreement < _FEW_AGREE:
    notes.append(
      f'The {query.averaged} rows of the query differ much (their mean vector has length {query.agreement:.2f}): draw '
      'a polygon around one kind of land.'
    )
  if not index.exact:
    recall = index.about['search']['recall']
    notes.append(f'The index is approximate: it finds {recall:.1%} of {index.about["search"]["recall_of"]}.')
  return notes


def _chips(
  index: Index, query: Query, found: results.Found, path: pathlib.Path, caption: str, paths: Mapping[str, str],
  progress: bool,
) -> str:  # fmt: skip
  """Draws the sheet; why some chips have no pixels, or ''."""
  own = query.own
  if len(own) > 1:
    # Of a polygon, the row nearest to the mean: what was really searched for.
    own = own[np.argsort(-(index.vectors(own) @ query.vector))[:1]]
  wanted = [*own.tolist(), *found.number.tolist()]
  pictures, shown, why = chips.of_rows(index, wanted, paths, progress=progress)
  titles = ['query' if query.averaged == 1 else 'query (most typical row)'] if len(own) else []
  if not len(own):
    pictures, titles = [None, *pictures], ['query (in another map)']
  for i, (similarity, away) in enumerate(zip(found.similarity, found.distance_km, strict=True), start=1):
    titles.append(f'{i}: {similarity:.3f}, {away:.1f} km')
  kinds = {source['kind'] for source in index.about['sources']}
  cell_px = 0.0
  if kinds == {'map'}:
    source = index.about['sources'][0]
    cell_px = abs(source['transform'][0]) / 10 * index.about['mean_cells']
  legend = 'rank: cosine, distance from the query' + ('; the square holds the cells of the row' if cell_px else '')
  placemaps.draw_chips(path, pictures, titles, cell_px / chips.CHIP_PX, f'{caption}\n{shown}; {legend}'.strip())
  return why
