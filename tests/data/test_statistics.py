import itertools
import json
import os
import stat

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deepsentinel import sensors
from deepsentinel.data import statistics
from tests.data.memory_records import MemoryRecords

SPEC = sensors.SensorSpec(('B2', 'B3', 'VV'))


def make(tmp_path, s2, s1):
  return MemoryRecords(tmp_path, count=len(s2), patch_px=s2.shape[1], spec=SPEC, arrays={'s2': s2, 's1': s1})


def some(count=5, px=8, seed=0):
  rng = np.random.default_rng(seed)
  s2 = rng.integers(1, 12_000, (count, px, px, 2)).astype(np.uint16)
  return s2, rng.integers(-3000, 500, (count, px, px, 1)).astype(np.int16)


def test_known_numbers(tmp_path):
  # B2: 0.1 and 0.3 in equal parts, mean 0.2, deviation 0.1. B3: 0.5. VV: -10 and -20 dB, mean -15, deviation 5.
  s2 = np.full((2, 2, 2, 2), 5000, np.uint16)
  s2[0, ..., 0], s2[1, ..., 0] = 1000, 3000
  s1 = np.full((2, 2, 2, 1), -1000, np.int16)
  s1[1] = -2000
  found = statistics.band_statistics(make(tmp_path, s2, s1), progress=False)
  assert found.bands == ('B2', 'B3', 'VV')
  np.testing.assert_allclose(found.mean, [0.2, 0.5, -15])
  np.testing.assert_allclose(found.std, [0.1, 0, 5])
  assert found.count == (8, 8, 8)


@settings(max_examples=60, deadline=None)
@given(
  hnp.arrays(np.uint16, (3, 2, 2, 2), elements=st.sampled_from([0, 1, 7, 9999, 65_534, 65_535])),
  hnp.arrays(np.int16, (3, 2, 2, 1), elements=st.sampled_from([-32768, -32767, -2000, 0, 32_767])),
)
def test_agrees_with_numpy_over_valid_pixels(s2, s1):
  s2[0, 0, 0], s1[0, 0, 0] = 5, -5  # at least one valid pixel
  found = statistics.band_statistics(make('/nonexistent/folder', s2, s1), progress=False)
  columns = [s2[..., 0][s2[..., 0] > 0] / 1e4, s2[..., 1][s2[..., 1] > 0] / 1e4, s1[s1 != -32768] / 100]
  np.testing.assert_allclose(found.mean, [c.mean() for c in columns], rtol=1e-12, atol=1e-13)
  np.testing.assert_allclose(found.std, [c.std() for c in columns], rtol=1e-9, atol=1e-9)
  assert found.count == tuple(c.size for c in columns)


def test_nodata_changes_nothing(tmp_path):
  s2, s1 = some()
  without = statistics.band_statistics(make(tmp_path / 'a', s2, s1), progress=False)
  # Another patch of nothing but nodata, and a pixel that is NaN at the source.
  s2_more = np.concatenate([s2, np.zeros_like(s2[:1])])
  s1_more = np.concatenate([s1, sensors.store_backscatter(np.full(s1[0].shape, np.nan), 'db')[None]])
  assert statistics.band_statistics(make(tmp_path / 'b', s2_more, s1_more), progress=False) == without


def test_order_and_chunks_change_nothing(tmp_path, monkeypatch):
  s2, s1 = some(count=9)
  whole = statistics.band_statistics(make(tmp_path / 'a', s2, s1), progress=False)
  monkeypatch.setattr(statistics, '_CHUNK_PIXELS', 130)
  order = np.random.default_rng(1).permutation(9)
  assert statistics.band_statistics(make(tmp_path / 'b', s2[order], s1[order]), progress=False) == whole


def test_a_small_deviation_on_a_large_mean_keeps_its_digits(tmp_path):
  # 60,000 and 60,001 in equal parts: deviation 0.5 of a stored unit, which float32 sums would lose entirely.
  s2 = np.full((4, 512, 512, 2), 60_000, np.uint16)
  s2[::2] += 1
  found = statistics.band_statistics(make(tmp_path, s2, np.zeros((4, 512, 512, 1), np.int16)), progress=False)
  assert found.std[0] == pytest.approx(0.5e-4, rel=1e-12)


def test_index_selects_records(tmp_path):
  s2, s1 = some()
  found = statistics.band_statistics(make(tmp_path, s2, s1), index=[1, 3], progress=False)
  np.testing.assert_allclose(found.mean[:2], s2[[1, 3]].mean(axis=(0, 1, 2)) / 1e4)


def test_computed_once_and_again_for_other_records(tmp_path):
  s2, s1 = some()
  records = make(tmp_path, s2, s1)
  first = statistics.band_statistics(records, progress=False)
  reads = records.reads
  assert statistics.band_statistics(records, index=[4, 3, 2, 1, 0], progress=False) == first
  assert records.reads == reads  # the same records in another order
  statistics.band_statistics(records, index=[0, 1], progress=False)
  assert records.reads > reads
  assert len(list(tmp_path.glob('band_statistics-train-*.json'))) == 2
  assert not list(tmp_path.glob('*.part'))
  other = make(tmp_path, s2, s1)
  other.split = 'test'
  statistics.band_statistics(other, progress=False)
  assert other.reads > 0


