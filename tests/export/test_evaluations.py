"""python -m deepsentinel.export --evaluation: what the evaluate commands found, in the model card."""

import hashlib
import json
import pathlib
import shutil

import numpy as np
import pytest
import yaml

from deepsentinel.evaluate import cloudresults, output, run
from deepsentinel.evaluation import probes
from deepsentinel.export import folder, measured
from deepsentinel.train import checkpoint
from tests import tiny_records, untrained
from tests.evaluate.test_clouds import Patches


@pytest.fixture(scope='module')
def runs(tmp_path_factory) -> list[pathlib.Path]:
  """Two runs that differ in their seed, and one that no evaluation knows."""
  home = tmp_path_factory.mktemp('runs')
  return [untrained.save(home / f'seed{seed}', encoder='resnet10', seed=seed) for seed in range(3)]


@pytest.fixture(scope='module')
def probed(runs, tmp_path_factory) -> pathlib.Path:
  out = tmp_path_factory.mktemp('probed')
  request = run.Request(
    [str(one) for one in runs[:2]], str(tiny_records.tiny_records(patches=24)), stage='finetune', fractions=(0.6, 1.0),
    cache=out / 'cache', progress=False,
  )  # fmt: skip
  output.write(run.evaluate(request), out)
  return out


@pytest.fixture(scope='module')
def clouded(runs, tmp_path_factory) -> pathlib.Path:
  out = tmp_path_factory.mktemp('clouded')
  models, patches = [checkpoint.load_trained(one) for one in runs[:2]], Patches(2, untrained.BANDS)
  cloudresults.run(models, patches, patches, out, shares=(0.0, 1.0), workers=1, progress=False)
  return out


@pytest.fixture(scope='module')
def shared(runs, probed, clouded, tmp_path_factory) -> pathlib.Path:
  out = tmp_path_factory.mktemp('shared') / 'model'
  # A result that is named twice, by its folder and by its file, is one.
  names = [str(probed), str(clouded / 'robustness.json'), str(clouded)]
  done = folder.export(runs[1], out, pytorch=False, evaluation=names)
  assert 'robustness.png' in done.files
  return out


def section(folder: pathlib.Path, title: str) -> str:
  return (folder / 'README.md').read_text().split(f'## {title}\n')[1].split('\n## ')[0]


def rows_of(text: str) -> list[list[str]]:
  return [[cell.strip() for cell in line.split('|')[1:-1]] for line in text.splitlines() if line.startswith('| ')]


def test_the_probes_are_in_the_card(shared, probed):
  text, result = section(shared, 'What the frozen encoder knows'), json.loads((probed / 'evaluation.json').read_text())
  assert 'of **SyntheticEarth, a simulated world**, which says nothing about the Earth' in text
  assert f'fitted on {result["patches"]["train"]} patches' in text
  lines = rows_of(text)
  for level in ('patch', 'cell'):
    for probe, name in (('linear', 'linear'), ('knn', 'kNN')):
      row, few = (
        next(r for r in result['rows'] if (r['method'], r['level'], r['probe'], r['fraction']) == (*own, share))
        for own in (('seed1', level, probe),) for share in (1.0, 0.6)
      )  # fmt: skip
      values = [row['weighted_iou'], row['macro_iou'], row['overall_accuracy'], few['weighted_iou']]
      assert ['**this encoder**', name, *(f'{value:.3f}' for value in values)] in lines
  # Of each level: the heading, this encoder, its random twin and band statistics by both probes, forest and majority.
  assert len(lines) == 2 * (1 + 3 * 2 + 2)
  assert 'seed0' not in text
  assert text.count('probe: **') + text.count('probe: above') == 4
  assert 'Trained with all train labels, whatever share the probe gets: this encoder.' in text


