"""The page: every number equals test.json, every picture is one, nothing is asked of the network."""

import base64
import html.parser
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from configs.corpora import common, labelled_1k
from deepsentinel.report import facts
from deepsentinel.report import html as report
from deepsentinel.report import runs as runs_lib
from tests import commands, tiny_records
from tests.report import fake_runs

VOID = {'meta', 'link', 'img', 'br'}


class Page(html.parser.HTMLParser):
  """Tables as rows of cell texts, pictures, text; fails on a tag that does not match."""

  def __init__(self, path):
    super().__init__()
    self.tables, self.images, self.urls, self.text, self._open = [], [], [], [], []
    self.feed(path.read_text(encoding='utf-8'))
    assert self._open == []

  def handle_starttag(self, tag, attrs):
    attributes = dict(attrs)
    self.urls += [value for key, value in attrs if key in ('src', 'href', 'srcset', 'action')]
    if tag == 'img':
      self.images.append(attributes)
      assert attributes['alt']
    if tag == 'table':
      self.tables.append([])
    elif tag == 'tr':
      self.tables[-1].append([])
    elif tag in ('td', 'th'):
      self.tables[-1][-1].append('')
    if tag not in VOID:
      self._open.append(tag)

  def handle_endtag(self, tag):
    assert self._open.pop() == tag

  def handle_data(self, data):
    if {'td', 'th'} & set(self._open) and 'span' not in self._open:
      self.tables[-1][-1][-1] += data.strip()
    if 'style' not in self._open:
      self.text.append(data)

  @property
  def words(self):
    return ' '.join(' '.join(self.text).split()).replace('\u2011', '-')

  def pictures(self):
    for image in self.images:
      head, _, data = image['src'].partition(',')
      assert head == 'data:image/png;base64'
      yield image['alt'], np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert('RGB'))


@pytest.fixture(scope='module')
def pair(tmp_path_factory):
  root = tmp_path_factory.mktemp('two runs')  # with a space in its name
  return [
    fake_runs.write_run(root / 'tile2vec', skill=0.78),
    fake_runs.write_run(root / 'none', objective='none', skill=0.7, forest=None),
  ]


@pytest.fixture(scope='module')
def page(pair, tmp_path_factory):
  return Page(report.write_report(pair, tmp_path_factory.mktemp('page') / 'deep' / 'report.html'))


def _percent(value):
  return '–' if value is None else f'{100 * value:.1f}'


def test_every_number_of_the_table_equals_test_json(page, pair):
  rows = {row[0]: row[1:] for row in page.tables[0]}
  tests = [json.loads((path / 'test.json').read_text())['methods'] for path in pair]
  expected = {
    'Tile2Vec pretraining': tests[0]['model'],
    'no pretraining': tests[1]['model'],
    'majority class': tests[0]['majority'],
    'per-pixel random forest': tests[0]['random_forest'],
  }
  for name, scores in expected.items():
    cells = [scores['weighted_iou'], scores['macro_iou'], scores['overall_accuracy'], *scores['iou']]
    assert rows[name] == [_percent(value) for value in cells]
  assert rows['share of reference pixels'][1:] == ['9.0', '46.0', '33.0', '0.0', '12.0']
  assert rows['method'][3:] == ['urban', 'agriculture', 'natural', 'wetland', 'water']


def test_verdict_banner_and_facts(page, pair):
  assert 'Results on SyntheticEarth, a simulated world: they say nothing about real imagery.' in page.words
  assert 'Tile2Vec pretraining beats no pretraining at the same fine-tuning budget' in page.words
  assert 'One seed each, so no claim of significance.' in page.words
  assert '9.42 km from the anchor on average; 81 % from the same acquisition' in page.words
  assert '0123abc' in page.words
  differing = next(table for table in page.tables if table[0][0] == 'setting')
  assert ['pretrain.objective', "'tile2vec'", "'none'"] in differing
  assert f"--workdir='{pair[0]}'" in page.words or f"'--workdir={pair[0]}'" in page.words


def test_pictures_are_there_and_not_blank(page):
  pictures = list(page.pictures())
  alts = [alt for alt, _ in pictures]
  for what in (
    'IoU of each class',
    'Confusion matrix of Tile2Vec',
    'Confusion matrix of per-pixel',
    'Pretraining loss',
  ):
    assert any(what in alt for alt in alts), what
  for _, pixels in pictures:
    assert pixels.std(axis=(0, 1)).max() > 1
  # Four patches: both sensors, CORINE and two predictions each.
  assert sum('patch demo_' in alt for alt in alts) == 4 * 5


def test_sample_pictures_show_the_samples(page, pair):
  with np.load(pair[0] / 'samples.npz') as samples:
    label, prediction = samples['label'][2], samples['prediction'][2]
  pictures = dict(page.pictures())
  corine = pictures['CORINE level 1 of patch demo_00002'][::2, ::2]
  guess = pictures['Prediction of Tile2Vec pretraining for patch demo_00002'][::2, ::2]
  assert corine.shape[:2] == label.shape
  agree = (corine == guess).all(-1)
  np.testing.assert_array_equal(agree, label == prediction)


