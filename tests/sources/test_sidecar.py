"""What product names and catalogues say of a scene."""

import json

import pytest

from deepsentinel.sources import sidecar


def test_product_names():
  facts = sidecar.from_name('S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57')
  assert (facts.sensor, facts.level, facts.relative_orbit, facts.unit) == ('sentinel2', 'L2A', 22, '')
  assert facts.time.isoformat() == '2017-06-13T10:10:31+00:00'
  assert sidecar.from_name('S2B_MSIL2A_20170924T93020_69_24').time.isoformat() == '2017-09-24T09:30:20+00:00'
  # Earth Engine's metadata of this product say relativeOrbitNumber 107.
  facts = sidecar.from_name('S1A_IW_GRDH_1SDV_20200607T010800_20200607T010825_032904_03CFBA_D457')
  assert (facts.sensor, facts.relative_orbit) == ('sentinel1', 107)
  assert sidecar.from_name('holiday_photo') == sidecar.Facts()


def test_relative_orbits_are_those_of_a_real_catalogue(real_data):
  items = json.loads((real_data / 'catalogue' / '3c893698_query_cdse_results.json').read_text())
  items = items['features'] if isinstance(items, dict) else items
  checked = 0
  for item in items:
    properties = item['properties']
    facts = sidecar.from_name(properties.get('title', ''))
    if facts.relative_orbit > 0 and 'relativeOrbitNumber' in properties:
      assert facts.relative_orbit == properties['relativeOrbitNumber']
      checked += 1
  assert checked >= 10


def earth_engine(collection, baseline):
  return sidecar.from_earth_engine(
    {'system:id': f'COPERNICUS/{collection}/x', 'system:time_start': 1591250441044, 'PROCESSING_BASELINE': baseline}
  )


@pytest.mark.parametrize(
  ('collection', 'baseline', 'unit', 'level'),
  [
    ('S2_SR', '02.14', 'reflectance_x1e4', 'L2A'),
    ('S2_SR', '04.00', 'reflectance_x1e4_plus1000', 'L2A'),
    ('S2_SR_HARMONIZED', '05.09', 'reflectance_x1e4', 'L2A'),
    ('S2_HARMONIZED', '05.09', 'reflectance_x1e4', 'L1C'),
    ('S2_SR', '', '', 'L2A'),
  ],
)
def test_earth_engines_collections_say_whether_the_offset_is_there(collection, baseline, unit, level):
  facts = earth_engine(collection, baseline)
  assert (facts.unit, facts.level, facts.sensor) == (unit, level, 'sentinel2')
  assert facts.time.isoformat() == '2020-06-04T06:00:41.044000+00:00'
