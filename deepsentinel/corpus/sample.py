"""Sampling a corpus from start to end: plan, pair, fetch what is missing, split, describe."""

import collections
import contextlib
import fcntl
import json
import logging
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import geopandas
import numpy as np

from deepsentinel import provenance
from deepsentinel.corpus import (
  beam,
  blocks,
  card,
  fetch,
  figures,
  manifest,
  mines,
  page,
  pairing,
  points,
  reasons,
  settings,
  splits,
  worker,
)
from deepsentinel.corpus.pool import Pool
from deepsentinel.sources import base

_ID = re.compile(r'[A-Za-z0-9][\w.\-]*')
_LOCK = '.lock'


def run(
  config: Any,
  out: str | os.PathLike,
  *,
  retry_failed: bool = False,
  check_files: bool = True,
  cluster: beam.Cluster | None = None,
) -> card.Corpus:
  """Samples a corpus, or goes on with one: the same call resumes after a kill at any moment.

  Args:
    config: as configs/corpora/*.py make it.
    out: the corpus folder; made where it is not there.
    retry_failed: fetch failed rows again.
    check_files: compare the files of earlier runs with their checksums and fetch anew what is gone or damaged.
    cluster: machines that fetch; None takes processes of this one.
  Returns:
    The corpus.
  Raises:
    ValueError: a bad setting, a source that cannot be opened, or a folder that holds a corpus of another config.
  """
  chosen = settings.checked(config)
  folder = pathlib.Path(out).expanduser()
  shop = worker.workshop(json.dumps(chosen))
  # Before anything is written: a plan that fails leaves the folder as it was.
  plan = [] if (folder / manifest.FILE).exists() else list(_plan(shop))
  folder.mkdir(parents=True, exist_ok=True)
  with _alone(folder):
    _claim(folder, shop)
    if not (folder / card.FILE).exists():
      _write_card(folder, shop, {})  # first of all files: it makes the folder ours
    if not (folder / manifest.FILE).exists():
      manifest.write(folder, plan)
    rows = manifest.rows_of(manifest.read(folder))
    if cluster is not None:
      left = cluster.left(chosen, folder, rows)
      fetch.record(folder, rows, left.rows, total=len(left.ids), doing='Taking what was fetched')
    if check_files:
      for patch_id in fetch.damaged(folder, rows):
        logging.warning('Patch %s: a file is gone or damaged; it is fetched again.', patch_id)
        rows[patch_id]['state'] = 'planned'
    again = ('planned', 'failed') if retry_failed else ('planned',)
    todo = [i for i, row in rows.items() if row['state'] in again]
    for row in (rows[i] for i in todo):
      row['state'] = 'planned'  # until it is fetched the corpus is not whole, as the card then says
      if not shop.is_placed and reasons.kind(row['reason']) == 'nodata':
        row |= {'s2_scene': '', 's1_scene': ''}  # the same scenes would have no pixels again
    if todo:
      if shop.is_remote:
        shop.source.connect()  # a platform that lets no one in would else fail patch by patch
      _write_card(folder, shop, rows)
      with Pool(chosen['workers']) as pool:
        if unpaired := [i for i in todo if not shop.is_placed and not _paired(rows[i])]:
          pairing.pair(shop, folder, rows, unpaired, pool)
          manifest.write(folder, rows.values())
        fetch.fetch(shop, folder, rows, [i for i in todo if shop.is_placed or _paired(rows[i])], pool, cluster)
    before = [row['split'] for row in rows.values()]
    table = _finish(folder, shop, rows)
    if todo or before != [row['split'] for row in rows.values()] or not (folder / page.FILE).exists():
      figures.draw(card.Corpus(folder), table)
      page.write(card.Corpus(folder), table)
  return card.Corpus(folder)


def _paired(row: Mapping[str, Any]) -> bool:
  return bool(row['s2_scene'] or row['s1_scene'])


@contextlib.contextmanager
def _alone(folder: pathlib.Path) -> Iterator[None]:
  """One run a folder; the kernel drops the lock with the process, however that ends."""
  with (folder / _LOCK).open('w') as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise ValueError(f'Another process is sampling into {folder}. Wait for it, or choose another --out.') from None
    yield


def _claim(folder: pathlib.Path, shop: worker.Workshop) -> None:
  """Checks that the folder is free, or holds a corpus of the same config."""
  if (folder / card.FILE).exists():
    there = card.Corpus(folder)
    differences = settings.differences(there.card['config'], shop.settings)
    if there.landcover != shop.landcover and not differences:
      differences = ['the legend of labels.landcover']
    if differences:
      raise ValueError(
        f'{folder} holds a corpus of another config. What differs: {"; ".join(differences)}. '
        'Choose another --out, or set these back.'
      )
    return
  strange = sorted(p.name for p in folder.iterdir() if not p.name.startswith('.'))
  if strange:
    raise ValueError(f'{folder} is no corpus, and not empty ({", ".join(strange[:5])}). Choose another --out.')


def _plan(shop: worker.Workshop) -> Iterable[dict[str, Any]]:
  """The manifest's rows before anything is fetched."""
  if shop.settings['mines']['polygons']:
    return mines.plan(shop.settings, shop.source, shop.region, shop.blocks)
  return _placed_rows(shop) if shop.is_placed else _planned_rows(shop)


def _planned_rows(shop: worker.Workshop) -> Iterator[dict[str, Any]]:
  """Numbers, each with its block; the point itself is drawn when it is fetched."""
  n = shop.settings['patches']
  if n < 1:
    raise ValueError(f'patches is {n}; a source from which points are drawn needs 1 or more.')
  _ = shop.region  # a box without land is found before anything is planned
  for number, block in enumerate(blocks.assign_blocks(shop.blocks, n, shop.settings['seed'])):
    yield manifest.blank_row() | {'id': f'p{number:06d}', 'number': number, 'block': int(block)}


