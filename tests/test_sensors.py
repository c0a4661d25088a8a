"""Bands, units and storage: round trips, the offset rule, and what a wrong unit says."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deepsentinel import sensors


def test_band_table_is_the_papers():
  assert sensors.SENTINEL2_BANDS == ('B1', 'B2', 'B3', 'B4', 'B5', 'B6', 'B7', 'B8', 'B8A', 'B9', 'B11', 'B12')
  assert sensors.SENTINEL1_BANDS == ('VV', 'VH')
  assert [b.native_gsd_m for b in sensors.BANDS.values()][:12] == [60, 10, 10, 10, 20, 20, 20, 10, 20, 60, 20, 20]
  # C-band: speed of light over 5.405 GHz.
  assert sensors.BANDS['VV'].wavelength_nm == pytest.approx(299_792_458 / 5.405e9 * 1e9, rel=1e-4)


def test_offset_is_removed_after_nodata_is_decided():
  raw = np.array([[[0, 1, 999, 1000, 1001, 3500, 65535]]], np.uint16)
  stored = sensors.store_reflectance(raw, 'reflectance_x1e4_plus1000')
  # 0 is nodata; what is at or below 0 afterwards is dark, not missing.
  assert stored.tolist() == [[[0, 1, 1, 1, 1, 2500, 64535]]]
  assert stored.dtype == np.uint16
  assert sensors.store_reflectance(raw, 'reflectance_x1e4').tolist() == [[[0, 1, 999, 1000, 1001, 3500, 65535]]]


def test_reflectance_fractions_are_scaled_and_invalid_ones_dropped():
  values = np.array([[[0.0, 0.1234, 1.5, 9.0, np.nan, -0.02]]])
  assert sensors.store_reflectance(values, 'reflectance').tolist() == [[[1, 1234, 15000, 65535, 0, 1]]]
  valid = np.array([[False]])
  assert not sensors.store_reflectance(values, 'reflectance', valid).any()


@pytest.mark.parametrize(
  ('unit', 'value', 'db'),
  [
    ('db', -12.34, -12.34),
    ('power', 0.01, -20.0),
    ('power', 1.0, 0.0),
    ('amplitude', 0.1, -20.0),
    ('db_x100', -1234, -12.34),
    # ESA WorldCereal: dB = 20 log10(DN) - 83.
    ('dn_20log10_minus83', 10_000, -3.0),
    ('dn_20log10_minus83', 1000, -23.0),
  ],
)
def test_backscatter_units(unit, value, db):
  assert sensors.to_db(np.array(value), unit) == pytest.approx(db)
  stored = sensors.store_backscatter(np.full((1, 1, 1), value), unit)
  assert stored.dtype == np.int16
  assert stored.item() == round(db * 100)
  assert sensors.to_power(np.array(value), unit) == pytest.approx(10 ** (db / 10))
  assert sensors.from_power(10 ** (db / 10), unit) == pytest.approx(value)


def test_backscatter_without_a_logarithm_is_nodata():
  assert sensors.store_backscatter(np.array([[[0.0, np.nan, -np.inf, 0.1]]]), 'power').tolist() == [
    [[-32768, -32768, -32768, -1000]]
  ]
  assert sensors.store_backscatter(np.array([[[-32768, -1500]]], np.int16), 'db_x100').tolist() == [[[-32768, -1500]]]


@hypothesis.given(hnp.arrays(np.uint16, (4, 5, 3)))
def test_stored_reflectance_reads_back_the_same(stored):
  np.testing.assert_array_equal(sensors.store_reflectance(stored, 'reflectance_x1e4'), stored)


@hypothesis.given(hnp.arrays(np.int16, (4, 5, 2), elements=st.integers(-3500, 1500)), st.data())
def test_stored_backscatter_survives_every_unit(stored, data):
  unit = data.draw(st.sampled_from(sensors.BACKSCATTER_UNITS))
  there = sensors.from_power(sensors.to_power(stored, 'db_x100'), unit)
  np.testing.assert_array_equal(sensors.store_backscatter(there, unit), stored)


@hypothesis.given(
  hnp.arrays(np.float32, (3, 4, 2), elements=st.floats(-40, 15, width=32)), hnp.arrays(bool, (3, 4)), st.booleans()
)
def test_nodata_stays_nodata_and_data_stays_data(db, valid, per_band):
  mask = np.repeat(valid[..., None], 2, axis=2) if per_band else valid
  stored = sensors.store_backscatter(db, 'db', mask)
  np.testing.assert_array_equal(stored != sensors.S1_NODATA, np.repeat(valid[..., None], 2, axis=2))
  assert np.abs(stored[valid] / 100 - db[valid]).max(initial=0) <= 0.005 + 1e-6


@hypothesis.given(
  hnp.arrays(np.int32, (3, 5, 2), elements=st.sampled_from([0, 1, 700, 999, 1000, 1001, 2500, 40_000, 65_535])),
  hnp.arrays(bool, st.sampled_from([(3, 5), (3, 5, 2)])),
  st.booleans(),
)
def test_numbers_in_their_storage_form_come_out_as_by_way_of_floats(values, valid, all_valid):
  def outcome(store, numbers, unit):
    try:
      return store(numbers, unit, None if all_valid else valid).tolist()
    except ValueError as refused:
      return str(refused)

  for unit in ('reflectance_x1e4', 'reflectance_x1e4_plus1000'):
    as_int = outcome(sensors.store_reflectance, values, unit)
    assert outcome(sensors.store_reflectance, values.astype(np.uint16), unit) == as_int
  radar = np.where(values == 0, sensors.S1_NODATA, (values % 4000) - 3000)
  assert outcome(sensors.store_backscatter, radar.astype(np.int16), 'db_x100') == outcome(
    sensors.store_backscatter, radar, 'db_x100'
  )


@hypothesis.given(
  hnp.arrays(np.float32, (3, 5, 2), elements=st.one_of(st.floats(-1, 8, width=32), st.just(np.float32(np.nan)))),
  hnp.arrays(bool, st.sampled_from([(3, 5), (3, 5, 2)])),
  st.booleans(),
)
def test_reflectance_is_rounded_in_double_precision_pixel_by_pixel(values, valid, all_valid):
  given = values.copy()
  stored = sensors.store_reflectance(values, 'reflectance', None if all_valid else valid)
  np.testing.assert_array_equal(values, given)
  mask = np.broadcast_to(True if all_valid else valid if valid.ndim == 3 else valid[..., None], values.shape)
  expected = [
    min(max(round(float(value) * 10_000), 1), 65_535) if known and np.isfinite(value) else 0
    for value, known in zip(values.ravel(), mask.ravel(), strict=True)
  ]
  assert stored.ravel().tolist() == expected


def test_a_median_at_the_edge_of_two_numbers_tells_the_unit():
  assert sensors.store_reflectance(np.array([0.5, 30.0, 0.5, 5.0]).reshape(2, 2, 1), 'reflectance').any()
  with pytest.raises(ValueError, match='median of 250'):
    sensors.store_reflectance(np.array([0.5, 500.0, 0.5, 500.0]).reshape(2, 2, 1), 'reflectance')


def test_a_stored_array_is_not_the_one_that_was_given():
  values = np.full((2, 2, 1), 5, np.uint16)
  sensors.store_reflectance(values, 'reflectance_x1e4')[:] = 0
  assert values.min() == 5


def test_where_any_band_is_observed():
  stored = np.zeros((2, 2, 3), np.uint16)
  stored[0, 0], stored[1, 1, 2] = 7, 7
  assert sensors.observed(stored, sensors.S2_NODATA).tolist() == [[True, False], [False, True]]
  assert sensors.observed(stored, 7).tolist() == [[False, True], [True, True]]


def test_numbers_that_cannot_be_in_the_unit_are_refused():
  counts = np.full((4, 4, 2), 2000.0)
  with pytest.raises(ValueError, match=r"median of 2000.*unit='reflectance_x1e4'"):
    sensors.store_reflectance(counts, 'reflectance')
  with pytest.raises(ValueError, match=r"reach only 0\.300.*unit='reflectance'"):
    sensors.store_reflectance(counts * 0 + 0.3, 'reflectance_x1e4')
  decibels = np.full((4, 4, 2), -14.0)
  with pytest.raises(ValueError, match=r"no linear power.*unit='db'"):
    sensors.store_backscatter(decibels, 'power')
  with pytest.raises(ValueError, match=r'median of 2000\.0 dB.*db_x100'):
    sensors.store_backscatter(counts, 'db')
  with pytest.raises(ValueError, match=r"Unknown backscatter unit 'decibel'\. Known: db, power"):
    sensors.store_backscatter(decibels, 'decibel')
  with pytest.raises(ValueError, match=r"Unknown reflectance unit 'toa'"):
    sensors.store_reflectance(counts, 'toa')


def test_sensor_of():
  assert sensors.sensor_of(['VH']) == 'sentinel1'
  with pytest.raises(ValueError, match=r"\['B10'\]\. Known: B1, B2"):
    sensors.sensor_of(['B10', 'B2'])
  with pytest.raises(ValueError, match='2 sensors'):
    sensors.sensor_of(['B2', 'VV'])


def test_contract_round_trip_and_order():
  spec = sensors.SensorSpec(('B4', 'B8', 'VH'), 'L2A', 'gamma0_terrain')
  assert sensors.SensorSpec.from_dict(spec.to_dict()) == spec
  assert spec.indices(['B8', 'VH']) == ([1], [0])
  assert spec.sensors == ('sentinel2', 'sentinel1')
  for bad in (('VV', 'B4'), ('B4', 'B4'), (), ('B4', 'red')):
    with pytest.raises(ValueError):
      sensors.SensorSpec(bad)
  with pytest.raises(ValueError, match=r'quantity .sigma0.\. Known: sigma0_ellipsoid'):
    sensors.SensorSpec(s1_quantity='sigma0')
  with pytest.raises(ValueError, match=r"\['VV'\] asked for.*--config.data.bands"):
    spec.select(['VV'])


def test_contract_of_a_checkpoint_against_pixels():
  trained = sensors.SensorSpec()
  optical = sensors.SensorSpec(sensors.SENTINEL2_BANDS)
  assert trained.require(trained) == (True,) * 14
  with pytest.raises(ValueError, match=r'have no VV, VH.*sensor_dropout'):
    trained.require(optical)
  assert trained.require(optical, subsets=[sensors.SENTINEL2_BANDS]) == (True,) * 12 + (False,) * 2
  with pytest.raises(ValueError, match='sigma0_ellipsoid; these pixels are gamma0_terrain'):
    trained.require(sensors.SensorSpec(s1_quantity='gamma0_terrain'))
  with pytest.raises(ValueError, match='L2A; these pixels are L1C'):
    trained.require(sensors.SensorSpec(s2_level='L1C'))
  # The radar quantity of pixels without radar says nothing.
  trained.require(
    sensors.SensorSpec(sensors.SENTINEL2_BANDS, s1_quantity='gamma0_terrain'), subsets=[sensors.SENTINEL2_BANDS]
  )
