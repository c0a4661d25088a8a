"""A corpus fetched through faults, one of them for good, and what must be true of it."""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import rasterio

from deepsentinel import corpus
from deepsentinel.corpus import manifest


def check(
  config: Any, out: pathlib.Path, raster: pathlib.Path, stored: Callable[[np.ndarray], np.ndarray], reason: str = ''
) -> None:
  """Runs twice: one patch fails, for `reason`, and comes with --retry_failed; nothing is lost, twice or other pixels.

  Args:
    config: of the corpus, whose second band is that of `raster`.
    out: the corpus folder.
    raster: the platform's file of that band.
    stored: a patch as the platform has it -> as the corpus stores it.
    reason: part of what the manifest says of the failed patch.
  """
  corpus.run(config, out)
  table = manifest.read(out)
  assert list(table['state']).count('failed') == 1
  assert reason in table['reason'].max()
  corpus.run(config, out, retry_failed=True)
  table = manifest.read(out)
  assert (table['state'] == 'done').all()
  assert table['id'].is_unique
  for row in table.itertuples():
    with rasterio.open(raster) as file:
      col, top = ~file.transform @ (row.x0_m, row.y0_m)
      expected = file.read(1, window=rasterio.windows.Window(round(col), round(top), 32, 32))
    with rasterio.open(out / 'patches' / f'{row.id}' / 's2.tif') as file:
      np.testing.assert_array_equal(file.read(2), stored(expected))
