"""Every command of the README, run in the order in which a newcomer would type them.

`make quickstart` at its tiny size comes first; the README's own lines then run where it put its results, with the same
small sizes. So a line that the quickstart has run already finds its work done and says so, and the others do theirs.
"""

import os
import pathlib
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping

import nbformat
import numpy as np
import pytest
import rasterio
import rasterio.warp

from launch import notebooks
from tests import commands
from tests.commands import QUICK_XLA
from tests.sources import loopback

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / 'README.md').read_text()
BIN = pathlib.Path(sys.executable).parent

# The tiny size of launch/quickstart.sh, and two steps for what it does not run.
SMALL = {
  'deepsentinel.corpus': ['--config.patches=24', '--config.patch_px=64', '--config.workers=1'],
  'deepsentinel.main': [
    '--config.encoder.name=resnet10',
    '--config.encoder.width=8',
    '--config.data.crop_px=32',
    '--config.pretrain.batch_size=4',
    '--config.finetune.batch_size=4',
    '--config.evaluation.batch_size=8',
    '--config.pretrain.duration.epochs=0',
    '--config.finetune.duration.epochs=0',
    '--config.pretrain.duration.steps=4',
    '--config.finetune.duration.steps=4',
  ],
  'deepsentinel.embed': ['--bounds=12.20,52.30,12.22,52.31'],
  'deepsentinel.evaluate': ['--noforest'],
  'clouds': ['--shares=0,1', '--patches=4'],
  'deepsentinel.search': ['--point=12.207,52.304', '--k=3'],
  'deepsentinel.detect': ['--positive=12.207,52.304', '--negative=12.214,52.307'],
}
SMALL['launch/grid.py'] = [
  '--configs=configs/none_resnet18.py', '--seeds=0', '--fractions=1',
  *(flag.replace('--config.', '--set=') for flag in SMALL['deepsentinel.main']),
]  # fmt: skip
# A corner of the box, with every patch in every split: so few mines cannot be split.
CORNER = ['--config.points.bbox=10.0,50.5,10.6,50.9', '--config.split.method=shared', '--config.patches=12']
# Beam's workers on a few patches, each with a share.
SHARED = ['--config.patches=4', '--config.workers=2']
# What a line says when there is nothing left to do, or what it leaves: seen in its output.
SAYS = {
  'deepsentinel.corpus': 'Next: DEEPSENTINEL_CORPUS=',
  'deepsentinel.main': 'report.html',
  'deepsentinel.describe': '11,621,570',
  'deepsentinel.embed': 'embedding.tif',
  'deepsentinel.evaluate': 'Written to evaluation: evaluation.json, evaluation.csv, classes.png',
  'deepsentinel.search': 'SyntheticEarth: these pixels are computed',
  'deepsentinel.detect': 'neither a score nor an uncertainty can be known',
  'deepsentinel.report': 'open it in a browser',
  'deepsentinel.export': 'weights: #sha256=',
  'publish': 'files were read back',
  'clouds': 'robustness.png',
  'launch/grid.py': '3 finished, 0 failed',  # two that choose, and the run
  'tfds': 'dataset_size',
}
# Run by other means: the first is this very run, the second tests/test_real_data.py; and a section's lines by
# tests/test_slurm.py, which brings a Slurm up for them.
ELSEWHERE = {'make test', 'DEEPSENTINEL_DATA=DIR make real-data'}
SLURM = 'Use a cluster with Slurm'
# Lines with a placeholder, each run by a test of its own; that of a catalogue by tests/embedding/test_catalogue.py.
PLACEHOLDERS = ('--s1=S1.tif', '--area=CATCHMENT.gpkg', 'WORLDCOVER_TILES', 'gs://BUCKET')

# Pictures that each notebook shows.
NOTEBOOKS = {
  'embed_with_a_checkpoint': 2, 'explore_a_corpus': 5, 'find_similar_places': 3, 'fine_tune_on_your_labels': 2,
}  # fmt: skip


