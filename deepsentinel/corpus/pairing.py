"""Points and pairs of a whole corpus, before a pixel is fetched: block by block, a tree of footprints each.

The scenes of a block are asked for once a cell of land (`catalogue`), and matched with all points of the block at once.
What a point and its pair are depends on the corpus' seed and the point's number alone.
"""

import collections
import pathlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tqdm

from deepsentinel.corpus import blocks, catalogue, grid, manifest, pairs, reasons, worker
from deepsentinel.corpus.pool import Pool
from deepsentinel.sources import base

_STREAM = 0xDA7E
_WRITE_EVERY_S = 30.0  # the most searching that a kill can lose

Row = dict[str, Any]


def pair(shop: worker.Workshop, folder: pathlib.Path, rows: dict[str, Row], todo: Sequence[str], pool: Pool) -> None:
  """Gives each row named in `todo` its point, grid and pair, or the reason why it has none.

  A point without a pair is drawn again, in the same block; one that was planned where it is (a mine) takes another
  block. So is one whose scenes had no pixels when they were read. Each result goes to the journal, and the answers of a
  platform to the catalogue's files.

  Args:
    shop: of the corpus.
    folder: of the corpus.
    rows: every manifest row by id; changed in place. State 'planned' with scenes, or 'failed'.
    todo: ids of rows without scenes.
    pool: where a platform on a network is searched.
  """
  waiting: dict[int, list[tuple[Row, int]]] = collections.defaultdict(list)
  for i in todo:
    row = rows[i]
    attempt = row['attempts'] if reasons.kind(row['reason']) == 'nodata' else 0
    waiting[row['block']].append((row | {'reason': '', 'state': 'planned'}, attempt))
  progress = tqdm.tqdm(total=len(todo), desc='Pairing', unit=' points', smoothing=0.05, mininterval=0.5)
  with progress, manifest.open_journal(folder) as journal:
    while waiting:
      number = min(waiting)
      scenes = _BlockScenes(shop, folder, shop.blocks[number], pool)
      while tries := waiting.pop(number, []):
        for (row, attempt), again in zip(tries, _tried(shop, scenes, tries), strict=True):
          if again:
            waiting[row['block']].append((row, attempt + 1))
            continue
          rows[row['id']] = row
          manifest.append(journal, row)
          progress.update()
      scenes.write()


def _tried(shop: worker.Workshop, scenes: '_BlockScenes', tries: Sequence[tuple[Row, int]]) -> list[bool]:
  """Whether each row has to be drawn again; the others are done: a pair is written into them, or a reason."""
  settings = shop.settings
  _place(shop, [(row, attempt) for row, attempt in tries if row['scene'] == 0])
  grids: dict[str, base.PatchGrid] = {}
  for row, attempt in tries:
    row['attempts'] = attempt + 1
    try:
      grids[row['id']] = grid.patch_grid(row['lon_deg'], row['lat_deg'], settings['patch_px'], settings['pixel_m'])
    except ValueError as e:
      row |= {'state': 'failed', 'reason': str(e)}
  cells = {row['id']: catalogue.cell_of(row['lon_deg'], row['lat_deg']) for row, _ in tries if row['id'] in grids}
  refusals = scenes.search(set(cells.values()))
  for row, _ in tries:
    if reason := refusals.get(cells.get(row['id'], '')):
      row |= {'state': 'failed', 'reason': reason}
      del grids[row['id']]
  found = dict(zip(grids, scenes.pairs(list(grids.values())), strict=True))
  again = []
  for row, attempt in tries:
    of_patch = found.get(row['id'])
    again.append(of_patch == [] and attempt < settings['points']['max_redraws'])
    if of_patch:
      chosen = pairs.draw(of_patch, seed=settings['seed'], number=row['number'], attempt=attempt)
      worker.record_pair(row, grids[row['id']], chosen.scenes)
      row['gap_hours'] = chosen.gap_hours
    elif of_patch == [] and not again[-1]:
      row |= {'state': 'failed', 'reason': _no_pair(shop, row)}
    elif again[-1] and row['scene'] > 0:
      stream = np.random.default_rng([settings['seed'], _STREAM, row['number'], attempt + 1])
      row['block'] = blocks.draw_block(shop.blocks, stream)
  return again


def _place(shop: worker.Workshop, tries: Sequence[tuple[Row, int]]) -> None:
  """Draws the points of rows, those of one attempt together."""
  by_attempt: dict[int, list[Row]] = collections.defaultdict(list)
  for row, attempt in tries:
    by_attempt[attempt].append(row)
  for attempt, drawn in by_attempt.items():
    points = shop.region.draw(shop.settings['seed'], [row['number'] for row in drawn], attempt)
    for row, lon, lat, country in zip(drawn, points['lon_deg'], points['lat_deg'], points['country'], strict=True):
      row |= {'lon_deg': float(lon), 'lat_deg': float(lat), 'country': str(country)}


def _no_pair(shop: worker.Workshop, row: Mapping[str, Any]) -> str:
  days = shop.settings['max_gap_days']
  if row['scene'] > 0:
    return f'no pair of scenes within {days:g} days in any of {row["attempts"]} blocks'
  block = shop.blocks[row['block']]
  return (
    f'no pair of scenes within {days:g} days in {block.start:%Y-%m-%d} to {block.end:%Y-%m-%d} '
    f'at any of {row["attempts"]} points'
  )


class _BlockScenes:
  """The scenes of one block that are known so far."""

  def __init__(self, shop: worker.Workshop, folder: pathlib.Path, block: blocks.Block, pool: Pool):
    self._shop, self._pool = shop, pool
    days = shop.settings['max_gap_days']
    self._windows = pairs.windows(shop.spec.sensors, block, days)
    kept = folder if shop.is_remote else None  # a source on this machine is its own catalogue
    self._listings = {sensor: catalogue.Listing(kept, sensor, block) for sensor in self._windows}
    self._candidates: pairs.Candidates | None = None
    self._written = time.monotonic()
    self._unwritten = False

  def search(self, cells: Iterable[str]) -> dict[str, str]:
    """Asks for the cells that are not known; cell -> reason of those that cannot be had."""
    calls = [
      (self._shop.config_json, sensor, cell, *self._windows[sensor])
      for cell in sorted(cells)
      for sensor, listing in self._listings.items()
      if cell not in listing.cells
    ]
    refusals: dict[str, str] = {}
    pool = self._pool if self._shop.is_remote else Pool(1)
    for sensor, cell, found in pool.results(worker.search_cell, calls):
      if isinstance(found, str):
        refusals[cell] = found
        continue
      self._listings[sensor].add(cell, found)
      self._candidates, self._unwritten = None, True
      if time.monotonic() - self._written > _WRITE_EVERY_S:
        self.write()
    return refusals

  def pairs(self, grids: Sequence[base.PatchGrid]) -> list[list[pairs.Pair]]:
    if self._candidates is None:
      scenes = {sensor: list(listing.scenes.values()) for sensor, listing in self._listings.items()}
      self._candidates = pairs.Candidates(scenes, self._shop.settings['max_gap_days'])
    return self._candidates.pairs(grids)

  def write(self) -> None:
    if self._unwritten:
      for listing in self._listings.values():
        listing.write()
    self._written, self._unwritten = time.monotonic(), False
