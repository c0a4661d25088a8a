"""Places that a user gives as a vector file: points and polygons in any CRS."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import shapely


def read(path: str | os.PathLike, layer: str = ''):
  """The features of a layer in WGS84.

  Args:
    path: GeoPackage, GeoJSON, Shapefile, or whatever else GDAL reads.
    layer: its name; '' where there is only one.
  Returns:
    geopandas.GeoDataFrame in EPSG:4326; features without a geometry are left out.
  Raises:
    ValueError: no such file or layer, no CRS, no feature, or another geometry than points and polygons.
  """
  import geopandas
  import pyogrio

  file = pathlib.Path(path).expanduser()
  if not file.exists():
    raise ValueError(f'{file} is not there. Check the path; a GeoPackage, GeoJSON or Shapefile is wanted.')
  try:
    layers = [str(name) for name, _ in pyogrio.list_layers(file)]
  except pyogrio.errors.DataSourceError as error:
    raise ValueError(f'{file} is no vector file ({error}). Give a GeoPackage, GeoJSON or Shapefile.') from error
  if layer and layer not in layers:
    raise ValueError(f'{file} has no layer {layer!r}. Layers: {", ".join(layers)}.')
  if not layer and len(layers) != 1:
    raise ValueError(f'{file} has {len(layers)} layers; name one with --layer=... Layers: {", ".join(layers)}.')
  frame = geopandas.read_file(file, layer=layer or layers[0])
  if 'geometry' not in frame:
    raise ValueError(f'{file} has no geometry, only a table. Give a GeoPackage, GeoJSON or Shapefile.')
  if frame.crs is None:
    raise ValueError(f'{file} does not say its CRS. Set it, e.g. with `ogr2ogr -a_srs EPSG:4326 NEW {file.name}`.')
  frame = frame[~(frame.geometry.isna() | frame.geometry.is_empty)]
  if not len(frame):
    raise ValueError(f'{file} has no feature with a geometry. Draw a point or a polygon in it.')
  known = {'Point', 'MultiPoint', 'Polygon', 'MultiPolygon'}
  others = sorted(set(frame.geometry.geom_type) - known)
  if others:
    raise ValueError(f'{file} holds {", ".join(others)}; only points and polygons say a place. Draw it as a polygon.')
  frame = frame.to_crs(4326)
  frame['geometry'] = shapely.make_valid(frame.geometry.to_numpy())
  return frame.reset_index(drop=True)


def read_polygon(path: str | os.PathLike, layer: str = '') -> shapely.Geometry:
  """All polygons of a layer as one, WGS84; ValueError as `read`, and where there is a point or no area."""
  frame = read(path, layer)
  kinds = sorted(set(frame.geometry.geom_type))
  if any('Point' in kind for kind in kinds):
    raise ValueError(f'{path} holds {", ".join(kinds)}; --polygon wants polygons. Give a place as --point=LON,LAT.')
  polygon = shapely.union_all(frame.geometry.to_numpy())
  if not polygon.area > 0:
    raise ValueError(f'{path} holds polygons without an area. Draw at least three corners that are not on one line.')
  return polygon


def box(lon_deg: np.ndarray, lat_deg: np.ndarray) -> str:
  """'west,south,east,north' of some places, for a message."""
  return f'{lon_deg.min():.4f},{lat_deg.min():.4f},{lon_deg.max():.4f},{lat_deg.max():.4f}'


def write(path: pathlib.Path, layers: Mapping[str, Any]) -> pathlib.Path:
  """A GeoPackage of GeoDataFrames by layer, which takes its place once it is whole."""
  partial = path.with_name(f'.partial.{path.name}')  # GDAL wants the ending
  partial.unlink(missing_ok=True)
  for name, frame in layers.items():
    frame.to_file(partial, layer=name, driver='GPKG', engine='pyogrio')
  partial.replace(path)
  return path
