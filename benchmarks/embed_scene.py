"""How fast is a whole scene embedded, and in how much memory?

    python benchmarks/embed_scene.py [--side=4096] [--width=8] [--encoder=resnet18] [--repeats=2]
        [--dir=.cache/benchmarks]

Writes a Sentinel-2 and a Sentinel-1 GeoTIFF of SIDE x SIDE px once, 14 bands of noise, and embeds them in a process of
their own, as `python -m deepsentinel.embed` does: reading, encoding, strips, Cloud-Optimized GeoTIFF and picture; the
start of the process is left out, and the first run, which compiles, is not counted. The peer is PyTorch, channels last,
in inference mode, encoding windows of the same size with all of its cores, without reading or writing anything. A scene
of half the side says whether memory grows with the scene. A Sentinel-2 tile has a side of 10,980 px.
"""

import argparse
import multiprocessing
import pathlib
import resource
import shutil
import time
from collections.abc import Callable

import jax
import numpy as np
import rasterio

from deepsentinel import sensors

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


def trained(name: str, width: int, variables=None):
  """A pretrained model of all bands; without variables of Tile2Vec, one that nothing was learnt into."""
  from deepsentinel import registry
  from deepsentinel.objectives.tile2vec import Tile2Vec
  from deepsentinel.train import models, state
  from deepsentinel.train.trained import Trained

  module, spec = Tile2Vec(encoder=registry.load('encoder', name)(width=width)), sensors.SensorSpec()
  if variables is None:
    drawn = state.init_variables(module, models.example_inputs(module, len(spec.bands)), jax.random.key(0))
    variables = jax.tree.map(np.asarray, drawn)
  n = len(spec.s2_bands)
  statistics = {
    'bands': list(spec.bands),
    'mean': [0.2] * n + [-15.0] * 2,
    'std': [0.1] * n + [5.0] * 2,
    'count': [1] * len(spec.bands),
  }
  return Trained(
    stage='pretrain', config={'data': {'crop_px': 128}, 'encoder': {'name': name}}, spec=spec, statistics=statistics,
    subsets=[], module=module, variables=variables, step=0, sha256='0' * 64, synthetic=True,
    directory=pathlib.Path('none'),
  )  # fmt: skip


def torch_encoder(model):
  """The encoder of a model of all of its variables as an export writes it in PyTorch, channels last."""
  import torch

  from deepsentinel.export import modeling_deepsentinel, pytorch

  layers = pytorch.layers(model)
  network = modeling_deepsentinel.Encoder(
    len(model.bands), model.module.encoder.width, layers['stage_sizes'], layers['attention_after']
  )
  weights = {key: torch.from_numpy(value) for key, value in pytorch.state_dict(model).items()}
  own = {key.removeprefix('encoder.'): value for key, value in weights.items() if key.startswith('encoder.')}
  network.load_state_dict(own)
  return network.to(memory_format=torch.channels_last)


def torch_images(images: np.ndarray):
  """float32 [B, H, W, C] as a tensor [B, C, H, W], channels last in memory."""
  import torch

  return torch.from_numpy(np.array(images).transpose(0, 3, 1, 2)).contiguous(memory_format=torch.channels_last)


def _embed(paths: dict[str, pathlib.Path], out: pathlib.Path, encoder: str, width: int, said) -> None:
  from deepsentinel.train import xla

  xla.prepare_backend()
  model = trained(encoder, width)  # a command reads its weights from a checkpoint
  from deepsentinel.embedding import area, geotiff, inputs, scene
  from deepsentinel.sources.local import LocalScenes

  geotiff.bound_cache()
  begun, found = time.perf_counter(), []
  for sensor, path in paths.items():
    stated = {'s2_unit': 'reflectance_x1e4', 's1_unit': 'db_x100', 's1_quantity': 'sigma0_ellipsoid'}
    source = LocalScenes(str(path), times={sensor: '2020-06-01'}, **stated)
    found.append(inputs.SceneInput(source, source.scenes()[0], 'local', stated))
  grid = area.scene_grid(found[0].source, found[0].scene)
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


def torch_pixels_per_s(model, side: int) -> Callable[[], float]:
  """A run of PyTorch over some windows of a scene, which returns the pixels that are kept of them a second.

  Args:
    model: of an encoder that sees windows of which the centre is kept.
    side: of the scene, pixels.
  """
  import torch

  from deepsentinel.embedding import windows

  layout = windows.plan(side, side, stride=16, reach_px=model.module.encoder.reach_px, crop_px=model.crop_px)
  shape = (layout.batch, layout.window_px, layout.window_px, len(model.bands))
  images = torch_images(np.random.default_rng(0).normal(size=shape).astype(np.float32))
  network = torch_encoder(model).eval()
  kept_px = layout.batch * side**2 / (layout.strips * layout.tiles_a_strip)  # windows reach beyond the scene's edge

  def run() -> float:
    with torch.inference_mode():
      begun = time.perf_counter()
      for _ in range(_PEER_WINDOWS):
        network(images)
    return _PEER_WINDOWS * kept_px / (time.perf_counter() - begun)

  return run


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--side', type=int, default=4096, help='of the scene, pixels')
  parser.add_argument('--width', type=int, default=8, help='channels of the stem of the encoder')
  parser.add_argument('--encoder', default='resnet18', help='one without attention')
  parser.add_argument('--repeats', type=int, default=2, help='turns of each way')
  parser.add_argument('--dir', default='.cache/benchmarks', help='where the scenes are kept')
  options = parser.parse_args()
  import sidebyside
  import torch

  torch.set_num_threads(sidebyside.cores())
  side, folder, peaks = options.side, pathlib.Path(options.dir) / 'embed_scene', []

  def ours() -> float:
    seconds, peak_mb = measure(folder, side, side, options.encoder, options.width)
    peaks.append(peak_mb)
    return side**2 / seconds / 1e6

  model = trained(options.encoder, options.width)
  if model.module.encoder.reach_px is None:
    parser.error(f'--encoder={options.encoder} sees a window as a whole, so its windows cannot be compared.')
  theirs = torch_pixels_per_s(model, side)
  half_mb = [measure(folder, side // 2, side // 2, options.encoder, options.width)[1] for _ in range(options.repeats)]
  values = sidebyside.alternate({'ours': ours, 'theirs': lambda: theirs() / 1e6}, options.repeats)
  what = f'{options.encoder} of width {options.width}'
  sidebyside.leave(
    __file__,
    [
      sidebyside.Row(
        f'scene of {side} x {side} px to embedding.tif, {what}', 'PyTorch, channels last, encoding the windows alone',
        'million px/s', values['ours'], values['theirs'], 1.0, 'without starting; it is compiled once for all runs',
      ),
      sidebyside.Row(
        f'peak memory of a scene of {side} x {side} px, {what}', f'a scene of {side // 2} x {side // 2} px', 'MB',
        peaks[1:], half_mb, note='a ratio of 1 is flat',
      ),
    ],
  )  # fmt: skip


if __name__ == '__main__':
  main()
