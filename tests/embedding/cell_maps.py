"""Maps of embeddings without a network: small ones of made-up vectors, and one of SyntheticEarth with its truth."""

import datetime
import json
import pathlib

import numpy as np
import rasterio

from deepsentinel import legend
from deepsentinel.sources import base, synthetic

EPSG, LEFT, TOP, CELL_M = 32632, 693_000.0, 5_832_290.0, 160.0
SHA = 'ab' * 32


def write(
  folder: pathlib.Path,
  vectors: np.ndarray,
  *,
  sha: str | None = SHA,
  computed: bool = False,
  corner: tuple[float, float] = (LEFT, TOP),
  epsg: int = EPSG,
) -> pathlib.Path:
  """`folder`/embedding.tif of vectors [rows, cols, E] with the tags that deepsentinel.embed writes."""
  folder.mkdir(parents=True, exist_ok=True)
  rows, cols, features = vectors.shape
  profile = {'height': rows, 'width': cols, 'count': features, 'dtype': 'float32', 'nodata': float('nan')}
  transform = rasterio.Affine(CELL_M, 0, corner[0], 0, -CELL_M, corner[1])
  with rasterio.open(folder / 'embedding.tif', 'w', crs=f'EPSG:{epsg}', transform=transform, **profile) as file:
    file.write(np.moveaxis(vectors, -1, 0).astype(np.float32))
    known = {'checkpoint_sha256': sha} if sha else {}
    file.update_tags(**known, synthetic=str(computed).lower(), times='2018-06-16T10:29:30Z')
  return folder


def random_vectors(rows: int, cols: int, features: int = 8, seed: int = 0) -> np.ndarray:
  """float32 [rows, cols, E]; the cell (1, 2) has no embedding."""
  vectors = np.random.default_rng(seed).normal(size=(rows, cols, features)).astype(np.float32)
  vectors[1, 2] = np.nan
  return vectors


def lonlat(row: float, col: float, corner: tuple[float, float] = (LEFT, TOP)) -> tuple[float, float]:
  """Longitude and latitude of a place in cells from the upper-left corner."""
  return base.transformer(EPSG, 4326).transform(corner[0] + col * CELL_M, corner[1] - row * CELL_M)


SIDE = 30  # cells of the map of SyntheticEarth
_AT = (29, 31)  # its upper-left corner, in cells of the above
_SCENE = {'source': 'synthetic', 'scene': 'S2A_MSIL2A_20180616T102930_N0207_R107_T33UTU_C0162'}
_BANDS = ('B2', 'B3', 'B4', 'B8', 'B11')


def write_synthetic_earth(folder: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
  """`folder`/embedding.tif of 4.8 x 4.8 km with sea, a town and fields; embedding.json names its scene.

  A cell's vector is the mean and the standard deviation of its pixels in five bands, standardised: a network that
  knows no more than that.

  Returns:
    true shares float [30, 30] of each cell that are sea, and that are built up.
  """
  left, top = LEFT + _AT[1] * CELL_M, TOP - _AT[0] * CELL_M
  grid = base.PatchGrid(EPSG, left, top, SIDE * 16, SIDE * 16)
  earth = synthetic.SyntheticEarth()
  noon = datetime.datetime(2018, 6, 16, 12, tzinfo=datetime.UTC)
  day = datetime.timedelta(days=1)
  scenes = {s.id: s for s in earth.search('sentinel2', grid.outline_lonlat(), noon - day, noon + day)}
  stored = earth.read(scenes[_SCENE['scene']], grid, _BANDS).to_storage().astype(np.float32)
  # [H, W, C] -> [rows, cols, 256, C]
  pixels = stored.reshape(SIDE, 16, SIDE, 16, -1).swapaxes(1, 2).reshape(SIDE, SIDE, 256, -1)
  vectors = np.concatenate([pixels.mean(2), pixels.std(2)], -1)
  vectors = (vectors - vectors.mean((0, 1))) / vectors.std((0, 1))
  write(folder, vectors, computed=True, corner=(left, top))
  item = {**_SCENE, 'sensor': 'sentinel2', 'time': '2018-06-16T10:29:30Z', 'bands': list(_BANDS)}
  (folder / 'embedding.json').write_text(json.dumps({'job': {'inputs': [item]}, 'complete': True}))
  steps = np.arange(SIDE * 4) * 40 + 20
  lon, lat = base.transformer(EPSG, 4326).transform(*np.meshgrid(left + steps, top - steps))
  truth = earth.landcover(lon, lat)
  codes = np.array([0, *(c.code for c in legend.CORINE)])[truth]
  return tuple(
    np.isin(codes, wanted).reshape(SIDE, 4, SIDE, 4).mean((1, 3)) for wanted in ((521, 522, 523), (111, 112, 131))
  )