def all_commands() -> list[str]:
  """Lines of the README's code blocks, fenced or indented, those continued with a backslash joined."""
  blocks = re.findall(r'```sh\n(.*?)```', README, re.DOTALL)
  blocks += re.findall(r'(?:^    .*\n)+', re.sub(r'```.*?```', '', README, flags=re.DOTALL), re.MULTILINE)
  lines = '\n'.join(blocks).replace('\\\n', ' ').splitlines()
  return [' '.join(line.split()) for line in lines if line.strip()]


def typed(section: str) -> list[str]:
  """The fenced commands of one section of the README."""
  text = README.split(f'### {section}\n')[1].split('\n## ')[0].split('\n### ')[0]
  found = re.findall(r'```sh\n(.*?)```', text, re.DOTALL)
  return [' '.join(line.split()) for line in '\n'.join(found).replace('\\\n', ' ').splitlines() if line.strip()]


def program(command: list[str]) -> str:
  if word := next((word for word in ('publish', 'clouds') if word in command), ''):
    return word
  return command[1 + (command[1] == '-m')] if command[0] == 'python' else command[0]


def run(command: list[str], cwd: pathlib.Path, served: Mapping[str, str] | None = None) -> str:
  environment = {
    'PATH': f'{BIN}:{os.environ["PATH"]}', 'PYTHONPATH': str(ROOT), 'XLA_FLAGS': QUICK_XLA,
    'TFDS_DATA_DIR': str(cwd / 'tensorflow_datasets'), **(served or {}),
  }  # fmt: skip
  if command[:2] == ['python', '-m'] or command[0] == 'tfds':
    module, *arguments = command[2:] if command[0] == 'python' else [commands.TFDS, *command[1:]]
    done = commands.Running(module, *arguments, cwd=cwd, **environment).finish(limit_s=900)
    code, out, err = done.code, done.out, done.err
  else:
    result = subprocess.run(
      command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=900
    )
    code, out, err = result.returncode, result.stdout, result.stderr
  assert code == 0, f'{shlex.join(command)}\n{out[-2000:]}\n{err[-4000:]}'
  return out


@pytest.fixture(scope='module')
def quickstart(tmp_path_factory, served) -> pathlib.Path:
  """What `make quickstart` leaves, in a folder with a space in its name, with the README's folders beside it."""
  out = tmp_path_factory.mktemp('a newcomer') / 'quick start'
  make = ['make', '--old-file=.venv/installed', f'OUT={out}', 'SIZE=tiny', 'quickstart']
  run(make, ROOT, served)
  for folder in ('configs', 'tfds_builders', 'launch'):
    (out / folder).symlink_to(ROOT / folder)
  return out


@pytest.mark.slow
def test_quickstart_leaves_everything(quickstart):
  page = (quickstart / 'report.html').read_text()
  assert 'Results on SyntheticEarth, a simulated world' in page
  assert 'http://' not in page.replace('http://www.w3.org', '')
  for name in ('Majority', 'Random forest'):
    assert name.lower() in page.lower()
  for kind in ('labelled', 'unlabelled'):
    assert (quickstart / 'corpora' / f'demo_{kind}' / 'manifest.parquet').exists()
  with rasterio.open(quickstart / 'embedding' / 'embedding.tif') as embedding:
    assert embedding.res == (160, 160)
    assert embedding.count == 8 * 8
    assert embedding.tags()['synthetic'] == 'true'


@pytest.mark.slow
@pytest.mark.parametrize(
  'section',
  [
    'Sample a corpus',
    'Publish it',
    'Package it as TFRecords',
    'Pretrain, fine-tune, test',
    'See what an encoder has learned',
    'Measure it under cloud',
    'Find coal mines',
    'Run a grid of experiments',
    'See the architecture',
    'Embed an area',
    'Share a checkpoint',
    'Find similar places',
    'Detect from a few examples',
    'Write a report',
  ],
)
def test_section(quickstart, served, section):
  lines = typed(section)
  assert lines
  for line in lines:
    command = shlex.split(line)
    own: list[str] = []
    if program(command) == 'deepsentinel.corpus':
      own = SHARED if '--runner' in line else CORNER if 'demo_mines' in line else []
    said = run([*command, *SMALL.get(program(command), []), *own], quickstart, served)
    assert SAYS[program(command)] in said, said
    out = next((part.removeprefix('--out=') for part in command if part.startswith('--out=')), '')
    assert (quickstart / out).exists()