def test_nothing_is_asked_of_the_network(page):
  assert all(url.startswith(('data:', '#')) for url in page.urls)
  assert '<script' not in ''.join(page.text)


def test_unfinished_missing_and_broken_runs_are_named(pair, tmp_path):
  shutil.copytree(pair[0], tmp_path / 'killed')
  for name in ('test.json', 'samples.npz'):
    (tmp_path / 'killed' / name).unlink()
  with (tmp_path / 'killed' / 'finetune' / 'metrics.csv').open('a') as file:
    file.write('155,12.9,train,lo')  # the line that a kill cut off
  shutil.copytree(pair[1], tmp_path / 'broken')
  (tmp_path / 'broken' / 'test.json').write_text('{"target": "corine_level1"')
  (tmp_path / 'broken' / 'samples.npz').write_bytes(b'PK not a zip')
  shutil.copytree(pair[1], tmp_path / 'odd')
  (tmp_path / 'odd' / 'test.json').write_text('{"target": "corine_level1", "classes": ["a"], "methods": {"model": {}}}')
  runs = [*pair, *(tmp_path / name for name in ('killed', 'broken', 'odd', 'gone'))]
  page = Page(report.write_report(runs, tmp_path / 'report.html'))
  assert 'killed: did not finish (last heard of in finetune at step 150 of 150).' in page.words
  assert 'broken: test.json cannot be read' in page.words
  assert "its test.json has no 1 x 1 confusion matrix for 'model'" in page.words
  assert 'gone: there is no such directory.' in page.words
  assert 'Tile2Vec pretraining (tile2vec) beats no pretraining (none)' in page.words


def test_only_unfinished_runs(tmp_path, pair):
  (tmp_path / 'begun').mkdir()
  shutil.copy(pair[0] / 'config.json', tmp_path / 'begun')
  page = Page(report.write_report([tmp_path / 'begun'], tmp_path / 'report.html'))
  assert 'There is nothing to compare yet: no run has been tested.' in page.words
  assert 'did not finish (it logged no step)' in page.words


def test_pretraining_only(tmp_path):
  run = fake_runs.write_run(tmp_path / 'pretrain_only', config={'data': {'labelled': ''}})
  (run / 'test.json').unlink()
  assert runs_lib.read_run(run).problem == 'pretrains only, so there is nothing to score'
  Page(report.write_report([run], tmp_path / 'report.html'))


def test_nothing_at_all_is_an_error(tmp_path):
  with pytest.raises(ValueError, match='No run given'):
    report.write_report([], tmp_path / 'report.html')
  with pytest.raises(ValueError, match=r'Nothing to report: .*gone: there is no such directory'):
    report.write_report([tmp_path / 'gone', tmp_path], tmp_path / 'report.html')
  assert not (tmp_path / 'report.html').exists()


def test_real_data_and_many_classes(tmp_path):
  run = fake_runs.write_run(tmp_path / 'level3', level=3, synthetic=False, skill=0.5)
  page = Page(report.write_report([run], tmp_path / 'report.html'))
  assert 'Results on bigearthnet_v2: real Sentinel-1 and Sentinel-2 data.' in page.words
  classes = next(table for table in page.tables if table[0][0] == 'class')
  scores = json.loads((run / 'test.json').read_text())['methods']['model']['iou']
  assert [row[1] for row in classes[1:]] == [_percent(value) for value in scores]


def test_runs_of_two_targets_make_a_page_with_the_pictures_of_one(tmp_path):
  paths = [fake_runs.write_run(tmp_path / f'level{level}', level=level) for level in (1, 2)]
  for order in (paths, paths[::-1]):
    page = report.write_report(order, tmp_path / 'report.html').read_text()
    assert 'These runs cannot be ranked' in page
    assert page.count('alt="Prediction of') == page.count('alt="Sentinel-2 true colour of patch') > 0


def test_text_from_runs_is_escaped(tmp_path):
  run = fake_runs.write_run(tmp_path / 'a', config={'data': {'labelled': '<b>x</b>'}})
  assert '<b>' not in report.write_report([run], tmp_path / 'report.html').read_text()


def test_embedding_map(tmp_path, pair):
  folder = tmp_path / 'map'
  page = Page(report.write_report(pair, tmp_path / 'without.html', embedding=folder))
  assert 'embedding.png does not exist' in page.words
  folder.mkdir()
  Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(folder / 'embedding.png')
  pictures = dict(Page(report.write_report(pair, tmp_path / 'with.html', embedding=folder)).pictures())
  assert pictures['Embedding map'].tolist() == np.arange(48).reshape(4, 4, 3).tolist()


