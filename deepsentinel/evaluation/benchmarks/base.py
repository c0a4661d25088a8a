"""What a benchmark is: three splits with the interface of a RecordSet, and what is asked of them."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from deepsentinel import schema, sensors

SPLITS = ('train', 'validation', 'test')
Reader = Callable[[int, str], np.ndarray]


class Images:
  """One split: patches that a function reads, with as much of the interface of `records.RecordSet` as probes use.

  Attributes:
    directory, split, spec, patch_px, fields, table, synthetic: as of a RecordSet; 'label' among the fields where
      patches have maps.
  """

  synthetic = False
  labelled = True

  def __init__(
    self, directory: pathlib.Path, split: str, spec: sensors.SensorSpec, patch_px: int, table: pd.DataFrame,
    read: Reader, *, maps: bool = False,
  ):  # fmt: skip
    """Args:
    directory: of the benchmark.
    split: its name.
    spec: the contract of the pixels.
    patch_px: edge of a patch.
    table: 'id', 'lon_deg', 'lat_deg' of every patch, and 'file' and 'bytes', which tell it from another version.
    read: (patch number, field) -> its stored pixels, of 's2' or 's1' [H, W, C], of 'label' uint8 [H, W] with `maps`.
    maps: whether patches have label maps.
    """
    self.directory, self.split, self.spec, self.patch_px = directory, split, spec, patch_px
    self.table = table.reset_index(drop=True)
    self.fields = {k: v for k, v in schema.tensor_fields(spec, patch_px, False).items()}
    if maps:
      self.fields['label'] = schema.TensorField('label', (patch_px, patch_px), 'uint8', 0, 'class, from 1')
    self._read = read
    self._last: dict[str, tuple[int, np.ndarray]] = {}

  def __len__(self) -> int:
    return len(self.table)

  @property
  def fingerprint(self) -> str:
    """SHA-256 of the contract, and of every file's name and size."""
    files = self.table[['id', 'file', 'bytes']].to_numpy().tolist()
    return hashlib.sha256(json.dumps([self.spec.to_dict(), self.patch_px, files], default=str).encode()).hexdigest()

  def read(self, field: str, index: Sequence[int] | np.ndarray) -> np.ndarray:
    """As `RecordSet.read`."""
    zeros = np.zeros(len(index), np.int64)
    return self.read_crops(field, index, zeros, zeros, self.patch_px)

  def read_crops(self, field: str, index, row, col, crop_px: int) -> np.ndarray:
    """As `RecordSet.read_crops`; crops of one patch that follow each other read a field once."""
    known = self.fields[field]
    out = np.empty((len(index), crop_px, crop_px, *known.shape[2:]), known.dtype)
    for place, (i, r, c) in enumerate(zip(index, row, col, strict=True)):
      out[place] = self._patch(int(i), field)[r : r + crop_px, c : c + crop_px]
    return out

  def _patch(self, number: int, field: str) -> np.ndarray:
    if field not in self._last or self._last[field][0] != number:
      pixels, shape = self._read(number, field), self.fields[field].shape
      if pixels.shape != shape:
        raise ValueError(
          f'{self.table["file"][number]}: {field} is {pixels.shape}; {shape} is what this benchmark has. '
          'Fetch the file again.'
        )
      self._last[field] = number, pixels
    return self._last[field][1]


@dataclasses.dataclass(frozen=True)
class Benchmark:
  """A benchmark that is opened.

  Attributes:
    name, title: for people.
    source: where its data come from, and its paper.
    splits: split -> Images.
    classes: K names.
    labels: split -> class int64 [N], or bool [N, K] of several at once; {} where patches have maps.
    notes: what a reader of the scores has to know.
    positive: of two classes the one whose IoU counts, '' elsewhere.
  """

  name: str
  title: str
  source: str
  splits: Mapping[str, Images]
  classes: tuple[str, ...]
  labels: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  notes: tuple[str, ...] = ()
  positive: str = ''

  @property
  def several(self) -> bool:
    """Whether a patch has several classes at once."""
    return any(label.ndim == 2 for label in self.labels.values())


def absent(directory: pathlib.Path, lacking: str, source: str, layout: str) -> ValueError:
  """The error for a folder that does not hold a benchmark: what is missing, where to get it, how it has to lie."""
  return ValueError(f'--dir={directory} holds no {lacking}. Get {source}. Expected there: {layout}.')


def chosen_bands(spec: sensors.SensorSpec, bands: Sequence[str], name: str) -> sensors.SensorSpec:
  """The contract with fewer bands; ValueError names those that the benchmark lacks."""
  lacking = [b for b in bands if b not in spec.bands]
  if lacking:
    raise ValueError(f'{name} has no band {", ".join(lacking)}; --bands may name {", ".join(spec.bands)}.')
  return spec.select(bands) if bands else spec


def centre(path: pathlib.Path) -> tuple[float, float]:
  """(lon_deg, lat_deg) of the middle of a raster; NaN where it has no CRS."""
  import rasterio
  import rasterio.warp

  with rasterio.open(path) as file:
    if file.crs is None:
      return float('nan'), float('nan')
    x, y = file.xy(file.height // 2, file.width // 2)
    (lon,), (lat,) = rasterio.warp.transform(file.crs, 4326, [x], [y])
  return lon, lat