def test_quality_under_cloud_is_in_the_card(shared, clouded):
  text, result = section(shared, 'Quality under cloud'), json.loads((clouded / 'robustness.json').read_text())
  assert 'of 2 test patches in' in text
  assert '**SyntheticEarth, a simulated world**' in text
  assert 'Means of 2 checkpoints that differ in their seed, of which this is one (seed 1 of 0, 1)' in text
  entries = result['curves']['all']['s1']
  shown = [f'{entry["skill"]:.2f} ({entry["skill_of_models"][1]:.2f})' for entry in entries]
  assert ['Sentinel-1 alone', *shown] in rows_of(text)
  claims = [line for line in rows_of(text) if line[0] in ('holds', 'open', '**fails**')]
  assert [line[1:] for line in claims] == [[check['claim'], check['found']] for check in result['checks']]
  assert (claims[0][0], result['checks'][0]['holds']) == ('holds', True)
  assert '](robustness.png)' in text
  best = result['curves']['all']['fused'][0]
  assert f'a weighted IoU of {best["majority"]:.3f}; 1 is what both sensors give without a cloud, ' in text
  assert (shared / 'robustness.png').read_bytes() == (clouded / 'robustness.png').read_bytes()


def test_the_folder_is_whole_and_names_no_folder_of_this_machine(shared, runs, probed, clouded):
  sums = dict(reversed(line.split('  ')) for line in (shared / 'SHA256SUMS').read_text().splitlines())
  assert sums['robustness.png'] == hashlib.sha256((shared / 'robustness.png').read_bytes()).hexdigest()
  assert set(sums) == {path.name for path in shared.iterdir()} - {'SHA256SUMS'}
  text = (shared / 'README.md').read_text()
  assert not [path for path in (*runs, probed, clouded) if str(path) in text]
  assert checkpoint.load_trained(shared).sha256 == checkpoint.load_trained(runs[1]).sha256


def test_the_front_matter_has_probes_and_quality_under_cloud(shared, probed, clouded):
  written = (shared / 'README.md').read_text().split('---\n')[1]
  assert '&' not in written  # not every reader of YAML follows an anchor
  front = yaml.safe_load(written)
  of_probes, *of_clouds = front['model-index'][0]['results']
  rows = json.loads((probed / 'evaluation.json').read_text())['rows']
  own = [r['weighted_iou'] for r in rows if r['method'] == 'seed1' and r['fraction'] == 1]
  assert [metric['value'] for metric in of_probes['metrics']] == [round(value, 4) for value in own]
  assert of_probes['metrics'][0]['name'] == 'weighted IoU, linear probe of patches'

  curves = json.loads((clouded / 'robustness.json').read_text())['curves']['all']
  assert [result['dataset']['config'] for result in of_clouds] == ['0 % cloud', '100 % cloud']
  for s, result in enumerate(of_clouds):
    assert result['task'] == {'type': 'image-segmentation', 'name': 'CORINE level 1 under cloud'}
    # Of this checkpoint, the second of the two, not their mean.
    expected = [round(entries[s]['quality_of_models'][1], 4) for entries in curves.values()]
    assert [metric['value'] for metric in result['metrics']] == expected
    assert expected != [round(entries[s]['quality'], 4) for entries in curves.values()]
    assert {metric['type'] for metric in result['metrics']} == {'weighted_iou'}
    assert result['metrics'][4]['name'] == 'weighted IoU by both, cloud masked'

  # What Hugging Face needs of each result, and its key: two of one key would be taken for one.
  of = [(result['task']['type'], result['dataset']) for result in (of_probes, *of_clouds)]
  keys = [(task, *(data.get(key) for key in ('type', 'config', 'split'))) for task, data in of]
  assert len(set(keys)) == len(keys)
  assert {r['dataset']['name'] for r in of_clouds} == {'few (SyntheticEarth, simulated)'}
  assert of_probes['dataset']['name'].endswith('(SyntheticEarth, simulated)')