def test_map_of_points(tmp_path):
  directory = tiny_records.tiny_records()
  run = fake_runs.write_run(tmp_path / 'run', config={'data': {'labelled': str(directory), 'unlabelled': ''}})
  page = Page(report.write_report([run], tmp_path / 'report.html'))
  assert any('Map of the corpus' in alt for alt, _ in page.pictures())
  assert '12 patches of 32 px' in page.words
  assert 'labelled: mean distance to the nearest patch' in page.words


@pytest.mark.parametrize(('left_out', 'expected'), [(True, '4 left out within 3.7 km'), (False, 'none left out')])
def test_what_pretraining_left_out_is_said(tmp_path, left_out, expected):
  run = fake_runs.write_run(tmp_path / 'run', config={'pretrain': {'exclude_heldout': left_out}})
  experiment = json.loads((run / 'experiment.json').read_text())
  about = {'name': 'demo_unlabelled', 'patches': 1200, 'excluded_near_heldout': 4 * left_out, 'exclude_km': 3.7}
  experiment['data'] = {'pretrain': about}
  (run / 'experiment.json').write_text(json.dumps(experiment))
  page = Page(report.write_report([run], tmp_path / 'report.html'))
  assert f'demo_unlabelled, 1,200 patches; {expected}' in page.words


def test_commands_repeat_the_run_with_its_overrides(tmp_path):
  run = fake_runs.write_run(tmp_path / 'none', objective='none')
  lines = facts.commands([runs_lib.read_run(run)], [str(run)], None)
  assert lines[0] == 'git checkout 0123abc'
  main = next(line for line in lines if 'deepsentinel.main' in line)
  assert f'--config=configs/quickstart.py --workdir={run}' in main
  assert '--config.pretrain.objective=none' in main
  assert lines[-1] == f'python -m deepsentinel.report {run} --out=report.html'


def test_recorded_sets_name_their_commands(tmp_path):
  run = fake_runs.write_run(tmp_path / 'run')
  experiment = json.loads((run / 'experiment.json').read_text())
  home = '/data/deepsentinel_labelled'
  experiment['data'] = {
    'train': {'directory': f'{home}/custom/1.0.0', 'name': 'bigearthnet_v2'},
    'test': {'directory': f'{home}/custom/1.0.0', 'name': 'bigearthnet_v2'},
    'pretrain': {'directory': '/data/deepsentinel_unlabelled/demo/1.0.0', 'name': 'demo_unlabelled'},
  }
  (run / 'experiment.json').write_text(json.dumps(experiment))
  lines = facts.commands([runs_lib.read_run(run)], [str(run)], None)
  assert lines[1:4] == [
    'tfds build tfds_builders/deepsentinel_unlabelled --config=demo',
    'python -m deepsentinel.corpus --config=configs/corpora/bigearthnet_v2.py --out=corpora/bigearthnet_v2',
    'tfds build tfds_builders/deepsentinel_labelled --config=custom --manual_dir=corpora/bigearthnet_v2',
  ]


@pytest.mark.parametrize(
  ('platform', 'changes', 'expected'),
  [
    ('synthetic', {}, 'python {corpus}.py {out}'),
    ('earthengine', {'seed': 1}, 'python {corpus}.py:earthengine --config.seed=1 --config.source.project=p {out}'),
    ('planetary_computer', {}, 'python {corpus}.py:planetary_computer {out}'),
    ('local', {}, '# python {corpus}.py {out}  # with other settings than this file has, from local'),
    ('', {}, '# python {corpus}.py {out}  # with other settings than this file has, from a platform of real imagery'),
  ],
)
def test_the_corpus_is_sampled_from_where_it_was(platform, changes, expected, tmp_path):
  run = fake_runs.write_run(tmp_path / 'run', synthetic=platform == 'synthetic')
  home = tmp_path / 'deepsentinel_labelled/custom/1.0.0'
  home.mkdir(parents=True)
  if platform:
    source = {'earthengine': {'project': 'p'}, 'local': {'path': '/scenes'}}.get(platform, {})
    config = {**labelled_1k.get_config().to_dict(), 'workers': 9, **changes}
    config['source'] = {**common.PLATFORMS.get(platform, {'name': platform}), **source}
    (home / 'metadata.json').write_text(json.dumps({'card': {'name': 'labelled_1k', 'config': config}}))
  experiment = json.loads((run / 'experiment.json').read_text())
  experiment['data'] = {'train': {'directory': str(home), 'name': 'labelled_1k'}}
  (run / 'experiment.json').write_text(json.dumps(experiment))
  _, line, *_ = facts.commands([runs_lib.read_run(run)], [str(run)], None)
  corpus = '-m deepsentinel.corpus --config=configs/corpora/labelled_1k'
  assert line == expected.format(corpus=corpus, out='--out=corpora/labelled_1k')


def test_command_line(tmp_path, pair):
  done = commands.run('deepsentinel.report', *pair, f'--out={tmp_path / "r.html"}')
  assert done.code == 0, done.err
  Page(tmp_path / 'r.html')
  failed = commands.run('deepsentinel.report', tmp_path / 'gone', cwd=tmp_path)
  assert failed.error.startswith('error: Nothing to report')
