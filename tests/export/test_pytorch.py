"""The exported weights in PyTorch, through the file that is exported with them: the same numbers as in JAX."""

import functools
import importlib.util
import subprocess
import sys

import jax
import numpy as np
import pytest

from deepsentinel import registry
from deepsentinel.encoders import standardise
from deepsentinel.export import folder
from deepsentinel.train import checkpoint
from tests import untrained

torch = pytest.importorskip('torch', reason='PyTorch is a test-only peer: make peers')

PX = 48
KNOWN = [name for name in registry.known('encoder') if name in ('resnet18', 'resnet18attn', 'resnet34')]


def export(run, out):
  """(the model in JAX, the model in PyTorch) of a run, each through the exported folder alone."""
  done = folder.export(run, out, pytorch=True)
  spec = importlib.util.spec_from_file_location('modeling_deepsentinel', done.folder / 'modeling_deepsentinel.py')
  modeling = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(modeling)
  return checkpoint.load_trained(done.folder), modeling.DeepSentinel.from_pretrained(done.folder)


def stored(seed=0, px=PX):
  """Two patches in storage units, with pixels and a whole corner without data."""
  rng = np.random.default_rng(seed)
  s2 = rng.integers(1, 6000, (2, px, px, 4)).astype(np.uint16)
  s1 = rng.integers(-2500, -300, (2, px, px, 2)).astype(np.int16)
  s2[0, :16, :16], s1[1, 5, 7] = 0, -32768
  return {'s2': s2, 's1': s1}


def in_jax(trained, batch, present=None):
  """Embedding and feature map by the library's own way from stored integers to standardised images."""
  views = {field: values[:, None] for field, values in batch.items()}
  values, valid = standardise.physical(views, trained.spec, trained.bands)
  statistics = trained.statistics
  images = standardise.standardise(values, valid, np.array(statistics['mean']), np.array(statistics['std']))[:, 0]
  return images, trained.encode(images, present)


def in_torch(model, batch, present=None):
  numbers = np.concatenate([batch['s2'].astype(np.int32), batch['s1'].astype(np.int32)], -1).transpose(0, 3, 1, 2)
  with torch.no_grad():
    return model(model.physical(torch.from_numpy(numbers.copy())), None if present is None else torch.tensor(present))


def assert_close(theirs, ours):
  ours = np.asarray(ours)
  assert np.abs(theirs.numpy() - ours).max() <= 1e-4 * np.abs(ours).max()


@pytest.mark.parametrize('name', KNOWN)
def test_an_encoder_gives_the_same_embeddings(name, tmp_path):
  objective = 'vae' if name == 'resnet18' else 'tile2vec'  # whose decoder is no header
  run = untrained.save(tmp_path / 'run', stage='pretrain', encoder=name, objective=objective)
  trained, model = export(run, tmp_path / 'out')
  assert ('header' in trained.variables['params']) == (objective == 'vae')
  assert model.bands == trained.bands
  present = np.array([[True] * 6, [True] * 4 + [False] * 2])
  for batch, there in ((stored(), None), (stored(1), present)):
    _, ours = in_jax(trained, batch, there)
    theirs = in_torch(model, batch, there)
    assert theirs.logits is None
    assert_close(theirs.embedding, ours.embedding)
    assert_close(theirs.feature_map.permute(0, 2, 3, 1), ours.feature_map)
  everything, without_radar = (in_torch(model, stored(1), there).embedding[1] for there in (None, present))
  assert not torch.allclose(everything, without_radar, rtol=1e-2)


@pytest.mark.parametrize(
  ('target', 'shape', 'shown'), [('corine_level1', (2, PX, PX, 5), ()), ('mine', (2, 2), ('VV', 'VH'))]
)
def test_a_header_predicts_the_same(target, shape, shown, tmp_path):
  run = untrained.save(tmp_path / 'run', encoder='resnet18', target=target, bands=','.join(shown))
  trained, model = export(run, tmp_path / 'out')
  assert model.classes == trained.classes
  assert trained.shown == shown
  assert model.shown == (shown or trained.bands)
  card = (tmp_path / 'out' / 'README.md').read_text()
  for words in ('fine-tuned and tested on VV, VH alone', '# It sees VV, VH alone'):
    assert (words in card) == bool(shown)
  assert ('--s2=' in card) == (not shown)
  batch = stored(2)
  images, _ = in_jax(trained, batch)
  seen = np.array([band in model.shown for band in model.bands])
  inputs = {'images': images[:, None], 'present': np.broadcast_to(seen, (2, 1, 6))}
  ours = jax.jit(functools.partial(trained.module.apply, method='predict'))(trained.variables, inputs)
  assert ours.shape == shape
  logits = in_torch(model, batch).logits
  assert_close(logits.movedim(1, -1), ours)
  model.train()  # and it can be trained on
  out = model(torch.rand(2, 6, 32, 32)).logits
  out.square().mean().backward()
  assert all(parameter.grad is not None for parameter in model.parameters())
  with pytest.raises(ValueError, match=r'Pixels are \[B, 6, H, W\] of'):
    model(torch.rand(2, 5, 32, 32))


def test_the_lines_of_the_card_run_without_jax_and_without_deepsentinel(tmp_path):
  out = folder.export(untrained.save(tmp_path / 'run', stage='pretrain'), tmp_path / 'out').folder
  lines = (out / 'README.md').read_text().split('```python\n')[1].split('```')[0]
  lines += "import sys\nassert not {'jax', 'flax', 'deepsentinel'} & set(sys.modules)\n"
  result = subprocess.run([sys.executable, '-c', lines], cwd=out, capture_output=True, text=True, check=False)
  assert result.returncode == 0, result.stderr
  assert 'torch.Size([1, 64]) torch.Size([1, 64, 4, 4])' in result.stdout
