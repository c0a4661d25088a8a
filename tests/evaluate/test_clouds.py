"""Quality against cloud cover: skill by hand, what must hold, and real renderings seen by a small model."""

import copy
import dataclasses
import datetime
import hashlib
import json
import pathlib

import numpy as np
import pandas
import pytest

from deepsentinel import legend, sensors
from deepsentinel.evaluate import cloudchart, cloudmeasure, cloudresults
from deepsentinel.evaluation import cloudseries, robustness
from deepsentinel.evaluation.robustness import VIEWS
from deepsentinel.sources import base
from deepsentinel.sources.synthetic import SyntheticEarth
from tests.embedding.small_area import make_model

SHARES = (0.0, 1.0)
BLOCK = np.arange(9)  # of nine patches, one each: enough for an interval


def _measured(answers: dict[str, list[np.ndarray]], models: int = 2) -> robustness.Measured:
  """Nine equal patches of two classes, clear at share 0 and overcast at 1: view -> its confusion matrix at each."""
  confusion = np.zeros((9, models, 2, len(VIEWS), 2, 2, 2), np.int64)
  reference = np.zeros((9, models, 2, 2, 2, 2), np.int64)
  for s in range(2):
    for v, view in enumerate(VIEWS):
      confusion[:, :, s, v, s] = answers[view][s]
    reference[:, :, s, s] = answers['fused'][0]
  kept = np.full((9, models, 2, len(VIEWS)), 0.6)
  return robustness.Measured([f'p{i}' for i in range(9)], confusion, reference, kept, np.full(models, 0.2))


GOOD, FAIR, GUESS = np.array([[60, 0], [0, 40]]), np.array([[50, 10], [10, 30]]), np.array([[60, 0], [40, 0]])
SOUND = {
  's1': [FAIR, FAIR],
  's2': [GOOD, GUESS],
  'fused': [GOOD, FAIR],
  's2_told': [GOOD, GUESS],
  'fused_told': [GOOD, FAIR],
}
COUNTS = np.array([6, 4])


def test_skill_is_that_of_the_hand():
  curves = robustness.curves(_measured(SOUND), BLOCK, COUNTS, SHARES)
  whole = curves['all']
  # Weighted IoU. GUESS: 0.6 * 60 / 100 + 0.4 * 0 = 0.36. FAIR: 0.6 * 50 / 70 + 0.4 * 30 / 50 = 0.668571. GOOD: 1.
  assert whole['s2'][1]['quality'] == pytest.approx(0.36)
  assert whole['s2'][1]['majority'] == pytest.approx(0.36)
  assert whole['s2'][1]['skill'] == pytest.approx(0)
  assert whole['fused'][0]['skill'] == pytest.approx(1)
  expected = (0.6 * 50 / 70 + 0.4 * 30 / 50 - 0.36) / 0.64
  assert whole['s1'][0]['skill'] == pytest.approx(expected)
  assert whole['s1'][0]['skill_of_models'] == pytest.approx([expected] * 2)
  assert whole['s2'][1]['quality_of_models'] == pytest.approx([0.36] * 2)
  # Nine equal patches and two equal models leave nothing to chance.
  assert whole['s1'][0]['places'] == pytest.approx([expected] * 2)
  assert whole['s1'][0]['seeds'] == pytest.approx([expected] * 2)


def test_pixels_under_cloud_and_under_clear_sky_are_scored_apart():
  curves = robustness.curves(_measured(SOUND), BLOCK, COUNTS, SHARES)
  assert curves['cloud']['fused'][0]['skill'] is None
  assert curves['cloud']['fused'][0]['pixels'] == 0
  assert curves['clear']['fused'][1]['skill'] is None
  assert curves['cloud']['fused'][1]['skill'] == curves['all']['fused'][1]['skill']
  assert curves['cloud']['fused'][1]['pixels'] == 900


def test_a_model_that_knows_just_the_majority_class_has_no_skill(tmp_path, monkeypatch):
  curves = robustness.curves(_measured({view: [GUESS, GUESS] for view in SOUND}), BLOCK, COUNTS, SHARES)
  entry = curves['all']['fused'][0]
  assert (entry['skill'], entry['skill_of_models'], entry['places'], entry['seeds']) == (None, [None, None], None, None)
  assert entry['quality'] == entry['majority'] == pytest.approx(0.36)
  shown = {
    'curves': curves, 'shares': SHARES, 'checks': [], 'synthetic': True, 'models': 2, 'patches': 9, 'blocks': 9,
    'split': 'validation', 'embedding_kept': {view: [1.0, 0.5] for view in VIEWS},
  }  # fmt: skip
  text = cloudresults.table(shown)
  assert 'both                                    -      -' in text
  assert '9 validation patches of SyntheticEarth' in text
  titles = []
  monkeypatch.setattr(cloudchart.figures, 'png', lambda figure: titles.append(figure.get_suptitle()) or b'')
  cloudchart.draw(tmp_path / 'robustness.png', shown)
  assert '9 validation patches' in titles[0]
  assert 'Bands' not in titles[0]


