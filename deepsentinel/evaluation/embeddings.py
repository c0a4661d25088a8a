"""One vector a patch without a network: the plain band statistics that an embedding has to beat."""

import numpy as np

from deepsentinel import sensors
from deepsentinel.data.records import RecordSet


def band_features(*sets: RecordSet, bands: tuple[str, ...] = (), crop_px: int = 0) -> np.ndarray:
  """Mean and standard deviation of every band over a patch's valid pixels: the baseline without a network.

  Args:
    sets: record sets of one sensor contract, one after the other.
    bands: which; all that the records hold where empty.
    crop_px: of the crop in the patch's middle that is looked at; 0: all of it.
  Returns:
    float32 [N, 2 C], each column standardised over the patches; 0 where a patch has no valid pixel of a band.
  """
  crop_px = crop_px or sets[0].patch_px
  start = [(sets[0].patch_px - crop_px) // 2]
  indices = sets[0].spec.indices(bands or sets[0].spec.bands)
  parts = []
  for field, nodata, index in zip(('s2', 's1'), (sensors.S2_NODATA, sensors.S1_NODATA), indices, strict=True):
    if not index:
      continue
    rows = []
    for records, i in ((one, i) for one in sets for i in range(len(one))):
      pixels = records.read_crops(field, [i], start, start, crop_px)[0][..., index].reshape(-1, len(index))
      masked = np.ma.masked_equal(pixels, nodata).astype(np.float64)
      rows.append(np.concatenate([masked.mean(0).filled(np.nan), masked.std(0).filled(np.nan)]))
    parts.append(np.array(rows))
  features = np.concatenate(parts, 1)
  centred = features - np.nanmean(features, 0)
  return np.nan_to_num(centred / np.maximum(np.nanstd(features, 0), 1e-12)).astype(np.float32)