@pytest.mark.slow
def test_scene_of_ones_own(quickstart):
  """The line with placeholders: a patch of the corpus as the files a user would have."""
  patch = next((quickstart / 'corpora' / 'demo_unlabelled' / 'patches').iterdir())
  scene = quickstart / 'S2_20190601'
  scene.mkdir()
  (scene / 'S2_20190601.tif').write_bytes((patch / 's2.tif').read_bytes())
  with rasterio.open(patch / 's1.tif') as stored:
    db = stored.read().astype(np.float32) / 100
    profile = {**stored.profile, 'dtype': 'float32', 'nodata': None, 'predictor': 3}
    with rasterio.open(quickstart / 'S1_20190602.tif', 'w', **profile) as file:
      file.write(db)
      file.descriptions = stored.descriptions
  (line,) = [line for line in all_commands() if '--s1=S1.tif' in line]
  for placeholder, value in (
    ('=RUN', '=runs/tile2vec'), ('=S2_FOLDER', f'={scene.name}'), ('=S1.tif', '=S1_20190602.tif')
  ):  # fmt: skip
    line = line.replace(placeholder, value)
  times = '{"S2_20190601": "2019-06-01T10:00:00Z", "S1_20190602": "2019-06-02T05:00:00Z"}'
  run([*shlex.split(line), f'--option=times={times}'], quickstart)
  with rasterio.open(quickstart / 'maps' / 'scene' / 'embedding.tif') as embedding:
    assert embedding.shape == (4, 4)
    assert np.isfinite(embedding.read()).all()


@pytest.mark.slow
def test_a_map_of_ones_own(tmp_path):
  """The line with a placeholder: tiles over the box, the western half cropland; the pixels without a network."""
  (tmp_path / 'tiles').mkdir()
  profile = {'driver': 'GTiff', 'width': 150, 'height': 400, 'count': 1, 'dtype': 'uint8', 'crs': 4326, 'nodata': 0}
  for west, value in ((10, 40), (25, 10)):
    transform = rasterio.Affine(0.1, 0, west, 0, -0.1, 5)
    with rasterio.open(tmp_path / 'tiles' / f'E{west}_Map.tif', 'w', transform=transform, **profile) as file:
      file.write(np.full((1, 400, 150), value, np.uint8))
  (tmp_path / 'configs').symlink_to(ROOT / 'configs')
  (line,) = [line for line in all_commands() if 'WORLDCOVER_TILES' in line]
  line = line.replace(':planetary_computer', '').replace('WORLDCOVER_TILES', 'tiles')
  run([*shlex.split(line), '--config.patches=4', '--config.patch_px=32'], tmp_path)
  seen = set()
  for path in (tmp_path / 'corpora' / 'africa' / 'patches').glob('*/landcover.tif'):
    with rasterio.open(path) as file:
      values = set(np.unique(file.read()))
      (lon,), _ = rasterio.warp.transform(file.crs, 4326, [file.bounds.left], [file.bounds.top])
    assert values == ({4} if lon < 25 else {1})  # places of Cropland and Tree cover in WorldCover's legend
    seen |= values
  assert seen == {1, 4}


@pytest.mark.slow
def test_records_at_a_url(quickstart):
  """The lines with a bucket: a folder that a web server on loopback shows."""
  publish, train = [line for line in all_commands() if 'gs://BUCKET' in line]
  here = [part.replace('~', str(quickstart)).replace('gs://BUCKET', f'{quickstart}/bucket') for part in publish.split()]
  assert 'Published: ' in run(here, quickstart)
  with loopback.Server(quickstart / 'bucket').running() as server:
    command = shlex.split(train.replace('gs://BUCKET', f'{server.url}/data'))
    said = run([*command, *SMALL['deepsentinel.main']], quickstart)
    assert SAYS['deepsentinel.main'] in said
    assert server.seen['GET'] > 10