def test_an_interrupted_pass_goes_on_to_the_same_result(tmp_path, monkeypatch):
  s2, s1 = some(count=10)
  whole = statistics.band_statistics(make(tmp_path / 'a', s2, s1), progress=False)
  (tmp_path / 'b').mkdir()
  monkeypatch.setattr(statistics, '_CHUNK_PIXELS', 64)
  monkeypatch.setattr(statistics, '_SAVE_SECONDS', -1)
  records = make(tmp_path / 'b', s2, s1)
  real_read, calls = records.read, itertools.count()

  def interrupted(field, index):
    if next(calls) == 9:
      raise KeyboardInterrupt
    return real_read(field, index)

  records.read = interrupted
  with pytest.raises(KeyboardInterrupt):
    statistics.band_statistics(records, progress=False)
  again = make(tmp_path / 'b', s2, s1)
  assert statistics.band_statistics(again, progress=False) == whole
  assert again.reads == 2 * (10 - 4)  # four patches were done, the fifth had lost its radar


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write anywhere; the missing folder below stands for it')
def test_a_folder_that_cannot_be_written_is_tolerated(tmp_path):
  tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
  statistics.band_statistics(make(tmp_path, *some()), progress=False)


def test_a_folder_that_is_not_there_is_tolerated(tmp_path):
  statistics.band_statistics(make(tmp_path / 'gone', *some()), progress=False)
  assert not (tmp_path / 'gone').exists()


def test_a_damaged_file_is_computed_again(tmp_path):
  records = make(tmp_path, *some())
  first = statistics.band_statistics(records, progress=False)
  next(tmp_path.glob('*.json')).write_text('{"complete": tr')
  assert statistics.band_statistics(records, progress=False) == first


def test_a_band_without_a_valid_pixel_is_named(tmp_path):
  s2, s1 = some()
  s2[..., 1] = 0
  with pytest.raises(ValueError, match=r'Band\(s\) B3 have no valid pixel in the 5 patches.*--config.data.bands'):
    statistics.band_statistics(make(tmp_path, s2, s1), progress=False)


def test_a_band_without_a_valid_pixel_can_be_left_out(tmp_path):
  s2, s1 = some()
  s2[..., 1] = 0
  records = make(tmp_path, s2, s1)
  for _ in range(2):  # computed, then read
    found = statistics.band_statistics(records, progress=False, bands=['VV', 'B2'])
    assert found.bands == ('VV', 'B2')
    assert found.mean[1] == pytest.approx(s2[..., 0].mean() / 1e4)
    with pytest.raises(ValueError, match=r'Band\(s\) B3 have no valid pixel'):
      statistics.band_statistics(records, progress=False)


def test_no_records_is_an_error(tmp_path):
  with pytest.raises(ValueError, match=r'No records'):
    statistics.band_statistics(make(tmp_path, *some()), index=[], progress=False)


BANDS = ('B2', 'B3', 'B4', 'B8', 'VV', 'VH')
TRAINED = statistics.BandStatistics(BANDS, (0.06, 0.09, 0.12, 0.30, -11, -18), (0.03, 0.04, 0.05, 0.09, 4, 4), (1,) * 6)


def test_dict_and_select_keep_everything():
  assert statistics.BandStatistics.from_dict(json.loads(json.dumps(TRAINED.to_dict()))) == TRAINED
  chosen = TRAINED.select(['VV', 'B3'])
  assert (chosen.bands, chosen.mean) == (('VV', 'B3'), (-11, 0.09))
  with pytest.raises(ValueError, match=r"No statistics of band.*'B12'"):
    TRAINED.select(['B12'])


def with_mean(mean):
  return statistics.BandStatistics(BANDS, tuple(mean), TRAINED.std, TRAINED.count)


def test_no_warning_within_one_deviation():
  assert TRAINED.warn_if_far(TRAINED) == ''
  assert TRAINED.warn_if_far(with_mean(m + 0.9 * s for m, s in zip(TRAINED.mean, TRAINED.std, strict=True))) == ''
  assert TRAINED.warn_if_far(TRAINED.select(['VV'])) == ''


def test_the_warning_suspects_the_right_cause():
  offset = TRAINED.warn_if_far(with_mean([0.16, 0.19, 0.22, 0.40, -11, -18]))
  assert 'offset of processing baseline 04.00' in offset
  assert '+0.10' in offset
  assert 'B2 (trained with mean 0.06' in offset
  units = TRAINED.warn_if_far(with_mean([0.06, 0.09, 0.12, 0.30, 0.08, 0.02]))
  assert 'units of Sentinel-1' in units
  order = TRAINED.warn_if_far(with_mean([0.30, 0.12, 0.09, 0.06, -11, -18]))
  assert "['B8', 'B4', 'B3', 'B2', 'VV', 'VH']" in order
  other = TRAINED.warn_if_far(with_mean([0.06, 0.09, 0.5, 0.30, -11, -18]))
  assert all(word in other for word in ('offset', 'units', 'band order', 'B4 '))
