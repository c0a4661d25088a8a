r"""Embeds a whole scene, or any area, with a trained model.

    python -m deepsentinel.embed --checkpoint=runs/quickstart_t2v --source=synthetic \
      --bounds=11.2,47.9,11.6,48.2 --date=2019-06-20 --out=maps/synthetic
    python -m deepsentinel.embed --checkpoint=RUN --source=local --s2=SCENE_FOLDER --s2_unit=reflectance_x1e4 \
      --s1=SCENE.tif --s1_unit=db --s1_quantity=sigma0_ellipsoid --out=maps/scene

Writes embedding.tif (Cloud-Optimized GeoTIFF, one band a dimension, one cell for 16 x 16 pixels), embedding.png and,
with --level=landcover and a fine-tuned model, landcover.tif. From a catalogue the scenes nearest to --date that show
most of the area are taken, and named; a local scene is embedded whole unless --bounds cuts it. The same command goes on
where an interrupted one was.
"""

import datetime
import json
import pathlib

from absl import flags

from deepsentinel import commandline
from deepsentinel.train import xla

_CHECKPOINT = flags.DEFINE_string('checkpoint', None, 'run directory, or one of its stages', required=True)
_STAGE = flags.DEFINE_enum('stage', '', ['', 'pretrain', 'finetune'], 'whose encoder; default: the last there is')
_OUT = flags.DEFINE_string('out', None, 'folder for the results', required=True)
_LEVEL = flags.DEFINE_enum('level', 'embedding', ['embedding', 'landcover'], "'landcover' maps the classes as well")
_SOURCE = flags.DEFINE_string('source', 'local', "'local', 'synthetic', or another imagery source")
_OPTION = flags.DEFINE_multi_string('option', [], 'key=value for the source, the value as JSON; may be repeated')
_S2 = flags.DEFINE_string('s2', '', 'local Sentinel-2 scene: folder, file, glob or catalogue')
_S1 = flags.DEFINE_string('s1', '', 'local Sentinel-1 scene')
_S2_UNIT = flags.DEFINE_string('s2_unit', '', 'unit of its numbers: reflectance, reflectance_x1e4, ..._plus1000')
_S1_UNIT = flags.DEFINE_string('s1_unit', '', 'unit of its numbers: db, power, amplitude, db_x100, ...')
_S1_QUANTITY = flags.DEFINE_string('s1_quantity', '', 'sigma0_ellipsoid, gamma0_terrain, ...')
_S2_SCENE = flags.DEFINE_string('s2_scene', '', 'id of the Sentinel-2 scene, where there are several')
_S1_SCENE = flags.DEFINE_string('s1_scene', '', 'id of the Sentinel-1 scene, where there are several')
_BOUNDS = flags.DEFINE_list('bounds', [], 'west,south,east,north in degrees')
_DATE = flags.DEFINE_string('date', '', 'YYYY-MM-DD: scenes nearest to this day')
_SEARCH_DAYS = flags.DEFINE_float('search_days', 15.0, 'most days from --date', lower_bound=0)
_MAX_CLOUD = flags.DEFINE_float('max_cloud', 1.0, 'pass over Sentinel-2 scenes with a larger cloud share', 0, 1)
_WINDOW_PX = flags.DEFINE_integer('window_px', 0, "side of the encoder's window; 0 chooses", lower_bound=0)
_PROGRESS = flags.DEFINE_bool('progress', True, 'show a progress bar')

_SCENE_FLAGS = {'sentinel2': _S2_SCENE, 'sentinel1': _S1_SCENE}


def _options() -> dict:
  options = {}
  for item in _OPTION.value:
    key, separator, value = item.partition('=')
    if not (separator and key.isidentifier()):
      raise ValueError(f'--option={item!r} is no key=value.')
    try:
      options[key] = json.loads(value)
    except json.JSONDecodeError:
      options[key] = value  # a bare word
  return options


def _bounds() -> tuple[float, float, float, float] | None:
  if not _BOUNDS.value:
    return None
  try:
    west, south, east, north = map(float, _BOUNDS.value)
  except ValueError:
    raise ValueError(f'--bounds={",".join(_BOUNDS.value)} is no west,south,east,north in degrees.') from None
  return west, south, east, north


def _noon() -> datetime.datetime | None:
  """Midday of --date: the nearest scene is then the nearest whatever its hour."""
  if not _DATE.value:
    return None
  try:
    day = datetime.date.fromisoformat(_DATE.value)
  except ValueError:
    raise ValueError(f'--date={_DATE.value!r} is no YYYY-MM-DD.') from None
  return datetime.datetime.combine(day, datetime.time(12), datetime.UTC)


