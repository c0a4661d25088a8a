"""A tiny corpus folder with plausible arrays, and the TFRecords made of it by the real builder.

`write_corpus` writes the corpus format with rasterio and geopandas alone; `prepare` runs `tfds build`; `tiny_records`
keeps the result in .cache/, since starting TensorFlow costs ten seconds.
"""

import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import warnings

import geopandas
import numpy as np
import pandas as pd
import pyproj
import rasterio
import shapely
from scipy import ndimage

from deepsentinel import legend, schema, sensors
from tests import commands

ROOT = pathlib.Path(__file__).resolve().parent.parent
PIXEL_M = 10.0
EPSG = 32633
# One typical spectrum (reflectance x 10,000) and backscatter (dB x 100) per level-1 class; bands interpolated between.
_REFLECTANCE = {1: (1500, 2400), 2: (600, 3000), 3: (300, 2200), 4: (500, 1500), 5: (400, 100)}
_BACKSCATTER = {1: (-400, -1100), 2: (-1100, -1800), 3: (-850, -1400), 4: (-1200, -2000), 5: (-2000, -2800)}


def _sha256(path: pathlib.Path) -> str:
  return hashlib.sha256(path.read_bytes()).hexdigest()


def _arrays(rng: np.random.Generator, spec: sensors.SensorSpec, px: int) -> dict[str, np.ndarray]:
  """Random land cover in a few smooth regions, and pixels that follow it; a corner without Sentinel-2 now and then."""
  classes = rng.choice(np.arange(1, len(legend.CORINE) + 1), size=4, replace=False)
  noise = ndimage.gaussian_filter(rng.normal(size=(4, px, px)), (0, px / 8, px / 8))
  corine = classes[noise.argmax(0)].astype(np.uint8)
  corine[: px // 16, : px // 16] = legend.CORINE_NODATA
  level1 = np.maximum(legend.level_lookup(1)[corine], 0) + 1
  osm = np.zeros((px, px), np.uint16)
  osm[level1 == 1] |= 1 << 0
  osm[level1 == 5] |= 1 << 11
  osm[:, px // 2] |= 1 << 4

  ends = np.array([_REFLECTANCE[k] for k in range(1, 6)])[level1 - 1]
  share = np.linspace(0, 1, max(len(spec.s2_bands), 1))
  s2 = ends[..., :1] + (ends[..., 1:] - ends[..., :1]) * share + rng.normal(0, 80, (px, px, share.size))
  s2 = np.clip(np.rint(s2), 1, 65535).astype(np.uint16)
  if rng.random() < 0.3:
    s2[-px // 8 :, -px // 8 :] = sensors.S2_NODATA
  centre = np.array([_BACKSCATTER[k] for k in range(1, 6)])[level1 - 1][..., : len(spec.s1_bands)]
  s1 = np.rint(centre + rng.normal(0, 120, centre.shape)).astype(np.int16)
  return {'s2': s2, 's1': s1, 'corine': corine, 'osm': osm}


def _write_tif(path: pathlib.Path, array: np.ndarray, nodata: int, x0_m: float, y0_m: float, bands: tuple[str, ...]):
  array = array[..., None] if array.ndim == 2 else array
  height, width, count = array.shape
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    with rasterio.open(
      path,
      'w',
      driver='GTiff',
      height=height,
      width=width,
      count=count,
      dtype=array.dtype,
      nodata=nodata,
      crs=f'EPSG:{EPSG}',
      transform=rasterio.transform.from_origin(x0_m, y0_m, PIXEL_M, PIXEL_M),
      compress='deflate',
      tiled=True,
      blockxsize=64,
      blockysize=64,
    ) as file:
      file.write(np.moveaxis(array, -1, 0))
      file.descriptions = bands


def write_corpus(
  directory: str | os.PathLike,
  patches: int = 12,
  patch_px: int = 32,
  labelled: bool = True,
  seed: int = 0,
  spec: sensors.SensorSpec | None = None,
  name: str = 'tiny',
  mines: bool = False,
) -> pathlib.Path:
  """Writes a corpus folder of `patches` fetched patches, one failed row and (labelled) one row of the buffer.

  Points lie in a box of about 60 km in southern Bavaria, so that every one has neighbours within a degree. A labelled
  corpus is split 6:2:2 in order of longitude; an unlabelled one has no splits. With `mines` it has, and every other
  patch is a mine, bright in its middle. Same arguments, same bytes.
  """
  directory = pathlib.Path(directory)
  spec = spec or sensors.SensorSpec()
  rng = np.random.default_rng(seed)
  fields = schema.tensor_fields(spec, patch_px, labelled)
  total = patches + 1 + labelled
  x0 = 300_000 + PIXEL_M * np.sort(rng.choice(6_000, total, replace=False))
  y0 = 5_400_000 - PIXEL_M * rng.choice(6_000, total, replace=False)
  half = patch_px * PIXEL_M / 2
  lon, lat = pyproj.Transformer.from_crs(EPSG, 4326, always_xy=True).transform(x0 + half, y0 - half)
  split = np.where(
    np.arange(total) < 0.6 * patches, 'train', np.where(np.arange(total) < 0.8 * patches, 'validation', 'test')
  )
  s2_time = 1_500_000_000 + 86_400 * rng.integers(0, 365, total)
  gap_s = rng.integers(-3 * 86_400, 3 * 86_400 + 1, total)
  rows = []
  for i in range(total):
    state = 'failed' if i == patches else 'done'
    row = {
      'id': f'{name}_{i:05d}',
      'lon_deg': lon[i],
      'lat_deg': lat[i],
      'country': 'DEU',
      'epsg': EPSG,
      'x0_m': x0[i],
      'y0_m': y0[i],
      's2_scene': f'S2_{s2_time[i] // 86_400}',
      's1_scene': f'S1_{i}',
      's2_time': int(s2_time[i]),
      's1_time': int(s2_time[i] + gap_s[i]),
      's2_baseline': '02.05',
      's2_cloud_share': np.float32(rng.beta(0.4, 0.4)),
      's1_pass': ('ascending', 'descending')[i % 2],
      's1_relative_orbit': int(rng.integers(1, 176)),
      's1_incidence_deg': np.float32(rng.uniform(30, 46)),
      'classes': '',
      'state': state,
      'reason': 'no pair within 72 h' if state == 'failed' else '',
      'split': ('buffer' if i > patches else split[i]) if labelled or mines else '',
      'gap_hours': abs(gap_s[i]) / 3600,
      **{f'sha256_{field}': '' for field in ('s2', 's1', 'corine', 'osm')},
    }
    if mines:
      row['scene'] = 2 - i % 2
    if state == 'done':
      folder = directory / 'patches' / row['id']
      folder.mkdir(parents=True, exist_ok=True)
      for field, array in _arrays(rng, spec, patch_px).items():
        if field in fields:
          if field in ('s2', 's1') and row.get('scene') == 2:
            pit = slice(patch_px // 2 - patch_px // 8, patch_px // 2 + patch_px // 8)
            array[pit, pit] = 4000 if field == 's2' else -300
          bands = {'s2': spec.s2_bands, 's1': spec.s1_bands}.get(field, (field,))
          _write_tif(folder / f'{field}.tif', array, fields[field].nodata, x0[i], y0[i], bands)
          row[f'sha256_{field}'] = _sha256(folder / f'{field}.tif')
    rows.append(row)
  frame = pd.DataFrame(rows).astype({'epsg': 'int32', 's1_relative_orbit': 'int32'})
  manifest = geopandas.GeoDataFrame(frame, geometry=shapely.points(lon, lat), crs=4326)
  manifest.to_parquet(directory / 'manifest.parquet')
  card = {
    'name': name,
    'labelled': labelled,
    'patch_px': patch_px,
    'pixel_m': PIXEL_M,
    'spec': spec.to_dict(),
    'source': {'name': 'synthetic', 'seed': seed},
    'synthetic': True,
    'seed': seed,
    'config': {'name': name, 'seed': seed, 'patches': patches, **({'mines': {'polygons': 'made up'}} if mines else {})},
    'counts': {'done': total - 1, 'failed': 1, 'planned': 0},
    'complete': True,
  }
  (directory / 'corpus.json').write_text(json.dumps(card, indent=1))
  return directory


def prepare(
  corpus: str | os.PathLike, data_dir: str | os.PathLike | None = None, labelled: bool | None = None, *flags: str
) -> pathlib.Path:
  """Runs `tfds build --config=custom` on a corpus folder; the prepared directory (default data_dir: CORPUS/tfds)."""
  corpus = pathlib.Path(corpus)
  card = json.loads((corpus / 'corpus.json').read_text())
  labelled = card['labelled'] if labelled is None else labelled
  builder = 'deepsentinel_labelled' if labelled else 'deepsentinel_unlabelled'
  builder = 'deepsentinel_mines' if card['config'].get('mines', {}).get('polygons') else builder
  data_dir = pathlib.Path(data_dir or corpus / 'tfds')
  result = tfds_build(builder, f'--data_dir={data_dir}', '--config=custom', f'--manual_dir={corpus}', *flags)
  if result.code:
    raise RuntimeError(f'tfds build failed:\n{result.out}\n{result.err}')
  return data_dir / builder / 'custom' / '1.0.0'


def tfds_build(builder: str, *flags: str, cwd: pathlib.Path = ROOT, **environment: str) -> commands.Finished:
  """`tfds build tfds_builders/<builder> <flags>` in a process of its own."""
  return commands.run(commands.TFDS, 'build', ROOT / 'tfds_builders' / builder, *flags, cwd=cwd, **environment)


def tiny_records(
  patches: int = 12, patch_px: int = 32, labelled: bool = True, seed: int = 0, num_shards: int = 0, mines: bool = False
) -> pathlib.Path:
  """A prepared directory for these arguments, made once and kept in .cache/tiny_records. Read only: copy to damage."""
  sources = [pathlib.Path(__file__), *(ROOT / 'deepsentinel' / f for f in ('schema.py', 'packaging.py', 'sensors.py'))]
  code = hashlib.sha256(b''.join(path.read_bytes() for path in sources)).hexdigest()[:8]
  kind = f'{int(labelled)}{"_mines" if mines else ""}'
  home = ROOT / '.cache' / 'tiny_records' / f'{patches}x{patch_px}_{kind}_{seed}_{num_shards}_{code}'
  home.parent.mkdir(parents=True, exist_ok=True)
  with open(home.parent / f'{home.name}.lock', 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    done = home / 'prepared'
    if not done.exists():
      shutil.rmtree(home, ignore_errors=True)
      corpus = write_corpus(home / 'corpus', patches, patch_px, labelled, seed, mines=mines)
      prepared = prepare(corpus, home / 'tfds', None, *([f'--num_shards={num_shards}'] if num_shards else []))
      done.write_text(str(prepared.relative_to(home)))
    return home / done.read_text()
