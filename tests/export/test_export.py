"""python -m deepsentinel.export: what is in the folder, that it is loaded as the run, and what it refuses."""

import hashlib
import json
import pathlib
import re
import shutil
import subprocess

import jax
import numpy as np
import pytest
import yaml

from deepsentinel.evaluation import metrics
from deepsentinel.export import folder
from deepsentinel.train import checkpoint, exported
from tests import commands, untrained

OWN = 'tests.train.tiny_model:TinyEncoder'


@pytest.fixture(scope='module')
def run(tmp_path_factory) -> pathlib.Path:
  """A run with both stages, and scores of its test."""
  made = tmp_path_factory.mktemp('runs') / 'drawn'
  untrained.save(made, stage='pretrain')
  untrained.save(made)
  confusion = np.diag([8, 6, 4, 2, 0]) + 1
  scores = {
    'target': 'corine_level1', 'classes': [], 'test_patches': 12, 'data': 'tiny', 'synthetic': True,
    'methods': {'model': metrics.method(confusion, seconds=1.0), 'majority': metrics.method(np.eye(5, dtype=int))},
  }  # fmt: skip
  (made / 'test.json').write_text(json.dumps(scores))
  return made


@pytest.fixture(scope='module')
def shared(run, tmp_path_factory) -> pathlib.Path:
  out = tmp_path_factory.mktemp('shared') / 'my model'
  finished = commands.run('deepsentinel.export', f'--checkpoint={run}', f'--out={out}', '--licence=cc-by-4.0')
  assert finished.code == 0, finished.err
  assert 'SyntheticEarth' in finished.out
  digest = hashlib.sha256((out / 'model.safetensors').read_bytes()).hexdigest()
  assert f'weights: #sha256={digest}' in finished.out
  return out


def same(a, b) -> None:
  """Two trained models, array by array and bit by bit."""
  assert jax.tree.structure(a.variables) == jax.tree.structure(b.variables)
  for x, y in zip(jax.tree.leaves(a.variables), jax.tree.leaves(b.variables), strict=True):
    assert (x.dtype, x.shape) == (y.dtype, y.shape)
    np.testing.assert_array_equal(x, y)
  assert a.sha256 == b.sha256
  for key in ('stage', 'spec', 'statistics', 'subsets', 'synthetic', 'classes', 'step', 'crop_px'):
    assert getattr(a, key) == getattr(b, key), key


def test_the_folder_is_loaded_as_the_run(run, shared):
  same(checkpoint.load_trained(shared), checkpoint.load_trained(run))
  pin = hashlib.sha256((shared / 'model.safetensors').read_bytes()).hexdigest()
  for name in (f'{shared}#sha256={pin}', f'{shared}@sha256:{pin}', f'file://{shared}', f'file://{shared}#sha256={pin}'):
    assert checkpoint.load_trained(name, 'finetune').sha256 == checkpoint.load_trained(run).sha256


def test_every_file_is_in_the_sums(shared):
  said = subprocess.run(['sha256sum', '-c', 'SHA256SUMS'], cwd=shared, capture_output=True, text=True, check=True)
  assert sorted(line.partition(': ')[0] for line in said.stdout.splitlines()) == sorted(
    set(folder.FILES) - {'SHA256SUMS', 'robustness.png'}  # of an evaluation
  )


def test_the_contract_says_what_the_model_takes_and_no_place_of_this_machine(run, shared):
  about = json.loads((shared / 'model.json').read_text())
  assert [channel['band'] for channel in about['channels']] == list(untrained.BANDS)
  assert [channel['unit'] for channel in about['channels']] == ['reflectance (0 to 1)'] * 4 + ['dB'] * 2
  assert [channel['mean'] for channel in about['channels']] == about['statistics']['mean']
  assert about['sentinel2']['level'] == 'L2A'
  assert about['sentinel1']['quantity'] == 'sigma0_ellipsoid'
  assert about['subsets'] == [['VV', 'VH'], ['B2', 'B3', 'B4', 'B8']]
  assert about['shown'] == []
  assert (about['crop_px'], about['synthetic'], len(about['classes'])) == (32, True, 5)
  for path in shared.iterdir():
    assert b'/home/someone' not in path.read_bytes(), path


def test_the_card(shared):
  text = (shared / 'README.md').read_text()
  front = yaml.safe_load(text.split('---\n')[1])
  assert front['license'] == 'cc-by-4.0'
  assert {'sentinel-1', 'synthetic-data', 'pytorch'} <= set(front['tags'])
  (result,) = front['model-index'][0]['results']
  measured = {metric['type']: metric['value'] for metric in result['metrics']}
  # 25 pixels of the diagonal are right of 45.
  assert measured['overall_accuracy'] == round(25 / 45, 4)
  assert 'simulated' in result['dataset']['name']
  assert 'Trained on SyntheticEarth, a simulated world. Not for real imagery' in text
  assert '| 4 | VV, C-band' in text
  (pin,) = set(re.findall(r'#sha256=([0-9a-f]{64})', text))
  assert pin == hashlib.sha256((shared / 'model.safetensors').read_bytes()).hexdigest()


