r"""Embeds a whole scene, or any area, with a trained model.

    python -m deepsentinel.embed --checkpoint=runs/quickstart_t2v --source=synthetic \
      --bounds=11.2,47.9,11.6,48.2 --date=2019-06-20 --out=maps/synthetic
    python -m deepsentinel.embed --checkpoint=RUN --source=earthengine --option=project=PROJECT \
      --area=CATCHMENT.gpkg --dates=2023-06-01,2023-08-31 --level=landcover --out=maps/catchment
    python -m deepsentinel.embed --checkpoint=RUN --source=local --s2=SCENE_FOLDER --s2_unit=reflectance_x1e4 \
      --s1=SCENE.tif --s1_unit=db --s1_quantity=sigma0_ellipsoid --out=maps/scene

The level says what is made:
  map        embedding.tif, Cloud-Optimized GeoTIFF: a vector for each cell of 16 x 16 pixels, the encoder's own step
  patch      patches.parquet, GeoParquet: a vector for each square of the training crop's size
  header     header.tif: the channels of a land-cover model's header before its last layer, a vector for each pixel
  landcover  landcover.tif: the class of each pixel; landcover_quality.tif: the entropy of the class probabilities as a
             share of a pure guess's, and whether there was an optical, a radar, a cloudy observation
and beside it embedding.png, a picture; header and landcover write embedding.tif as well.

From a catalogue neighbouring scenes of one pass are taken together, other passes fill what they leave open, and all are
named: with --date those first that show most of the area and are nearest, with --dates those that show most of it free
of cloud. Radar follows the optical scenes. A local scene is embedded whole unless --bounds or --area cuts it. Where an
encoder has attention, windows of the training crop overlap by half and are blended. A model that was fine-tuned on a
part of its encoder's bands (config.data.bands) is given that part alone. The same command goes on where an interrupted
one was.

--mask_clouds takes a checkpoint that was trained for missing optical pixels (configs/under_cloud.py) and scenes that
bring a cloud mask: the scene classification (SCL) of stac, earthengine and earthone, SCL.tif, .._SCL_20m.jp2 or
cloud_mask.tif beside local bands, SyntheticEarth's own clouds. What one scene has under cloud a further one fills, else
the radar alone is left, or nodata; the files say by what clouds were masked, and how much.
"""

import dataclasses
import datetime
import json
import pathlib

from absl import flags

from deepsentinel import commandline
from deepsentinel.train import xla

_CHECKPOINT = flags.DEFINE_string('checkpoint', None, 'run directory, or one of its stages', required=True)
_STAGE = flags.DEFINE_enum('stage', '', ['', 'pretrain', 'finetune'], 'whose encoder; default: the last there is')
_OUT = flags.DEFINE_string('out', None, 'folder for the results', required=True)
_LEVEL = flags.DEFINE_enum('level', 'map', ['map', 'patch', 'header', 'landcover'], 'what is made; see above')
_SOURCE = flags.DEFINE_string('source', 'local', "'local', 'synthetic', or another imagery source")
_OPTION = flags.DEFINE_multi_string('option', [], 'key=value for the source, the value as JSON; may be repeated')
_S2 = flags.DEFINE_string('s2', '', 'local Sentinel-2 scene: folder, file, glob or catalogue')
_S1 = flags.DEFINE_string('s1', '', 'local Sentinel-1 scene')
_S2_UNIT = flags.DEFINE_string('s2_unit', '', 'unit of its numbers: reflectance, reflectance_x1e4, ..._plus1000')
_S1_UNIT = flags.DEFINE_string('s1_unit', '', 'unit of its numbers: db, power, amplitude, db_x100, ...')
_S1_QUANTITY = flags.DEFINE_string('s1_quantity', '', 'sigma0_ellipsoid, gamma0_terrain, ...')
_S2_SCENE = flags.DEFINE_list('s2_scene', [], 'ids of local Sentinel-2 scenes, where there are several; first on top')
_S1_SCENE = flags.DEFINE_list('s1_scene', [], 'ids of local Sentinel-1 scenes, where there are several; first on top')
_BOUNDS = flags.DEFINE_list('bounds', [], 'west,south,east,north in degrees')
_AREA = flags.DEFINE_string('area', '', 'vector file whose polygons are the area, in any CRS; the rest is nodata')
_LAYER = flags.DEFINE_string('layer', '', 'layer of --area, where it has several')
_DATE = flags.DEFINE_string('date', '', 'YYYY-MM-DD: scenes nearest to this day')
_DATES = flags.DEFINE_list('dates', [], 'YYYY-MM-DD,YYYY-MM-DD: the clearest scenes from the first day to the last')
_SEARCH_DAYS = flags.DEFINE_float('search_days', 15.0, 'most days from --date', lower_bound=0)
_MAX_CLOUD = flags.DEFINE_float('max_cloud', 1.0, 'pass over Sentinel-2 scenes with a larger cloud share', 0, 1)
_MASK_CLOUDS = flags.DEFINE_bool(
  'mask_clouds', False, "optical pixels under the scenes' own cloud masks are missing to the model; see above"
)
_WINDOW_PX = flags.DEFINE_integer('window_px', 0, "side of the encoder's window; 0 chooses", lower_bound=0)
_CHECK_BANDS = flags.DEFINE_bool('check_bands', True, 'refuse bands that seem to be in another order')
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