def _placed_rows(shop: worker.Workshop) -> Iterator[dict[str, Any]]:
  """The places of a source that is itself a set of patches; the first `patches` of them, 0 for all."""
  places = list(shop.places.values())[: shop.settings['patches'] or None]
  if not places:
    raise ValueError(f'The source {shop.settings["source"]} has no patches.')
  side, pixel_m = shop.settings['patch_px'], shop.settings['pixel_m']
  centres = np.array([place.grid.centre_lonlat() for place in places])
  countries = points.Region().country_of(*centres.T)
  for number, (place, (lon, lat), country) in enumerate(zip(places, centres.tolist(), countries, strict=True)):
    if not _ID.fullmatch(place.id):
      raise ValueError(f'The source names a patch {place.id!r}, which cannot be a folder name.')
    g = place.grid
    if (g.height_px, g.width_px) != (side, side) or abs(g.pixel_m - pixel_m) > 1e-6 * pixel_m:
      raise ValueError(
        f'Patch {place.id} of the source is {g.height_px} x {g.width_px} px of {g.pixel_m:g} m; the config asks for '
        f'{side} x {side} of {pixel_m:g} m. Set patch_px={g.height_px} and pixel_m={g.pixel_m:g}.'
      )
    s2, s1 = place.scenes.get('sentinel2'), place.scenes.get('sentinel1')
    hours = float('nan')
    if s2 and s1 and base.UNKNOWN_TIME not in (s2.time, s1.time):
      hours = abs((s2.time - s1.time).total_seconds()) / 3600
    yield manifest.blank_row() | {
      'id': place.id,
      'number': number,
      'attempts': 1,
      'lon_deg': lon,
      'lat_deg': lat,
      'country': str(country),
      'classes': ';'.join(place.classes),
      'gap_hours': hours,
    }


def _finish(folder: pathlib.Path, shop: worker.Workshop, rows: dict[str, dict[str, Any]]) -> geopandas.GeoDataFrame:
  """Splits the fetched patches, folds the journal into the manifest, writes the card, prints what there is."""
  split = shop.settings['split']
  with_splits = shop.settings['labelled'] or bool(shop.settings['mines']['polygons'])
  done = [row for row in rows.values() if row['state'] == 'done']
  names = splits.split_patches(
    np.array([row['lon_deg'] for row in done]),
    np.array([row['lat_deg'] for row in done]),
    method=split['method'] if with_splits else 'none',
    block_km=split['block_km'],
    buffer_km=split['buffer_km'],
    shares={name: split[name] for name in splits.SPLITS},
    seed=shop.settings['seed'],
    counts=splits.class_counts(done),
    draws=split['draws'],
  )
  for row in rows.values():
    row['split'] = ''
  for row, name in zip(done, names, strict=True):
    row['split'] = str(name)
  table = manifest.write(folder, rows.values())
  _write_card(folder, shop, rows)
  if with_splits:
    print(splits.summary(table))
  kinds = _grouped([row['reason'] for row in rows.values() if row['state'] == 'failed'])
  if kinds:
    print(
      f'{len(rows) - len(done)} of {len(rows)} patches failed; --retry_failed tries them again, with other scenes for '
      'those without pixels:'
    )
    for reason, count in kinds[:10]:
      print(f'{count:>7}  {reason[:200]}')
  attempts = sum(row['attempts'] for row in rows.values())
  drawn = '' if shop.is_placed or shop.settings['mines']['polygons'] else f'; {attempts} points were drawn'
  print(f'{folder}: {len(done)} patches{drawn}.')
  if not done:
    reason, count = kinds[0]
    raise ValueError(
      f'Not one of {len(rows)} patches could be fetched. Most common reason, of {count}: {reason.rstrip(".")}. '
      'Mend it (in a new --out if a setting was wrong) and run the command with --retry_failed.'
    )
  return table


def _grouped(reasons: list[str]) -> list[tuple[str, int]]:
  """(first of its kind, how many), the most frequent kind first; reasons that differ in numbers only are one kind."""
  kinds: dict[str, list[str]] = {}
  for reason in reasons:
    kinds.setdefault(re.sub(r'\d+', '', reason), []).append(reason)
  return [(kind[0], len(kind)) for kind in sorted(kinds.values(), key=len, reverse=True)]


def _write_card(folder: pathlib.Path, shop: worker.Workshop, rows: Mapping[str, Mapping[str, Any]]) -> None:
  """corpus.json, whole or not at all."""
  states = collections.Counter(row['state'] for row in rows.values())
  split = collections.Counter(row['split'] for row in rows.values() if row['state'] == 'done' and row['split'])
  tried = [row for row in rows.values() if row['attempts']]
  attempts = sum(row['attempts'] for row in tried)
  found = sum(map(_paired, tried))
  s = shop.settings
  content = {
    'name': s['name'],
    'labelled': s['labelled'],
    'patch_px': s['patch_px'],
    'pixel_m': s['pixel_m'],
    'spec': shop.spec.to_dict(),
    'source': s['source'],
    'synthetic': bool(shop.source.synthetic),
    'seed': s['seed'],
    'config': s,
    'counts': {
      **{state: states.get(state, 0) for state in manifest.STATES},
      **{name: split.get(name, 0) for name in (*splits.SPLITS, splits.BUFFER)},
      'points_drawn': attempts,
    },
    # The share of drawn points that had a pair of scenes in their block.
    'acceptance': found / attempts if attempts else None,
    'complete': bool(rows) and states.get('planned', 0) == 0,
  }
  if shop.landcover:
    content['landcover'] = [c.to_dict() for c in shop.landcover]
  provenance.write_json(folder / card.FILE, content)
