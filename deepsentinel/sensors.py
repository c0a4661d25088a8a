"""The band table, the storage of pixels, and the sensor contract.

Three things live here because every other module must agree on them:

* what a band *is* (`BANDS`),
* how its pixels are *stored* (`store_reflectance`, `store_backscatter`): Sentinel-2 as uint16 surface reflectance
  x 10,000 with 0 = nodata, Sentinel-1 as int16 decibel x 100 with -32768 = nodata,
* what a record set or a checkpoint *promises* (`SensorSpec`): bands in order, processing level, radar quantity.

Only the *scale* of radar (power, amplitude, dB, scaled integers) is ever converted; its *quantity* (sigma0 or
gamma0, ellipsoid or terrain) never is, because that needs the terrain model and the orbit.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

S2_SCALE = 10_000  # stored = reflectance * S2_SCALE
S2_NODATA = 0
S1_SCALE = 100  # stored = dB * S1_SCALE
S1_NODATA = -32768
S2_OFFSET_DN = 1000  # added to digital numbers by processing baseline 04.00 and later
_MANY = 256  # numbers from which a distribution can be told

SENSORS = ('sentinel2', 'sentinel1')


@dataclasses.dataclass(frozen=True)
class Band:
  """One band. Wavelengths are Sentinel-2A's band centres (ESA, S2 MSI user guide) and C-band's 5.405 GHz."""

  name: str
  sensor: str
  native_gsd_m: int
  wavelength_nm: float
  description: str


_BANDS = (
  Band('B1', 'sentinel2', 60, 442.7, 'coastal aerosol'),
  Band('B2', 'sentinel2', 10, 492.4, 'blue'),
  Band('B3', 'sentinel2', 10, 559.8, 'green'),
  Band('B4', 'sentinel2', 10, 664.6, 'red'),
  Band('B5', 'sentinel2', 20, 704.1, 'red edge 1'),
  Band('B6', 'sentinel2', 20, 740.5, 'red edge 2'),
  Band('B7', 'sentinel2', 20, 782.8, 'red edge 3'),
  Band('B8', 'sentinel2', 10, 832.8, 'near infrared'),
  Band('B8A', 'sentinel2', 20, 864.7, 'narrow near infrared'),
  Band('B9', 'sentinel2', 60, 945.1, 'water vapour'),
  Band('B11', 'sentinel2', 20, 1613.7, 'short-wave infrared 1'),
  Band('B12', 'sentinel2', 20, 2202.4, 'short-wave infrared 2'),
  Band('VV', 'sentinel1', 10, 5.5466e7, 'C-band, vertical transmit, vertical receive'),
  Band('VH', 'sentinel1', 10, 5.5466e7, 'C-band, vertical transmit, horizontal receive'),
)
BANDS = {band.name: band for band in _BANDS}
SENTINEL2_BANDS = tuple(b.name for b in _BANDS if b.sensor == 'sentinel2')
SENTINEL1_BANDS = tuple(b.name for b in _BANDS if b.sensor == 'sentinel1')
ALL_BANDS = SENTINEL2_BANDS + SENTINEL1_BANDS

REFLECTANCE_UNITS = ('reflectance', 'reflectance_x1e4', 'reflectance_x1e4_plus1000')
BACKSCATTER_UNITS = ('db', 'power', 'amplitude', 'db_x100', 'dn_20log10_minus83')
RADAR_QUANTITIES = ('sigma0_ellipsoid', 'gamma0_ellipsoid', 'sigma0_terrain', 'gamma0_terrain')
OPTICAL_LEVELS = ('L2A', 'L1C')


def sensor_of(bands: Sequence[str]) -> str:
  """The one sensor all `bands` belong to; ValueError if a band is unknown or they are of two sensors."""
  unknown = [b for b in bands if b not in BANDS]
  if unknown:
    raise ValueError(f'Unknown band(s) {unknown}. Known: {", ".join(ALL_BANDS)}.')
  sensors = sorted({BANDS[b].sensor for b in bands})
  if len(sensors) != 1:
    raise ValueError(f'Bands {list(bands)} belong to {len(sensors)} sensors ({sensors}); ask for one sensor at a time.')
  return sensors[0]


def _finite_and_valid(values: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
  finite = np.isfinite(values) if np.issubdtype(values.dtype, np.floating) else np.ones(values.shape, bool)
  if valid is None:
    return finite
  if valid.shape == values.shape[:2]:
    valid = valid[..., None]
  return finite & valid


def observed(stored: np.ndarray, nodata: int) -> np.ndarray:
  """bool [H, W]: where any band of stored pixels [H, W, C] has data."""
  out = np.zeros(stored.shape[:-1], bool)
  for band in np.moveaxis(stored, -1, 0):  # NumPy looks through a short last axis pixel by pixel
    out |= band != nodata
    if out.all():
      break
  return out


def _as_they_come(values: np.ndarray, valid: np.ndarray | None, nodata: int) -> np.ndarray:
  """Numbers that are in their storage form already, for which arithmetic would do nothing."""
  stored = values.copy()
  if valid is not None and not valid.all():
    stored[~valid] = nodata
  return stored


def _require_offset(dn: np.ndarray) -> None:
  """ValueError if valid digital numbers cannot have the +1000 offset."""
  # Water and shadow fall a little below 0, never half of all numbers.
  if 2 * np.count_nonzero(dn < S2_OFFSET_DN - 200) > dn.size:
    raise ValueError(
      f'Sentinel-2 values have a median of {np.median(dn):.0f}; with an offset of {S2_OFFSET_DN} they would be '
      "negative reflectance. State unit='reflectance_x1e4'."
    )


def store_reflectance(values: np.ndarray, unit: str, valid: np.ndarray | None = None) -> np.ndarray:
  """Sentinel-2 pixels in their storage form.

  Nodata is decided on the raw numbers, before any offset is removed: a digital number of 0, a NaN or a False in
  `valid`. A valid value at or below 0 after the offset is removed is stored as 1, so that it stays valid.

  Args:
    values: float or integer [H, W, C], in `unit`.
    unit: one of REFLECTANCE_UNITS.
    valid: bool [H, W] or [H, W, C]; None where the values alone decide.
  Returns:
    uint16 [H, W, C], reflectance x 10,000, 0 = nodata.
  Raises:
    ValueError: unknown unit, or numbers that cannot be in that unit.
  """
  if unit not in REFLECTANCE_UNITS:
    raise ValueError(f'Unknown reflectance unit {unit!r}. Known: {", ".join(REFLECTANCE_UNITS)}.')
  values = np.asarray(values)
  if unit != 'reflectance' and values.dtype == np.uint16:
    stored = _as_they_come(values, valid, S2_NODATA)
    if unit == 'reflectance_x1e4':
      return stored
    known = stored != S2_NODATA
    _require_offset(stored[known])
    return np.where(known, np.maximum(stored, S2_OFFSET_DN + 1) - np.uint16(S2_OFFSET_DN), np.uint16(S2_NODATA))
  ok = _finite_and_valid(values, valid)
  if unit != 'reflectance':
    ok = ok & (values != 0)
  whole = bool(ok.all())
  dn = values.astype(np.float64)
  if not whole:
    dn = np.where(ok, dn, 0)
  if unit == 'reflectance':
    # A median above 20 needs half of the numbers above it: counting them is quick, a median is not.
    if 2 * np.count_nonzero(dn > 20) >= np.count_nonzero(ok) > 0 and np.median(dn[ok]) > 20:
      raise ValueError(
        f'Sentinel-2 values have a median of {np.median(dn[ok]):.0f}, which is no reflectance (0 to about 1). '
        "State unit='reflectance_x1e4' (or 'reflectance_x1e4_plus1000' for baseline 04.00 and later)."
      )
    dn *= S2_SCALE
  elif unit == 'reflectance_x1e4_plus1000':
    _require_offset(dn[ok])
    dn -= S2_OFFSET_DN
  if unit != 'reflectance' and ok.any() and dn[ok].max() <= 20 and np.issubdtype(values.dtype, np.floating):
    raise ValueError(
      f'Sentinel-2 values reach only {dn[ok].max():.3f}; reflectance x 10,000 is stated. '
      "State unit='reflectance' if they are fractions."
    )
  stored = np.clip(np.rint(dn, out=dn), 1, 65535, out=dn).astype(np.uint16)
  return stored if whole else np.where(ok, stored, np.uint16(S2_NODATA))


def to_db(values: np.ndarray, unit: str) -> np.ndarray:
  """Backscatter float64 [...] in decibel from `unit` (one of BACKSCATTER_UNITS); NaN where it has no logarithm."""
  values = np.asarray(values).astype(np.float64)
  with np.errstate(divide='ignore', invalid='ignore'):
    if unit == 'db':
      db = values
    elif unit == 'power':
      db = 10 * np.log10(values)
    elif unit == 'amplitude':
      db = 20 * np.log10(values)
    elif unit == 'db_x100':
      db = np.where(values == S1_NODATA, np.nan, values / S1_SCALE)
    elif unit == 'dn_20log10_minus83':  # ESA WorldCereal's and openEO's scaled amplitude
      db = 20 * np.log10(values) - 83
    else:
      raise ValueError(f'Unknown backscatter unit {unit!r}. Known: {", ".join(BACKSCATTER_UNITS)}.')
  return np.where(np.isfinite(db), db, np.nan)


def to_power(values: np.ndarray, unit: str) -> np.ndarray:
  """Backscatter float64 [...] as power (linear sigma0 or gamma0), in which alone it may be averaged or resampled."""
  values = np.asarray(values).astype(np.float64)
  if unit == 'power':
    return values
  if unit == 'amplitude':
    return values**2
  return 10 ** (to_db(values, unit) / 10)


def from_power(power: np.ndarray, unit: str) -> np.ndarray:
  """Backscatter float64 [...] in `unit` (one of BACKSCATTER_UNITS) from power; NaN stays NaN."""
  power = np.asarray(power).astype(np.float64)
  if unit == 'power':
    return power
  if unit == 'amplitude':
    return np.sqrt(power)
  db = to_db(power, 'power')
  if unit == 'db':
    return db
  if unit == 'db_x100':
    return db * S1_SCALE
  if unit == 'dn_20log10_minus83':
    return 10 ** ((db + 83) / 20)
  raise ValueError(f'Unknown backscatter unit {unit!r}. Known: {", ".join(BACKSCATTER_UNITS)}.')


def require_linear(values: np.ndarray, unit: str) -> None:
  """ValueError if valid numbers of a linear unit (power, amplitude) are below 0 for the most part, as decibels are."""
  if unit in ('power', 'amplitude') and values.size and np.median(values) < 0:
    raise ValueError(
      f'Sentinel-1 values have a median of {np.median(values):.1f}, which is no linear {unit}. '
      "State unit='db' if they are decibels."
    )


def store_backscatter(values: np.ndarray, unit: str, valid: np.ndarray | None = None) -> np.ndarray:
  """Sentinel-1 pixels in their storage form.

  Args:
    values: float or integer [H, W, C], in `unit`.
    unit: one of BACKSCATTER_UNITS.
    valid: bool [H, W] or [H, W, C]; None where the values alone decide.
  Returns:
    int16 [H, W, C], dB x 100, -32768 = nodata.
  Raises:
    ValueError: unknown unit, or numbers that cannot be in that unit.
  """
  values = np.asarray(values)
  if unit == 'db_x100' and values.dtype == np.int16:
    stored = _as_they_come(values, valid, S1_NODATA)
    known = stored[stored != S1_NODATA]
    _require_backscatter(known, unit, known, S1_SCALE)
    return stored
  ok = _finite_and_valid(values, valid)
  require_linear(values[ok], unit)
  db = to_db(np.where(ok, values, S1_NODATA if unit == 'db_x100' else np.nan if unit == 'db' else 0), unit)
  ok = ok & np.isfinite(db)
  _require_backscatter(values[ok], unit, db[ok])
  np.nan_to_num(db, copy=False)
  db *= S1_SCALE
  stored = np.clip(np.rint(db, out=db), -32767, 32767, out=db).astype(np.int16)
  return stored if ok.all() else np.where(ok, stored, np.int16(S1_NODATA))


def _require_backscatter(values: np.ndarray, unit: str, db: np.ndarray, scale: int = 1) -> None:
  """ValueError if valid numbers cannot be in `unit`, in which they are `db` / `scale` decibels."""
  if not values.size:
    return
  if unit == 'db_x100' and values.size >= _MANY and np.abs(values).max() <= 100:
    raise ValueError(
      f'Sentinel-1 values lie between {values.min():.2f} and {values.max():.2f}; dB x 100 is stated. '
      "State unit='db' if they are decibels."
    )
  median = float(np.median(db)) / scale
  if not -60 < median < 25:
    raise ValueError(
      f'Sentinel-1 backscatter has a median of {median:.1f} dB when read as {unit!r}; land and water lie between '
      f'-35 and 10 dB. State the unit the file really has: {", ".join(BACKSCATTER_UNITS)}.'
    )
  if unit == 'db' and values.size >= _MANY and db.min() > -1:
    raise ValueError(
      f'Sentinel-1 backscatter never falls below {db.min():.2f} dB when read as {unit!r}; speckle alone makes it '
      f'do so. State the unit the file really has: {", ".join(BACKSCATTER_UNITS)}.'
    )


@dataclasses.dataclass(frozen=True)
class SensorSpec:
  """The sensor contract of a record set or a checkpoint: what its channels are, in order.

  Pixels are always in the storage units above; Sentinel-2's +1000 offset is always removed.

  Attributes:
    bands: channel names in order, Sentinel-2 before Sentinel-1.
    s2_level: 'L2A' (surface reflectance) or 'L1C'.
    s1_quantity: one of RADAR_QUANTITIES. Earth Engine's S1_GRD is 'sigma0_ellipsoid', RTC products 'gamma0_terrain'.
  """

  bands: tuple[str, ...] = ALL_BANDS
  s2_level: str = 'L2A'
  s1_quantity: str = 'sigma0_ellipsoid'

  def __post_init__(self):
    object.__setattr__(self, 'bands', tuple(self.bands))
    unknown = [b for b in self.bands if b not in BANDS]
    if unknown:
      raise ValueError(f'Unknown band(s) {unknown}. Known: {", ".join(ALL_BANDS)}.')
    if not self.bands or len(set(self.bands)) != len(self.bands):
      raise ValueError(f'Bands must be named once each and not be empty; found {list(self.bands)}.')
    if list(self.bands) != [*self.s2_bands, *self.s1_bands]:
      raise ValueError(f'Sentinel-2 bands come before Sentinel-1 bands; found {list(self.bands)}.')
    if self.s2_level not in OPTICAL_LEVELS:
      raise ValueError(f'Unknown Sentinel-2 level {self.s2_level!r}. Known: {", ".join(OPTICAL_LEVELS)}.')
    if self.s1_quantity not in RADAR_QUANTITIES:
      raise ValueError(f'Unknown radar quantity {self.s1_quantity!r}. Known: {", ".join(RADAR_QUANTITIES)}.')

  @property
  def s2_bands(self) -> tuple[str, ...]:
    return tuple(b for b in self.bands if BANDS[b].sensor == 'sentinel2')

  @property
  def s1_bands(self) -> tuple[str, ...]:
    return tuple(b for b in self.bands if BANDS[b].sensor == 'sentinel1')

  @property
  def sensors(self) -> tuple[str, ...]:
    return tuple(s for s, bands in zip(SENSORS, (self.s2_bands, self.s1_bands), strict=True) if bands)

  def select(self, bands: Sequence[str]) -> 'SensorSpec':
    """The same contract with only `bands`, in their order; ValueError names a band this contract lacks."""
    missing = [b for b in bands if b not in self.bands]
    if missing:
      raise ValueError(
        f'Band(s) {missing} asked for; these records hold {list(self.bands)}. '
        'Pass --config.data.bands with bands they hold, or sample a corpus that has them.'
      )
    return dataclasses.replace(self, bands=tuple(bands))

  def indices(self, bands: Sequence[str]) -> tuple[list[int], list[int]]:
    """Positions of `bands` within a record's s2 array and within its s1 array."""
    self.select(bands)
    s2 = [self.s2_bands.index(b) for b in bands if BANDS[b].sensor == 'sentinel2']
    s1 = [self.s1_bands.index(b) for b in bands if BANDS[b].sensor == 'sentinel1']
    return s2, s1

  def require(self, records: 'SensorSpec', *, subsets: Sequence[Sequence[str]] = ()) -> tuple[bool, ...]:
    """Checks that `records` can be fed to a model with this contract.

    Args:
      records: the contract of the pixels at hand.
      subsets: sets of bands the model was also trained to work with (band or sensor dropout).
    Returns:
      bool per band of this contract: present in `records`.
    Raises:
      ValueError: names what differs and how to mend it.
    """
    shared_s2 = set(self.s2_bands) & set(records.s2_bands)
    shared_s1 = set(self.s1_bands) & set(records.s1_bands)
    if shared_s2 and self.s2_level != records.s2_level:
      raise ValueError(
        f'The checkpoint was trained on Sentinel-2 {self.s2_level}; these pixels are {records.s2_level}. '
        f'Use {self.s2_level} scenes, or a checkpoint trained on {records.s2_level}.'
      )
    if shared_s1 and self.s1_quantity != records.s1_quantity:
      raise ValueError(
        f'The checkpoint was trained on radar {self.s1_quantity}; these pixels are {records.s1_quantity}. '
        'The two are not interchangeable: fetch the same product, or use a checkpoint trained on it.'
      )
    present = tuple(b in records.bands for b in self.bands)
    if all(present):
      return present
    have = [b for b, p in zip(self.bands, present, strict=True) if p]
    if any(set(subset) == set(have) for subset in subsets):
      return present
    lacking = [b for b in self.bands if b not in have]
    known = '; '.join(','.join(s) for s in subsets) or 'none'
    raise ValueError(
      f'The checkpoint was trained on {list(self.bands)}; these pixels have no {", ".join(lacking)}. '
      f'Band subsets it was trained for: {known}. Pass --config.data.bands=... and train on the bands at hand, '
      'or use a checkpoint trained with sensor dropout (--config.pretrain.sensor_dropout=0.3).'
    )

  def to_dict(self) -> dict:
    return {
      'bands': list(self.bands),
      's2_level': self.s2_level,
      's1_quantity': self.s1_quantity,
      's2_storage': 'uint16 reflectance x 10000, 0 = nodata, offset removed',
      's1_storage': 'int16 dB x 100, -32768 = nodata',
    }

  @classmethod
  def from_dict(cls, d: dict) -> 'SensorSpec':
    return cls(tuple(d['bands']), d['s2_level'], d['s1_quantity'])