def test_the_same_command_without_it_takes_the_figure_away(runs, shared, probed, clouded, tmp_path):
  out = pathlib.Path(shutil.copytree(shared, tmp_path / 'model'))
  before = {path.name: path.read_bytes() for path in out.iterdir()}
  folder.export(runs[1], out, pytorch=False)
  assert not (out / 'robustness.png').exists()
  assert 'Quality under cloud' not in (out / 'README.md').read_text()
  folder.export(runs[1], out, pytorch=False, evaluation=[str(probed), str(clouded)])
  assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def _rows(own: float, bands: float, forest: float, interval: list[float] | None) -> list[dict]:
  best = max(('band statistics', bands), ('random forest', forest), key=lambda rival: rival[1])
  scores = {'own': ('embedding', 'linear', own), 'band statistics': ('bands', 'linear', bands),
            'random forest': ('forest', '', forest), 'majority': ('majority', '', 0.1)}  # fmt: skip
  return [
    {'level': 'patch', 'method': name, 'kind': kind, 'probe': probe, 'fraction': 1.0, 'weighted_iou': score}
    | ({'gain': {'over': best[0], 'weighted_iou': own - best[1], 'interval': interval}} if name == 'own' else {})
    for name, (kind, probe, score) in scores.items()
  ]  # fmt: skip


@pytest.mark.parametrize(
  ('scores', 'interval', 'says'),
  [
    ((0.5, 0.4, 0.3), [0.02, 0.2], '**beats every baseline** (+10.0 points of weighted IoU [+2.0, +20.0] against band '
     'statistics, the best of them).'),
    ((0.5, 0.4, 0.3), [-0.02, 0.2], 'above every baseline, but **not told apart from all of them** (+10.0 points'),
    ((0.5, 0.4, 0.3), None, 'above every baseline, but **not told apart from all of them** (+10.0 points of weighted '
     'IoU (no interval) against band statistics'),
    ((0.3, 0.4, 0.35), [-0.3, -0.05], '**does not beat band statistics or random forest of pixels** (-10.0 points of '
     'weighted IoU [-30.0, -5.0] against band statistics, the best of them).'),
    ((0.3, 0.2, 0.35), [-0.3, 0.05], '**does not beat random forest of pixels** (-5.0 points of weighted IoU [-30.0, '
     '+5.0] against random forest of pixels, the best of them, which does not tell them apart).'),
  ],
)  # fmt: skip
def test_which_baselines_are_not_beaten_by_hand(scores, interval, says):
  (line,) = measured._verdicts(_rows(*scores, interval), 'own', ('weighted_iou', 'weighted IoU'))
  assert line.startswith(f'- Patches, linear probe: {says}')


def test_class_lists(runs, tmp_path):
  rng, labels = np.random.default_rng(0), np.eye(3, dtype=bool)[np.arange(30) % 3]
  good, bad = (probes.knn_multilabel(x, labels) for x in (labels + 0.1, rng.normal(size=(30, 4))))
  model = checkpoint.load_trained(runs[0])
  result = {
    'kind': 'lists', 'data': 'lists', 'classes': ['a', 'b', 'c'], 'synthetic': False, 'patches': 30,
    'methods': [{'name': 'one', 'kind': 'embedding', 'sha256': model.sha256}], 'embeddings': {'one': bad},
    'band_statistics': good, 'caveat': 'Few.',
  }  # fmt: skip
  (tmp_path / 'lists.json').write_text(json.dumps(result))
  folder.export(runs[0], tmp_path / 'out', pytorch=False, evaluation=[str(tmp_path / 'lists.json')])
  text = section(tmp_path / 'out', 'What the frozen encoder knows')
  assert ['band statistics', '1.000', '1.000', '1.000'] in rows_of(text)
  assert 'does not beat band statistics' in text
  assert text.rstrip().endswith('Few.')


@pytest.mark.parametrize(('quality', 'said'), [(0.1, True), (0.9, False)])
def test_a_model_below_the_majority_class_has_no_skill(runs, clouded, tmp_path, quality, said):
  curves = json.loads((clouded / 'robustness.json').read_text())['curves']
  curves['all']['fused'][0] |= {'quality': quality, 'majority': 0.2}
  changed(clouded, tmp_path / 'clouds', curves=curves)
  folder.export(runs[0], tmp_path / 'out', pytorch=False, evaluation=[str(tmp_path / 'clouds')])
  assert ('no better than the majority class' in section(tmp_path / 'out', 'Quality under cloud')) is said


