"""Records held in memory, with the interface of `records.RecordSet`: fast, and any array can be put into them."""

import pathlib

import numpy as np
import pandas as pd

from deepsentinel import schema, sensors


class MemoryRecords:
  """`count` patches of `patch_px`; unless given, every pixel holds a number that tells its record, row and column."""

  def __init__(
    self,
    directory: pathlib.Path | str = 'memory',
    *,
    count: int = 8,
    patch_px: int = 16,
    spec: sensors.SensorSpec | None = None,
    labelled: bool = False,
    split: str = 'train',
    arrays: dict[str, np.ndarray] | None = None,
    lon_deg: np.ndarray | None = None,
    lat_deg: np.ndarray | None = None,
  ):
    self.directory = self.kept = pathlib.Path(directory)
    self.spec = spec or sensors.SensorSpec(('B2', 'B3', 'VV'))
    self.patch_px, self.labelled, self.split, self.synthetic = patch_px, labelled, split, True
    self.card = {'name': 'memory', 'labelled': labelled}
    self.fields = schema.tensor_fields(self.spec, patch_px, labelled)
    self.arrays = arrays or {}
    record, row, col = np.ogrid[:count, :patch_px, :patch_px]
    address = record * patch_px**2 + row * patch_px + col  # [N, H, W]
    for name, field in self.fields.items():
      if name not in self.arrays:
        values = address if len(field.shape) == 2 else address[..., None] + 1000 * np.arange(field.shape[2])
        self.arrays[name] = (values % 30_000 + 1).astype(field.dtype)
    self.table = pd.DataFrame(
      {
        'id': [f'm{i:03d}' for i in range(count)],
        'lon_deg': np.linspace(0, 10, count) if lon_deg is None else lon_deg,
        'lat_deg': np.full(count, 45.0) if lat_deg is None else lat_deg,
        's2_scene': '',
        's1_scene': '',
        's2_time': -1,
        's1_time': -1,
      }
    )
    self.reads = 0

  def __len__(self) -> int:
    return len(self.table)

  def read(self, field, index):
    self.reads += len(index)
    return self.arrays[field][np.asarray(index)]

  def read_crops(self, field, index, row, col, crop_px, out=None):
    crops = [self.arrays[field][i, r : r + crop_px, c : c + crop_px] for i, r, c in zip(index, row, col, strict=True)]
    return np.stack(crops, out=out)
