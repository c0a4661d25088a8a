"""How fast is a whole scene embedded, and in how much memory?

    python benchmarks/embed_scene.py [--side=10980] [--width=8] [--encoder=resnet18] [--dir=.cache/benchmarks]

Writes a Sentinel-2 and a Sentinel-1 GeoTIFF of SIDE x SIDE px once, 14 bands of noise, and embeds them in a process of
their own, as `python -m deepsentinel.embed` does: reading, encoding, strips, Cloud-Optimized GeoTIFF and picture.
Compared with PyTorch (channels last) encoding the same windows, without reading or writing anything.
"""

import multiprocessing
import pathlib
import resource
import shutil
import time

import jax
import numpy as np
import rasterio
from absl import app, flags

from deepsentinel import sensors

_SIDE = flags.DEFINE_integer('side', 10_980, 'of the scene, pixels')
_WIDTH = flags.DEFINE_integer('width', 8, 'of the encoder')
_ENCODER = flags.DEFINE_string('encoder', 'resnet18', 'of the registry')
_DIR = flags.DEFINE_string('dir', '.cache/benchmarks', 'where the scene is kept')

_BLOCK = 512
_PEER_WINDOWS = 4


def write_scene(folder: pathlib.Path, height: int, width: int) -> dict[str, pathlib.Path]:
  """The GeoTIFF of each sensor, written block by block unless it is there."""
  rng = np.random.default_rng(0)
  paths = {}
  for sensor, bands, dtype, low, high in (
    ('S2', sensors.SENTINEL2_BANDS, 'uint16', 200, 4000),
    ('S1', sensors.SENTINEL1_BANDS, 'int16', -2500, -500),
  ):
    # A small pattern that repeats: the file is small, and reading it is work all the same.
    block = np.tile(rng.integers(low, high, (len(bands), 64, 64)).astype(dtype), (1, _BLOCK // 64, _BLOCK // 64))
    paths[sensor] = folder / f'{height}x{width}' / f'{sensor}.tif'
    if paths[sensor].exists():
      continue
    paths[sensor].parent.mkdir(parents=True, exist_ok=True)
    partial = paths[sensor].with_suffix('.partial')
    profile = {'driver': 'GTiff', 'tiled': True, 'blockxsize': _BLOCK, 'blockysize': _BLOCK, 'compress': 'deflate'}
    with rasterio.open(
      partial, 'w', height=height, width=width, count=len(bands), dtype=dtype, crs='EPSG:32632', zlevel=1,
      transform=rasterio.Affine(10, 0, 6e5, 0, -10, 53e5), **profile,
    ) as file:  # fmt: skip
      file.descriptions = bands
      for row in range(0, height, _BLOCK):
        for col in range(0, width, _BLOCK):
          h, w = min(_BLOCK, height - row), min(_BLOCK, width - col)
          file.write(block[:, :h, :w], window=rasterio.windows.Window(col, row, w, h))
    partial.rename(paths[sensor])
  return paths


def _model(name: str, width: int):
  """A pretrained model whose variables nothing was learnt into."""
  from deepsentinel import registry
  from deepsentinel.objectives.tile2vec import Tile2Vec
  from deepsentinel.train.trained import Trained

  encoder = registry.load('encoder', name)(width=width)
  spec = sensors.SensorSpec()
  variables = encoder.init(jax.random.key(0), np.zeros((1, 64, 64, len(spec.bands)), np.float32), train=False)
  n = len(spec.s2_bands)
  statistics = {
    'bands': list(spec.bands),
    'mean': [0.2] * n + [-15.0] * 2,
    'std': [0.1] * n + [5.0] * 2,
    'count': [1] * len(spec.bands),
  }
  kinds = {kind: {'encoder': jax.tree.map(np.asarray, tree)} for kind, tree in variables.items()}
  return Trained(
    stage='pretrain', config={'data': {'crop_px': 128}, 'encoder': {'name': name}}, spec=spec, statistics=statistics,
    subsets=[], module=Tile2Vec(encoder=encoder), variables=kinds, step=0, sha256='0' * 64, synthetic=True,
    directory=pathlib.Path('none'),
  )  # fmt: skip


def _embed(paths: dict[str, pathlib.Path], out: pathlib.Path, encoder: str, width: int, said) -> None:
  from deepsentinel.embedding import area, geotiff, inputs, scene
  from deepsentinel.sources.local import LocalScenes

  geotiff.bound_cache()
  found = []
  for sensor, path in paths.items():
    stated = {'s2_unit': 'reflectance_x1e4', 's1_unit': 'db_x100', 's1_quantity': 'sigma0_ellipsoid'}
    source = LocalScenes(str(path), times={sensor: '2020-06-01'}, **stated)
    found.append(inputs.SceneInput(source, source.scenes()[0], 'local', stated))
  model = _model(encoder, width)
  grid = area.scene_grid(found[0].source, found[0].scene)
  begun = time.perf_counter()
  scene.embed(model, inputs.SceneReader(found, model.bands), grid, out, progress=False)
  said.send((time.perf_counter() - begun, _peak_mb()))


def _peak_mb() -> float:
  """Of this process. What `getrusage` says counts the process that it was forked from, before it began."""
  status = pathlib.Path('/proc/self/status')
  if not status.exists():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  (line,) = [line for line in status.read_text().splitlines() if line.startswith('VmHWM:')]
  return int(line.split()[1]) / 1024


def measure(folder: pathlib.Path, height: int, width: int, encoder: str, channels: int) -> tuple[float, float]:
  """Seconds and peak memory in MB of embedding a scene of height x width px, in a process of its own."""
  paths, out = write_scene(folder, height, width), folder / f'{height}x{width}' / 'embedded'
  shutil.rmtree(out, ignore_errors=True)
  context = multiprocessing.get_context('spawn')
  heard, said = context.Pipe(duplex=False)
  process = context.Process(target=_embed, args=(paths, out, encoder, channels, said))
  process.start()
  said.close()
  seconds, peak_mb = heard.recv()
  process.join()
  return seconds, peak_mb


def _peer(model, window_px: int) -> float | None:
  """Seconds in which PyTorch encodes one window; None where there is no PyTorch, or no such encoder written in it."""
  from deepsentinel.export import pytorch

  try:
    import torch

    from deepsentinel.export import modeling_deepsentinel

    layers = pytorch.layers(model)
  except (ImportError, ValueError) as error:
    print(f'  not compared with PyTorch: {error}')
    return None
  bands, width = len(model.bands), model.module.encoder.width
  network = modeling_deepsentinel.Encoder(bands, width, layers['stage_sizes'], layers['attention_after'])
  network = network.eval().to(memory_format=torch.channels_last)
  images = torch.zeros((1, bands, window_px, window_px)).to(memory_format=torch.channels_last)
  with torch.inference_mode():
    network(images)
    begun = time.perf_counter()
    for _ in range(_PEER_WINDOWS):
      network(images)
  return (time.perf_counter() - begun) / _PEER_WINDOWS


def main(_: list[str]) -> None:
  from deepsentinel.embedding import windows

  side, folder = _SIDE.value, pathlib.Path(_DIR.value) / 'embed_scene'
  seconds, peak_mb = measure(folder, side, side, _ENCODER.value, _WIDTH.value)
  pixels = side**2
  print(f'{_ENCODER.value}, width {_WIDTH.value}, {side} x {side} px of {len(sensors.ALL_BANDS)} bands')
  print(f'  embedded in {seconds:.0f} s: {pixels / seconds / 1e6:.2f} million px/s; peak memory {peak_mb:.0f} MB')
  model = _model(_ENCODER.value, _WIDTH.value)
  reach_px = model.module.encoder.reach_px
  if reach_px is None:
    print('  not compared with PyTorch: this encoder sees a window as a whole, not windows whose centre is kept')
    return
  layout = windows.plan(side, side, stride=16, reach_px=reach_px, crop_px=model.crop_px)
  peer_s = _peer(model, layout.window_px)
  if peer_s is not None:
    rate = (layout.step * layout.stride) ** 2 / peer_s / 1e6
    print(f'  PyTorch, the same windows, encoding alone: {rate:.2f} million px/s')


if __name__ == '__main__':
  app.run(main)
