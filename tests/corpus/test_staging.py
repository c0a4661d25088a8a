"""The staging place: what workers leave there comes into the corpus whole and once, on every kind of store."""

import json

import pytest

from deepsentinel.corpus import beam, manifest, pairing, settings, staging, worker
from deepsentinel.corpus.pool import Pool
from tests.corpus.tiny_config import get_config


@pytest.fixture
def chosen():
  config = get_config()
  config.patches = 3
  return settings.checked(config)


@pytest.fixture
def planned(chosen, tmp_path_factory):
  rows = {f'p{i:06d}': manifest.blank_row() | {'id': f'p{i:06d}', 'number': i, 'block': i} for i in range(3)}
  shop = worker.workshop(json.dumps(chosen))
  pairing.pair(shop, tmp_path_factory.mktemp('pairs'), rows, list(rows), Pool(1))
  return list(rows.values())


def fetch(place, chosen, number, run='run-a'):
  beam.fetch_share(number, config_json=json.dumps(chosen), url=place.url, run=run)


def text(row):
  return json.dumps(row, sort_keys=True)  # NaN is not itself


def test_what_is_staged_is_taken_whole_and_once(store, chosen, planned, tmp_path):
  place = staging.Staging(store)
  assert place.claim(chosen) == ''
  place.begin('run-a', chosen, planned, 2)
  fetch(place, chosen, 0)
  assert place.claim(chosen) == 'run-a'
  assert place.ids('run-a') == {'p000000', 'p000002'}
  here, alone = tmp_path / 'here', tmp_path / 'alone'
  expected = {row['id']: worker.fetch_row(json.dumps(chosen), str(alone), row) for row in planned}
  for row in place.take('run-a', ['p000000', 'p000002'], here):
    assert text(row) == text(expected[row['id']])
    for field in ('s2', 's1'):
      name = f'patches/{row["id"]}/{field}.tif'
      assert (here / name).read_bytes() == (alone / name).read_bytes()
  # Their files are gone from there; a worker that begins anew fetches neither a second time.
  assert list(place.take('run-a', ['p000000'], tmp_path / 'again')) == []
  assert list(place.share('run-a', 0)) == []
  assert [row['id'] for row in place.share('run-a', 1)] == ['p000001']
  place.clear('run-a')
  assert place.claim(chosen) == ''
  assert place.ids('run-a') == set()


def test_workers_of_a_run_that_is_over_stop(chosen, planned, tmp_path):
  place = staging.Staging(str(tmp_path / 'staging'))
  place.begin('run-a', chosen, planned, 1)
  place.end('run-a')
  fetch(place, chosen, 0)
  assert place.ids('run-a') == set()
  place.begin('run-b', chosen, planned, 1)
  fetch(place, chosen, 0)
  assert place.ids('run-a') == set()
  place.end('run-a')  # a command that another took the place of stops nothing of that, and removes nothing
  place.clear('run-a')
  fetch(place, chosen, 0, 'run-b')
  assert len(place.ids('run-b')) == 3


def test_what_is_half_written_or_damaged_is_not_taken(chosen, planned, tmp_path):
  place, here = staging.Staging(str(tmp_path / 'staging')), tmp_path / 'here'
  place.begin('run-a', chosen, planned, 1)
  fetch(place, chosen, 0)
  run = tmp_path / 'staging' / 'run-a'
  whole = (run / 'rows' / 'p000000.json').read_text()
  (run / 'rows' / 'p000000.json').write_text(whole[:-20])
  damaged = run / 'patches' / 'p000001' / 's1.tif'
  damaged.write_bytes(damaged.read_bytes()[:-1] + b'x')
  assert [row['id'] for row in place.take('run-a', sorted(place.ids('run-a')), here)] == ['p000002']
  assert not (here / 'patches' / 'p000001' / 's1.tif').exists()
  (run / 'rows' / 'p000000.json').write_text(whole)
  assert [row['id'] for row in place.take('run-a', ['p000000'], here)] == ['p000000']


def test_a_place_that_is_not_ours_is_refused(chosen, planned, tmp_path):
  (tmp_path / 'thesis').mkdir()
  (tmp_path / 'thesis' / 'thesis.tex').write_text('x')
  with pytest.raises(ValueError, match=r'thesis is not empty \(thesis.tex\)\. Name a place of its own'):
    staging.Staging(str(tmp_path / 'thesis')).claim(chosen)
  place = staging.Staging(str(tmp_path / 'staging'))
  place.begin('run-a', chosen, planned, 1)
  with pytest.raises(ValueError, match=r'holds patches of another config. What differs: seed: 0 -> 7. Name another'):
    place.claim(chosen | {'seed': 7})
  assert place.claim(chosen | {'workers': 7}) == 'run-a'
  for damaged in ('{"run"', '[]', '{"run": "a"}'):
    (tmp_path / 'staging' / staging.MARK).write_text(damaged)
    with pytest.raises(ValueError, match=r'staging\.json is damaged\. Remove .*and run the command again'):
      place.claim(chosen)
  (tmp_path / 'file').write_text('')
  with pytest.raises(ValueError, match=r'--staging=.*file/x: NotADirectoryError.*Name a place that can be written to'):
    staging.Staging(str(tmp_path / 'file' / 'x')).begin('run-a', chosen, planned, 1)