def _wanted_sensors(bands: tuple[str, ...]) -> list[str]:
  from deepsentinel import sensors

  return list(sensors.SensorSpec(bands).sensors)


def _from_catalogue(bands: tuple[str, ...]):
  """Scenes of a source that is searched: the nearest to the date, radar nearest to the optical scene."""
  from deepsentinel import registry
  from deepsentinel.embedding import area, inputs

  bounds, time = _bounds(), _noon()
  if not bounds or time is None:
    raise ValueError(
      f'--source={_SOURCE.value} is searched: pass --bounds=west,south,east,north and --date=YYYY-MM-DD.'
    )
  source = registry.build('imagery source', {'name': _SOURCE.value, **_options()})
  grid = area.bounds_grid(*bounds)
  chosen = []
  for sensor in _wanted_sensors(bands):
    if sensor not in source.spec.sensors:
      continue
    scene, share = inputs.nearest_scene(
      source, sensor, grid, time, search_days=_SEARCH_DAYS.value, max_cloud=_MAX_CLOUD.value
    )
    chosen.append(inputs.SceneInput(source, scene, _SOURCE.value, _options()))
    print(f'{sensor}: {scene.id}, {scene.time:%Y-%m-%d %H:%M} UTC, shows {share:.0%} of the area')
    time = scene.time  # radar follows the optical scene
  return chosen, grid


def _from_files(bands: tuple[str, ...]):
  """Scenes of local files; the first one gives the grid."""
  from deepsentinel import registry
  from deepsentinel.embedding import area, inputs

  paths = {'sentinel2': _S2.value, 'sentinel1': _S1.value}
  if not any(paths.values()):
    raise ValueError('--source=local needs --s2=... or --s1=... (a folder, file, glob or catalogue).')
  units = {'s2_unit': _S2_UNIT.value, 's1_unit': _S1_UNIT.value, 's1_quantity': _S1_QUANTITY.value}
  stated = {key: value for key, value in units.items() if value}
  chosen = []
  for sensor, path in paths.items():
    if not path:
      continue
    if sensor not in _wanted_sensors(bands):
      print(f'{path} is left out: the model takes no {sensor} band')
      continue
    source = registry.build('imagery source', {'name': 'local', 'path': path, **stated, **_options()})
    flag = _SCENE_FLAGS[sensor]
    scenes = [s for s in source.scenes() if s.sensor == sensor]
    if not scenes:
      raise ValueError(f'--{"s" + sensor[-1]}={path} holds no {sensor} scene.')
    scene = inputs.named_scene(scenes, flag.value, f'--{flag.name}')
    chosen.append(inputs.SceneInput(source, scene, 'local', {**stated, **_options()}))
    print(f'{sensor}: {scene.id}, {scene.time:%Y-%m-%d %H:%M} UTC')
  if not chosen:
    raise ValueError(f'The model takes {list(bands)}: none of the scenes given has such a band.')
  whole = area.scene_grid(chosen[0].source, chosen[0].scene)
  bounds = _bounds()
  return chosen, area.bounds_grid(*bounds, like=whole) if bounds else whole


def run() -> None:
  from deepsentinel import registry
  from deepsentinel.embedding import inputs, scene
  from deepsentinel.train import checkpoint

  _bounds(), _noon(), _options()  # what is wrong with them is said before the seconds of loading a model
  registry.load('imagery source', _SOURCE.value)
  model = checkpoint.load_trained(_CHECKPOINT.value, stage=_STAGE.value or None)
  chosen, grid = _from_files(model.bands) if _SOURCE.value == 'local' else _from_catalogue(model.bands)
  size_km = grid.width_px * grid.pixel_m / 1000, grid.height_px * grid.pixel_m / 1000
  print(f'area: {size_km[0]:.2f} x {size_km[1]:.2f} km, EPSG:{grid.epsg}, {grid.width_px} x {grid.height_px} px')
  reader = inputs.SceneReader(chosen, model.bands)
  reader.require_overlap(grid)
  out = pathlib.Path(_OUT.value)
  result = scene.embed(
    model, reader, grid, out, level=_LEVEL.value, window_px=_WINDOW_PX.value, progress=_PROGRESS.value
  )
  if result.resumed:
    print(f'{result.resumed} strips were there already')
  for path in (result.embedding, result.landcover, result.picture):
    if path is not None:
      print(path)
  if reader.synthetic:
    print('SyntheticEarth: these pixels are computed, not observed.')


def main(_: list[str]) -> None:
  xla.prepare_backend()
  from deepsentinel.train import parallel

  parallel.require_devices()
  with parallel.memory_errors('Lower --window_px and run the same command again.'):
    run()


if __name__ == '__main__':
  commandline.run(main, resumes=True)