def tiny_notebook(
  name: str, work: pathlib.Path, served: Mapping[str, str], settings: Mapping[str, str] | None = None, **options
):
  """A notebook's outputs at a tiny size, on what the quickstart left where it can be used."""
  environment = {
    'DEEPSENTINEL_NOTEBOOK_SIZE': 'tiny', 'DEEPSENTINEL_NOTEBOOK_WORK': str(work),
    'XLA_FLAGS': QUICK_XLA, 'CUDA_VISIBLE_DEVICES': '', 'PYTHONPATH': str(ROOT), **served,
  }  # fmt: skip
  return notebooks.execute(ROOT / 'notebooks' / f'{name}.ipynb', environment, settings=settings, **options)


@pytest.mark.slow
@pytest.mark.parametrize('name', [name for name in NOTEBOOKS if name != 'fine_tune_on_your_labels'])
def test_notebook(quickstart, served, name):
  notebook = tiny_notebook(name, quickstart, served)
  assert len(notebooks.pictures(notebook)) == NOTEBOOKS[name]
  assert 'SyntheticEarth' in notebooks.said(notebook)


@pytest.mark.slow
def test_the_notebook_on_your_labels(quickstart, served):
  """From polygons to a raster and its legend, and from a raster of one's own, those, to the end."""
  drawn = tiny_notebook('fine_tune_on_your_labels', quickstart, served, cells=8)
  [raster], [legend] = ((quickstart / 'labels').glob(f'*_{name}') for name in ('map.tif', 'legend.csv'))
  own = {'MAP': str(raster), 'LEGEND': os.path.relpath(legend, ROOT)}
  ended = tiny_notebook('fine_tune_on_your_labels', quickstart, served, own)
  assert [len(notebooks.pictures(notebook)) for notebook in (drawn, ended)] == [1, 1]
  assert 'farmland' in notebooks.said(drawn)
  assert 'which knows nothing of your labels: IMAGERY names real ones' in notebooks.said(ended)


@pytest.mark.slow
def test_a_notebook_on_a_corpus_of_the_users_own(quickstart, served):
  """Without labels, as most corpora are, of Sentinel-2 alone, and named from the root of the clone."""
  corpus = quickstart / 'corpora' / 'optical'
  run(['python', '-m', 'deepsentinel.corpus', '--config=configs/corpora/demo_unlabelled.py', f'--out={corpus}',
       '--config.source.name=tests.sources.optical:Optical', '--config.patches=3', '--config.patch_px=32',
       '--config.workers=1'], quickstart)  # fmt: skip
  own = {'CORPUS': os.path.relpath(corpus, ROOT)}
  notebook = tiny_notebook('explore_a_corpus', quickstart, served, own)
  assert len(notebooks.pictures(notebook)) == NOTEBOOKS['explore_a_corpus']


def test_notebooks_are_stored_with_what_they_show():
  stored = sorted((ROOT / 'notebooks').glob('*.ipynb'))
  assert [path.stem for path in stored] == sorted(NOTEBOOKS)
  for path in stored:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert path.stat().st_size <= notebooks.MOST_BYTES, path
    assert len(notebooks.pictures(notebook)) == NOTEBOOKS[path.stem], path
    assert 'Traceback' not in notebooks.said(notebook)
    assert not re.search(r'(?<![\w.])/(?:home|root|tmp|work)/', path.read_text()), f'{path} names a folder of a machine'


def test_every_command_is_run():
  """A line added to the README is of a kind that runs here, or is named as run elsewhere."""
  sections = {line for title in re.findall(r'^### (.*)$', README, re.MULTILINE) for line in typed(title)}
  known = {'make quickstart', 'source .venv/bin/activate', *ELSEWHERE, *sections}
  assert [line for line in all_commands() if line not in known and not any(p in line for p in PLACEHOLDERS)] == []
  assert set(SAYS) == {program(shlex.split(line)) for line in sections - set(typed(SLURM))}


def test_every_file_it_names_is_there():
  for target in re.findall(r'\]\(([^)#:]+)\)', README):
    assert (ROOT / target).exists(), target
  for config in re.findall(r'`([a-z0-9_]+)`', README.split('### Package it')[0].split('| config |')[1]):
    assert (ROOT / 'configs' / 'corpora' / f'{config}.py').exists(), config
