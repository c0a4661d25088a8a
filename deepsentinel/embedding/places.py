"""Places that a user gives as a vector file: points and polygons in any CRS."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import shapely

from deepsentinel.sources import base


def read(path: str | os.PathLike, layer: str = ''):
  """The features of a layer in WGS84.

  Args:
    path: GeoPackage, GeoJSON, Shapefile, or whatever else GDAL reads.
    layer: its name; '' where only one has geometries.
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
    layer = layer_of(file, layer)
  except pyogrio.errors.DataSourceError as error:
    raise ValueError(f'{file} is no vector file ({error}). Give a GeoPackage, GeoJSON or Shapefile.') from error
  frame = geopandas.read_file(file, layer=layer)
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
  valid = polygons(frame.geometry.to_numpy())
  frame = frame.set_geometry(valid)[~shapely.is_empty(valid)]
  if not len(frame):
    raise ValueError(f'{file} holds only shapes without an area. Draw at least three corners that are not on one line.')
  crs, drawn = frame.crs, frame.geometry.to_numpy()
  frame = frame.to_crs(4326)
  if crs.is_projected:
    frame['geometry'] = [_cut(one, before, crs) for one, before in zip(frame.geometry, drawn, strict=True)]
  return frame.reset_index(drop=True)


class WrongLayer(ValueError):
  """A vector file can be read, but not which of its layers is meant."""


def layer_of(path: str | os.PathLike, layer: str) -> str:
  """A layer's name, checked; '' is the only one that has geometries (QGIS keeps styles in another).

  Raises:
    WrongLayer: there is none of that name, or there are several to choose from.
  """
  import pyogrio

  layers = {str(name): kind for name, kind in pyogrio.list_layers(path)}
  drawn = [name for name, kind in layers.items() if kind is not None] or list(layers)
  if layer and layer not in layers:
    raise WrongLayer(f'{path} has no layer {layer!r}. Layers: {", ".join(layers)}.')
  if not layer and len(drawn) != 1:
    raise WrongLayer(f'{path} has {len(drawn)} layers; name one with --layer=... Layers: {", ".join(drawn)}.')
  return layer or drawn[0]


def polygons(outlines):
  """Valid polygons, or an array of them: spikes and other parts without an area are gone; points stay."""
  return shapely.make_valid(outlines, method='structure', keep_collapsed=False)


def _cut(outline: shapely.Geometry, drawn: shapely.Geometry, crs: Any) -> shapely.Geometry:
  """A polygon as WGS84 has it, cut at the antimeridian where its longitudes jump there."""
  west, _, east, _ = shapely.bounds(outline)
  if east - west <= 180 or 'Polygon' not in outline.geom_type:
    return outline
  inside = shapely.point_on_surface(drawn)
  (lon,), (lat,) = base.transformer(crs.to_wkt(), 4326).transform([inside.x], [inside.y])
  # A map of the whole world may be that wide without a jump: then what was inside still is.
  return outline if shapely.intersects_xy(outline, lon, lat) else base.to_lonlat(np.array([drawn]), crs.to_wkt())[0]


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
