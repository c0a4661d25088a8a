"""The fields of one record: what a TFDS builder writes and the reader reads.

A record is one patch. Its tensors are stored raw (`Encoding.BYTES`), so that a crop can be read without decoding the
rest; its scalars are small and are read once, into a table.
"""

import dataclasses

from deepsentinel import sensors


@dataclasses.dataclass(frozen=True)
class TensorField:
  name: str
  shape: tuple[int, ...]
  dtype: str
  nodata: int
  description: str


@dataclasses.dataclass(frozen=True)
class ScalarField:
  name: str
  dtype: str  # 'string', 'int32', 'int64', 'float32', 'float64'
  missing: str | int | float
  description: str
  optional: bool = False  # records that were packaged before it was known lack it: they hold `missing`


def tensor_fields(
  spec: sensors.SensorSpec, patch_px: int, labelled: bool, landcover: bool = False
) -> dict[str, TensorField]:
  """Tensors of a record, by name, in the order in which they are written.

  Args:
    spec: bands.
    patch_px: edge of a patch.
    labelled: with label maps.
    landcover: whether a map of the data set's own legend is among them.
  """
  fields = []
  if spec.s2_bands:
    shape: tuple[int, ...] = (patch_px, patch_px, len(spec.s2_bands))
    fields.append(TensorField('s2', shape, 'uint16', sensors.S2_NODATA, 'Sentinel-2 reflectance x 10,000'))
  if spec.s1_bands:
    shape = (patch_px, patch_px, len(spec.s1_bands))
    fields.append(TensorField('s1', shape, 'int16', sensors.S1_NODATA, 'Sentinel-1 backscatter, dB x 100'))
  if labelled:
    shape = (patch_px, patch_px)
    fields.append(TensorField('corine', shape, 'uint8', 0, 'CORINE 2018 level-3 index, 1 to 44 (legend.CORINE)'))
    fields.append(TensorField('osm', shape, 'uint16', 0, 'OpenStreetMap themes, one bit each (legend.OSM_THEMES)'))
    if landcover:
      what = "class of the data set's land-cover map: place in the legend of its card, from 1"
      fields.append(TensorField('landcover', shape, 'uint8', 0, what))
  return {f.name: f for f in fields}


# Every scalar is also a column of the corpus manifest, by the same name.
SCALARS = (
  ScalarField('id', 'string', '', 'patch id, unique in the corpus'),
  ScalarField('lon_deg', 'float64', float('nan'), 'longitude of the patch centre, degrees WGS84'),
  ScalarField('lat_deg', 'float64', float('nan'), 'latitude of the patch centre, degrees WGS84'),
  ScalarField('country', 'string', '', 'ISO 3166 alpha-3 code, where known'),
  ScalarField('epsg', 'int32', 0, 'CRS of the patch grid'),
  ScalarField('x0_m', 'float64', float('nan'), 'left edge of the patch, metres in its CRS'),
  ScalarField('y0_m', 'float64', float('nan'), 'upper edge of the patch, metres in its CRS'),
  ScalarField('s2_scene', 'string', '', 'id of the Sentinel-2 scene'),
  ScalarField('s1_scene', 'string', '', 'id of the Sentinel-1 scene'),
  ScalarField('s2_time', 'int64', -1, 'Sentinel-2 sensing start, seconds since 1970 UTC'),
  ScalarField('s1_time', 'int64', -1, 'Sentinel-1 sensing start, seconds since 1970 UTC'),
  ScalarField('s2_baseline', 'string', '', 'Sentinel-2 processing baseline, e.g. 05.09'),
  ScalarField('s2_cloud_share', 'float32', float('nan'), 'cloud share of the patch, or of its scene, 0 to 1'),
  ScalarField('s1_pass', 'string', '', "'ascending' or 'descending'"),
  ScalarField('s1_relative_orbit', 'int32', -1, 'Sentinel-1 relative orbit, 1 to 175'),
  ScalarField('s1_incidence_deg', 'float32', float('nan'), 'incidence angle at the patch centre, degrees'),
  ScalarField('classes', 'string', '', 'class names the patch is tagged with, joined by ";"'),
  ScalarField('scene', 'int32', 0, 'what the whole patch shows: an index of legend.SCENES, 0 = unknown', optional=True),
)