def test_the_same_command_completes_what_was_killed_and_writes_the_same_bytes(run, shared, tmp_path):
  out = tmp_path / 'my model'
  out.mkdir()
  (out / 'model.json').write_bytes((shared / 'model.json').read_bytes())
  (out / '.model.safetensors.partial').write_bytes(b'half')
  with pytest.raises(ValueError, match='not finished'):
    checkpoint.load_trained(out)
  for _ in range(2):
    folder.export(run, out, licence='cc-by-4.0')
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
      path.name: path.read_bytes() for path in shared.iterdir()
    }


def test_the_pretrained_encoder(run, tmp_path):
  done = folder.export(run, tmp_path / 'encoder', stage='pretrain', pytorch=False)
  assert done.files == ('README.md', 'model.json', 'model.safetensors', 'SHA256SUMS')
  assert any('no licence' in note for note in done.notes)
  same(checkpoint.load_trained(done.folder, 'pretrain'), checkpoint.load_trained(run, 'pretrain'))
  text = (done.folder / 'README.md').read_text()
  assert 'pretrain.from_checkpoint' in text
  assert 'after fine-tuning to corine_level1' in text
  assert 'model-index' not in text  # the scores are of another model that was made of it
  with pytest.raises(ValueError, match='holds the model of the pretrain stage; finetune is asked for'):
    checkpoint.load_trained(done.folder, 'finetune')


def test_an_encoder_of_ones_own_has_flax_weights_only(tmp_path):
  run = untrained.save(tmp_path / 'run', stage='pretrain', encoder=OWN, width=4)
  with pytest.raises(ValueError, match=r'encoders resnet18, resnet18attn, resnet34; this one is tests\.train'):
    folder.export(run, tmp_path / 'out', pytorch=True)
  assert not (tmp_path / 'out').exists()
  done = folder.export(run, tmp_path / 'out')
  assert 'pytorch_model.safetensors' not in done.files
  assert any('Leave out --pytorch' in note for note in done.notes)
  same(checkpoint.load_trained(done.folder), checkpoint.load_trained(run))


def truncate(path: pathlib.Path) -> None:
  path.write_bytes(path.read_bytes()[:-100])


def alter(path: pathlib.Path) -> None:
  path.write_bytes(path.read_bytes()[:-1] + b'x')


def swap_contract(path: pathlib.Path) -> None:
  """Another model.json, with a checksum in SHA256SUMS that fits it."""
  other = path.read_bytes().replace(b'"L2A"', b'"L1C"')
  sums = path.with_name('SHA256SUMS')
  digests = [hashlib.sha256(content).hexdigest() for content in (path.read_bytes(), other)]
  sums.write_text(sums.read_text().replace(*digests))
  path.write_bytes(other)


@pytest.mark.parametrize(
  ('name', 'damage', 'says'),
  [
    ('model.safetensors', truncate, 'model.safetensors is damaged or altered: its SHA-256 is not that in SHA256SUMS'),
    ('model.safetensors', alter, 'is damaged or altered'),
    ('model.json', alter, 'model.json is damaged or altered'),
    ('model.json', swap_contract, 'model.json is not the one that model.safetensors was exported with'),
    ('model.safetensors', pathlib.Path.unlink, 'has no model.safetensors'),
    ('SHA256SUMS', pathlib.Path.unlink, 'the export or the copy is not finished'),
  ],
)
def test_a_damaged_folder_is_refused(shared, tmp_path, name, damage, says):
  copied = pathlib.Path(shutil.copytree(shared, tmp_path / 'copy'))
  damage(copied / name)
  with pytest.raises(ValueError, match=re.escape(says)) as error:
    checkpoint.load_trained(copied)
  assert 'Copy the folder again from where it came, or export it again' in str(error.value)


def test_pins_that_do_not_fit(run, shared):
  with pytest.raises(ValueError, match=f'holds other weights than those pinned.*asked for {"0" * 64}'):
    checkpoint.load_trained(f'{shared}#sha256={"0" * 64}')
  with pytest.raises(ValueError, match=r'a pin is the 64 hexadecimal digits .* found 4'):
    checkpoint.load_trained(f'{shared}@sha256:abcd')
  with pytest.raises(ValueError, match='only an exported checkpoint is pinned'):
    checkpoint.load_trained(f'{run}#sha256={"0" * 64}')


def test_what_is_not_exported(run, shared, tmp_path):
  (tmp_path / 'file').write_text('')
  (tmp_path / 'mine').mkdir()
  (tmp_path / 'mine' / 'notes.txt').write_text('mine')
  for source, out, options, says in (
    (run, tmp_path / 'file', {}, 'is a file. Choose a folder'),
    (run, tmp_path / 'mine', {}, r'holds other files \(notes.txt\)'),
    (run, shared, {'stage': 'pretrain'}, 'holds another checkpoint .* Choose another folder'),
    (run, tmp_path / 'out', {'licence': 'MIT License'}, 'no identifier of a licence'),
    (shared, tmp_path / 'out', {}, 'was exported already'),
    (tmp_path / 'nothing', tmp_path / 'out', {}, 'No checkpoint in'),
  ):
    with pytest.raises(ValueError, match=says):
      folder.export(source, out, **options)
  assert not (tmp_path / 'out').exists()
  assert (tmp_path / 'mine' / 'notes.txt').read_text() == 'mine'
  assert exported.is_exported(shared)