def changed(source: pathlib.Path, target: pathlib.Path, **changes) -> pathlib.Path:
  """A copy of a result's folder with other values in its JSON; None takes a key away."""
  shutil.copytree(source, target)
  path = next(target / name for name in ('evaluation.json', 'robustness.json') if (target / name).exists())
  about = json.loads(path.read_text()) | changes
  path.write_text(json.dumps({key: value for key, value in about.items() if value is not None}))
  return target


def test_what_is_not_taken(runs, probed, clouded, tmp_path):
  """One sentence each with its mend, and nothing written."""
  methods = json.loads((probed / 'evaluation.json').read_text())['methods']
  changed(probed, tmp_path / 'pretrained', methods=[{**m, 'stage': 'pretrain', 'sha256': 'ab' * 32} for m in methods])
  changed(probed, tmp_path / 'lacking', rows=None)
  changed(clouded, tmp_path / 'again')
  curves = {'all': {'s1': [{'cloud_share': 0, 'quality': 0.5, 'skill_of_models': []}]}}
  changed(clouded, tmp_path / 'older', curves=curves)
  changed(clouded, tmp_path / 'no_figure').joinpath('robustness.png').unlink()
  cut = changed(clouded, tmp_path / 'cut') / 'robustness.png'
  cut.write_bytes(cut.read_bytes()[:2000])
  begun = changed(clouded, tmp_path / 'begun')
  (begun / 'robustness.json').unlink()
  (tmp_path / 'nothing').mkdir()
  (tmp_path / 'damaged.json').write_text('{"kind": "ma')
  (tmp_path / 'other.json').write_text('{"name": "a corpus"}')
  (tmp_path / 'binary.json').write_bytes(b'\xff\xfe\x00')
  cases = [
    (runs[2], probed, r'evaluation.json is of other weights .*\(it names stage finetune, step 3, parameters \w{12}; '
     r'stage .*exported is stage finetune, .*`python -m deepsentinel.evaluate --checkpoint=.* --stage=finetune --out'),
    (runs[2], clouded, r'robustness.json is of other weights .*seed 0, .*; seed 1, .*`python -m deepsentinel.evaluate '
     r'clouds --checkpoint='),
    (runs[0], 'pretrained', 'or export the other stage with --stage=pretrain'),
    (runs[0], 'lacking', r'lacks rows. Run `python -m deepsentinel.evaluate ...` again'),
    (runs[0], f'{clouded},{tmp_path}/again', r'both are of quality under cloud. Name one'),
    (runs[0], 'older', 'it lacks quality_of_models. Run `python -m deepsentinel.evaluate clouds ...` again'),
    (runs[0], 'no_figure', r'robustness.png, the figure .*, is not there. Run the same .* clouds` again'),
    (runs[0], 'cut', r'robustness.png, the figure .*, is damaged'),
    (runs[0], 'begun', r'begun is not finished: run its `python -m deepsentinel.evaluate clouds` again'),
    (runs[0], 'nothing', r'holds neither evaluation.json nor robustness.json. `python -m deepsentinel.evaluate'),
    (runs[0], 'absent', r'absent is not there. Name a folder with evaluation.json or robustness.json. `python -m'),
    (runs[0], 'damaged.json', r'damaged.json is damaged or no JSON .* Run the evaluate command that wrote it again'),
    (runs[0], 'binary.json', r'binary.json is damaged or no JSON'),
    (runs[0], 'other.json', r'other.json is neither an evaluation.json nor a .*\(it holds name, ...\). `python -m'),
  ]  # fmt: skip
  for source, name, says in cases:
    names = [str(tmp_path / part) for part in str(name).split(',')]
    with pytest.raises(ValueError, match=says) as error:
      folder.export(source, tmp_path / 'out', pytorch=False, evaluation=names)
    assert '  ' not in str(error.value)
  assert not (tmp_path / 'out').exists()