def test_what_is_left_of_an_embedding():
  left = robustness.embeddings(_measured(SOUND), SHARES)
  assert left['s1'] == pytest.approx([0.5, 0.5])  # 0.6 on the way from 0.2, of another place, to 1


def _verdicts(answers) -> list[bool | None]:
  return [check['holds'] for check in robustness.checks(_measured(answers), BLOCK, COUNTS, SHARES)]


def test_what_must_hold_holds_of_sound_answers():
  assert _verdicts(SOUND) == [True] * 6


@pytest.mark.parametrize(
  ('view', 'answers', 'failing'),
  [
    ('s1', [FAIR, GUESS], 0),  # radar that changes with cloud
    ('s2', [GOOD, FAIR], 1),  # optics that see through cloud
    ('fused', [GUESS, FAIR], 2),  # both worse than one
    ('fused', [GOOD, GUESS], 3),
    ('fused_told', [GUESS, FAIR], 4),
    ('fused_told', [GOOD, GUESS], 5),
  ],
)
def test_what_must_hold_fails_of_others(view, answers, failing):
  assert _verdicts({**SOUND, view: answers})[failing] is False


def test_few_blocks_leave_it_open():
  checks = robustness.checks(_measured(SOUND | {'fused': [GUESS, GUESS]}), BLOCK // 3, COUNTS, SHARES)
  assert [check['holds'] for check in checks[1:4]] == [None] * 3
  assert 'too few blocks' in checks[2]['found']
  assert robustness.curves(_measured(SOUND), BLOCK // 3, COUNTS, SHARES)['all']['s1'][0]['places'] is None


class Patches:
  """A few patches of SyntheticEarth as a record set in memory."""

  directory, split, synthetic, patch_px = pathlib.Path('records'), 'test', True, 32
  card = {'source': {'name': 'synthetic', 'seed': 0}, 'name': 'few'}  # noqa: RUF012

  def __init__(self, count: int = 3, bands: tuple[str, ...] = ('B2', 'B3', 'B4', 'VV', 'VH')):
    earth = SyntheticEarth(0)
    self.spec = sensors.SensorSpec(bands, 'L2A', 'sigma0_ellipsoid')
    rows, self.pixels = [], {'s2': [], 's1': [], 'corine': []}
    self.fields = tuple(self.pixels)
    start = datetime.datetime(2018, 6, 1, tzinfo=datetime.UTC)
    for i in range(count):
      grid = base.PatchGrid(32632, 600_000.0 + 60_000 * i, 5_800_000.0, 32, 32)
      lon, lat = grid.pixel_centres_lonlat()
      scene = earth.search('sentinel2', grid.outline_lonlat(), start, start + datetime.timedelta(days=10))[0]
      radar = earth.search('sentinel1', grid.outline_lonlat(), start, start + datetime.timedelta(days=12))[0]
      rows.append(
        {'id': f'p{i}', 'lon_deg': lon[16, 16], 'lat_deg': lat[16, 16], 'epsg': grid.epsg, 'x0_m': grid.x0_m,
         'y0_m': grid.y0_m, 's2_scene': scene.id, 's2_time': int(scene.time.timestamp())}
      )  # fmt: skip
      self.pixels['s2'].append(earth.read(scene, grid, self.spec.s2_bands).to_storage())
      self.pixels['s1'].append(earth.read(radar, grid, self.spec.s1_bands).to_storage())
      self.pixels['corine'].append(earth.landcover(lon, lat))
    self.table = pandas.DataFrame(rows)

  def __len__(self):
    return len(self.table)

  @property
  def fingerprint(self):
    return hashlib.sha256(b''.join(p.tobytes() for own in self.pixels.values() for p in own)).hexdigest()

  def read(self, field, numbers):
    return np.stack([self.pixels[field][i] for i in numbers])


@pytest.fixture(scope='module')
def patches() -> Patches:
  return Patches()


@pytest.fixture(scope='module')
def model():
  return make_model(stage='finetune', crop_px=32, subsets=[['VV', 'VH'], ['B2', 'B3', 'B4']])


def test_a_place_is_rendered_at_exactly_the_share_of_cloud(patches):
  series = cloudseries.render(patches.card['source'], cloudseries.places(patches)[1], ('B4', 'B2'), (0, 0.5, 1), True)
  assert series.cloud.mean((1, 2)) == pytest.approx([0, 0.5, 1], abs=0.01)
  np.testing.assert_array_equal(series.weather, patches.pixels['s2'][1][..., [2, 0]])
  under = series.cloud[1]
  assert series.s2[1][under].mean() > 1.5 * series.s2[0][under].mean()  # cloud is bright


def test_measured_resumed_and_written(patches, model, tmp_path):
  first = cloudresults.run([model], patches, patches, tmp_path, shares=SHARES, workers=1, progress=False)
  part = tmp_path / 'clouds' / 'part_00000.npz'
  was, page = part.stat().st_mtime_ns, (tmp_path / 'robustness.json').read_text()
  again = cloudresults.run([model], patches, patches, tmp_path, shares=SHARES, workers=1, progress=False)
  assert part.stat().st_mtime_ns == was
  assert (tmp_path / 'robustness.json').read_text() == page
  assert json.loads(page) == json.loads(json.dumps(again)) == json.loads(json.dumps(first))
  whole = first['curves']['all']
  # Without optical pixels nothing is left to be told: both sensors are radar alone then, and cloud changes no radar.
  assert whole['fused_told'][1]['quality'] == whole['s1'][1]['quality'] == whole['s1'][0]['quality']
  assert first['embedding_kept']['fused'][0] == pytest.approx(1)
  labelled = sum((legend.target('corine_level1').lookup[one] >= 0).sum() for one in patches.pixels['corine'])
  assert {entry['pixels'] for entries in whole.values() for entry in entries} == {labelled}
  assert 'SyntheticEarth' in cloudresults.table(first)
  assert (tmp_path / 'robustness.png').stat().st_size > 10_000
  assert (tmp_path / 'robustness.csv').read_text().count('\n') == 1 + 3 * len(VIEWS) * len(SHARES)


def test_another_comparison_is_not_written_over(patches, model, tmp_path):
  cloudmeasure.measure([model], patches, tmp_path, shares=SHARES, patches=1, workers=1, progress=False)
  with pytest.raises(ValueError, match=r'holds another comparison.*Pass another --out'):
    cloudmeasure.measure([model], patches, tmp_path, shares=SHARES, patches=2, workers=1, progress=False)
  relabelled = copy.copy(patches)
  relabelled.pixels = patches.pixels | {'corine': [np.zeros_like(one) for one in patches.pixels['corine']]}
  with pytest.raises(ValueError, match=r'holds another comparison: other checkpoints, records'):
    cloudmeasure.measure([model], relabelled, tmp_path, shares=SHARES, patches=1, workers=1, progress=False)
  (tmp_path / 'clouds' / 'part_00000.npz').write_bytes(b'PK cut off')
  with pytest.raises(ValueError, match=r'part_00000.npz cannot be read.*Remove it and run the same command again'):
    cloudmeasure.measure([model], patches, tmp_path, shares=SHARES, patches=1, workers=1, progress=False)


def test_records_of_another_world_are_refused(patches, model, tmp_path):
  other = Patches(1)
  other.pixels['s2'][0] = other.pixels['s2'][0] + 1
  with pytest.raises(ValueError, match=r'looks otherwise now.*Sample the corpus and build the records again'):
    cloudmeasure.measure([model], other, tmp_path, shares=SHARES, workers=1, progress=False)
  place = cloudseries.places(patches)[0]._replace(scene='S2A_gone')
  with pytest.raises(ValueError, match='of scene S2A_gone, which synthetic does not have'):
    cloudseries.render(patches.card['source'], place, ('B2',), (0,), False)
  with pytest.raises(ValueError, match=r"sampled from 'local'.*--data=deepsentinel_labelled/demo"):
    cloudseries.require({'source': {'name': 'local'}}, 'records')


def test_models_that_cannot_be_measured_are_refused(patches, model):
  cases = [
    (dataclasses.replace(model, subsets=[]), r'not trained to do with VV,VH alone.*under_cloud'),
    (make_model(stage='pretrain', crop_px=32), 'does not predict land cover'),
    (make_model(stage='finetune', crop_px=32, bands=('B2', 'B3')), 'takes B2,B3: both sensors are needed'),
  ]
  for bad, message in cases:
    with pytest.raises(ValueError, match=message):
      cloudmeasure.require_models([bad], patches)
  with pytest.raises(ValueError, match='start at 0'):
    cloudmeasure.measure([model], patches, pathlib.Path('nowhere'), shares=(0.5, 1.0), workers=1, progress=False)
