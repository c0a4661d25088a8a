"""Cloud masks that come with Sentinel-2 scenes: sen2cor's scene classification, or a mask of one's own, on a grid."""

import dataclasses
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from deepsentinel.sources import base, raster, remote

SCL, OWN = 'scl', 'cloud_mask'
# What a mask is called where it is told by what clouds were masked.
TITLES = {SCL: 'scene classification (SCL)', OWN: 'cloud_mask file'}
# Sentinel-2 L2A: 0 no data, 1 saturated or defective, 3 cloud shadow, 8 and 9 cloud of medium and high probability, 10
# thin cirrus. What is left shows the ground: dark areas, vegetation, soil, water, unclassified, snow.
SCL_HIDDEN = (0, 1, 3, 8, 9, 10)
_SCL_LAST = 11
_NAME = re.compile(r'(?:^|[^A-Za-z0-9])(SCL|CLOUD_?MASK)(?:[_-]\d0m)?$', re.IGNORECASE)
_SAFE_FOLDER = re.compile(r'R\d0m')


@dataclasses.dataclass(frozen=True)
class CloudMask:
  """Where the cloud mask of a scene lies.

  Attributes:
    path: file or URL.
    kind: SCL, or OWN: any number but 0 and the file's nodata is cloud or its shadow, as SEnSeIv2's classes of Major TOM
      are (1 thick cloud, 2 thin cloud, 3 shadow).
    number: of its band in the file.
  """

  path: str
  kind: str
  number: int = 1

  @property
  def title(self) -> str:
    return TITLES[self.kind]


def of_name(name: str) -> tuple[str, str]:
  """(kind, rest of the name) of 'SCL', '.._SCL_20m' or 'cloud_mask', a file's stem or a band; ('', name) of others."""
  match = _NAME.search(name)
  if not match:
    return '', name
  return SCL if match[1].upper() == 'SCL' else OWN, name[: match.start()]


def bands_folder(folder: pathlib.Path) -> pathlib.Path:
  """Where a scene's bands lie: the folder, or in an ESA product the one above R10m, R20m and R60m."""
  return folder.parent if _SAFE_FOLDER.fullmatch(folder.name) else folder


def in_folder(folder: pathlib.Path, suffixes: Sequence[str]) -> dict[str, CloudMask]:
  """The masks in a folder of bands by the rest of their names; in an ESA product also those in R20m beside R10m.

  Of several with one name a `cloud_mask` stands above the scene classification, and finer pixels above coarser ones.
  """
  folders = [folder]
  if _SAFE_FOLDER.fullmatch(folder.name):
    folders += [folder.parent / f'R{pixel_m}m' for pixel_m in (20, 60)]
  found: dict[str, CloudMask] = {}
  for place in folders:
    for file in sorted(place.iterdir()) if place.is_dir() else ():
      kind, rest = of_name(file.stem)
      if not kind or file.suffix.lower() not in suffixes:
        continue
      known = found.get(rest)
      if known is None or (kind == OWN and known.kind == SCL):
        found[rest] = CloudMask(str(file), kind)
  return found


def read(mask: CloudMask, grid: base.PatchGrid, client: remote.Client | None = None) -> np.ndarray:
  """bool [H, W]: True under cloud, in its shadow, or where the sensor failed; the mask's nearest pixel.

  Args:
    mask: of the scene.
    grid: where to look; False outside the mask.
    client: by which a URL is read; None leaves that to GDAL.
  Raises:
    ValueError: the file cannot be read, or its numbers are no scene classification.
  """
  with raster.opened(mask.path, client) as file:
    values, inside = raster.nearest(file, grid, mask.number)
    nodata = file.nodata
  known = np.isfinite(values) if np.issubdtype(values.dtype, np.floating) else np.ones(values.shape, bool)
  if nodata is not None:
    known &= values != nodata
  if mask.kind == OWN:
    return inside & known & (values != 0)
  mend = 'Take the SCL layer itself rather than a picture of it, or call a mask of 0 and 1 cloud_mask.tif.'
  return inside & hidden(np.where(inside & known, values, 0), remote.plain(mask.path), mend)


def hidden(classes: np.ndarray, where: str, mend: str) -> np.ndarray:
  """bool of the same shape: where classes of the scene classification show no ground.

  Args:
    classes: 0 to 11.
    where: they come from, for the message.
    mend: what to do where they are others.
  Raises:
    ValueError: they are.
  """
  if classes.size and not 0 <= classes.min() <= classes.max() <= _SCL_LAST:
    raise ValueError(f'{where} holds {classes.max():g}; a scene classification has classes 0 to {_SCL_LAST}. {mend}')
  return np.isin(classes, SCL_HIDDEN)