@dataclasses.dataclass(frozen=True)
class _Period:
  """When scenes are searched; `near` is the day that is wanted, None where the clearest are."""

  start: datetime.datetime
  end: datetime.datetime
  near: datetime.datetime | None


def _day(flag: str, text: str) -> datetime.datetime:
  try:
    day = datetime.date.fromisoformat(text.strip())
  except ValueError:
    raise ValueError(f'--{flag}={text!r} is no YYYY-MM-DD.') from None
  return datetime.datetime.combine(day, datetime.time(), datetime.UTC)


def _period() -> _Period | None:
  """Of --date or --dates; None without both."""
  if _DATE.value and _DATES.value:
    raise ValueError('--date and --dates exclude each other: pass the day that is wanted, or the first and last day.')
  if _DATE.value:
    # Midday: the nearest scene is then the nearest whatever its hour.
    noon = _day('date', _DATE.value) + datetime.timedelta(hours=12)
    reach = datetime.timedelta(days=_SEARCH_DAYS.value)
    return _Period(noon - reach, noon + reach, noon)
  if not _DATES.value:
    return None
  if len(_DATES.value) != 2:
    raise ValueError(f'--dates={",".join(_DATES.value)} is no first,last day; write --dates=2023-06-01,2023-08-31.')
  first, last = (_day('dates', text) for text in _DATES.value)
  if last < first:
    raise ValueError(f'--dates={",".join(_DATES.value)} ends before it begins: the first day comes first.')
  return _Period(first, last + datetime.timedelta(days=1), None)


def _polygons():
  """The area of --area; None without."""
  if not _AREA.value:
    return None
  if _BOUNDS.value:
    raise ValueError('--area and --bounds exclude each other: pass one of them.')
  from deepsentinel.embedding import area

  return area.read_polygons(_AREA.value, _LAYER.value)


def _grid(polygons, like=None):
  """The grid of --area or --bounds; None without both."""
  from deepsentinel.embedding import area

  bounds = _bounds()
  if polygons is not None:
    return polygons.grid(like)
  return area.bounds_grid(*bounds, like=like) if bounds else None


def _wanted_sensors(bands: tuple[str, ...]) -> list[str]:
  from deepsentinel import sensors

  return list(sensors.SensorSpec(bands).sensors)


def _chosen(source, sensor: str, outline, period: _Period, name: str, stated: dict) -> list:
  """Scenes of a sensor that are searched, as the reader takes them; says which."""
  from deepsentinel.embedding import inputs, scenes

  choices = scenes.choose(
    source, sensor, outline, period.start, period.end, near=period.near, max_cloud=_MAX_CLOUD.value
  )
  for choice in choices:
    adds = 'shows' if choice is choices[0] else 'adds'
    print(f'{sensor}: {choice.scene.id}, {choice.scene.time:%Y-%m-%d %H:%M} UTC, {adds} {choice.share:.0%} of the area')
  shown = sum(choice.share for choice in choices)
  if shown < 0.995:
    print(f'{sensor}: {1 - shown:.0%} of the area is in none of these scenes, and nodata')
  return [inputs.SceneInput(source, choice.scene, name, stated) for choice in choices]


def _from_catalogue(bands: tuple[str, ...], polygons):
  """Scenes of a source that is searched, radar nearest to the optical ones."""
  from deepsentinel import registry
  from deepsentinel.embedding import inputs

  grid, period = _grid(polygons), _period()
  if grid is None or period is None:
    raise ValueError(
      f'--source={_SOURCE.value} is searched: pass --bounds=west,south,east,north or --area=FILE, and '
      '--date=YYYY-MM-DD or --dates=FIRST,LAST.'
    )
  source = registry.build('imagery source', {'name': _SOURCE.value, **_options()})
  if _MASK_CLOUDS.value:
    inputs.require_cloud_masks(source, _SOURCE.value)
  if hasattr(source, 'connect'):
    source.connect()
  outline, found = polygons.outline if polygons else grid.outline_lonlat(), []
  for sensor in _wanted_sensors(bands):
    if sensor in source.spec.sensors:
      found += _chosen(source, sensor, outline, period, _SOURCE.value, _options())
      period = dataclasses.replace(period, near=found[0].scene.time)  # radar follows the optical scene
  return found, grid


def _from_files(bands: tuple[str, ...], polygons):
  """Scenes of local files; the first one gives the grid."""
  import shapely

  from deepsentinel import registry
  from deepsentinel.embedding import area, inputs, scenes

  paths = {'sentinel2': _S2.value, 'sentinel1': _S1.value}
  if not any(paths.values()):
    raise ValueError('--source=local needs --s2=... or --s1=... (a folder, file, glob or catalogue).')
  units = {'s2_unit': _S2_UNIT.value, 's1_unit': _S1_UNIT.value, 's1_quantity': _S1_QUANTITY.value}
  stated = {key: value for key, value in units.items() if value} | _options()
  grid, period = _grid(polygons), _period()
  if period and not grid and not (_S2_SCENE.value or _S1_SCENE.value):
    raise ValueError(
      '--date and --dates choose among scenes those that show an area: pass --bounds or --area with them, or name the '
      'scenes with --s2_scene and --s1_scene.'
    )
  found: list = []
  for sensor, path in paths.items():
    if not path:
      continue
    if sensor not in _wanted_sensors(bands):
      print(f'{path} is left out: the model takes no {sensor} band')
      continue
    source = registry.build('imagery source', {'name': 'local', 'path': path, **stated})
    flag = _SCENE_FLAGS[sensor]
    held = [s for s in source.scenes() if s.sensor == sensor]
    if not held:
      raise ValueError(f'--{"s" + sensor[-1]}={path} holds no {sensor} scene.')
    if period and grid and not flag.value:
      outline = polygons.outline if polygons else grid.outline_lonlat()
      found += _chosen(source, sensor, outline, period, 'local', stated)
      period = dataclasses.replace(period, near=found[0].scene.time)
      continue
    for scene in scenes.named(held, flag.value, f'--{flag.name}'):
      found.append(inputs.SceneInput(source, scene, 'local', stated))
      print(f'{sensor}: {scene.id}, {scene.time:%Y-%m-%d %H:%M} UTC')
  if not found:
    raise ValueError(f'The model takes {list(bands)}: none of the scenes given has such a band.')
  whole = area.scene_grid(found[0].source, found[0].scene)
  together = [i.scene.footprint for i in found if i.scene.sensor == found[0].scene.sensor]
  if grid is None and len(together) > 1:
    whole = area.bounds_grid(*area.bounds_of(shapely.union_all(together)), like=whole)
  return found, whole if grid is None else _grid(polygons, whole)


def run() -> None:
  from deepsentinel import registry
  from deepsentinel.embedding import inputs, levels, scene
  from deepsentinel.train import checkpoint

  _bounds(), _period(), _options()  # what is wrong with them is said before the seconds of loading a model
  polygons = _polygons()
  registry.load('imagery source', _SOURCE.value)
  model = checkpoint.load_trained(_CHECKPOINT.value, stage=_STAGE.value or None)
  levels.require(model, _LEVEL.value, mask_clouds=_MASK_CLOUDS.value)
  choose = _from_files if _SOURCE.value == 'local' else _from_catalogue
  bands = model.shown or model.bands  # pixels of the others would be kept from the model
  found, grid = choose(bands, polygons)
  size_km = grid.width_px * grid.pixel_m / 1000, grid.height_px * grid.pixel_m / 1000
  print(f'area: {size_km[0]:.2f} x {size_km[1]:.2f} km, EPSG:{grid.epsg}, {grid.width_px} x {grid.height_px} px')
  reader = inputs.SceneReader(found, bands, mask_clouds=_MASK_CLOUDS.value)
  if reader.mask_clouds:
    print(f'clouds masked by: {reader.masked_by}')
  reader.require_overlap(polygons.outline if polygons else grid.outline_lonlat())
  result = scene.embed(
    model, reader, grid, pathlib.Path(_OUT.value), level=_LEVEL.value, area=polygons, window_px=_WINDOW_PX.value,
    check_bands=_CHECK_BANDS.value, progress=_PROGRESS.value,
  )  # fmt: skip
  if result.resumed:
    print(f'{result.resumed} strips were there already')
  if reader.mask_clouds:
    tags = json.loads((pathlib.Path(_OUT.value) / 'embedding.json').read_text())['tags']
    print(f'{float(tags["masked_share"]):.1%} of the area is under masked cloud')
  for path in result.files:
    print(path)
  if reader.synthetic:
    print('SyntheticEarth: these pixels are computed, not observed.')


def main(_: list[str]) -> None:
  xla.prepare_backend()
  from deepsentinel.embedding import geotiff

  geotiff.bound_cache()
  from deepsentinel.train import parallel

  parallel.require_devices()
  with parallel.memory_errors('Lower --window_px and run the same command again.'):
    run()


if __name__ == '__main__':
  commandline.run(main, resumes=True)
