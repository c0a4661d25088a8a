import importlib
import pathlib

import pytest

from configs import common, quickstart, variants
from deepsentinel.train import settings


def _changed(**changes):
  config = quickstart.get_config().to_dict()
  for key, value in changes.items():
    *path, last = key.split('__')
    section = config
    for name in path:
      section = section[name]
    section[last] = value
  return config


def test_configs_are_valid():
  settings.check(common.get_config().to_dict())
  settings.check(quickstart.get_config().to_dict())
  for objective, name in (('none', 'none'), ('vae', 'vae'), ('t2v', 'tile2vec'), ('csf', 'contrastive')):
    for encoder in ('resnet18', 'resnet34', 'resnet18attn'):
      for size in common.SIZES:
        config = importlib.import_module(f'configs.{objective}_{encoder}').get_config(size)
        settings.check(config.to_dict())
        assert (config.name, config.size) == (f'{objective}_{encoder}', size)
        assert (config.encoder.name, config.pretrain.objective) == (encoder, name)


VARIANTS = sorted(path.stem for path in pathlib.Path(variants.__file__).parent.glob('[a-z]*.py'))


@pytest.mark.parametrize('name', VARIANTS)
def test_a_variant_changes_one_thing(name):
  config = importlib.import_module(f'configs.variants.{name}').get_config('small')
  settings.check(config.to_dict())
  plain = settings.flatten(
    importlib.import_module(f'configs.{name.split("_")[0]}_resnet18attn').get_config('small').to_dict()
  )
  changed = {key for key, value in settings.flatten(config.to_dict()).items() if plain[key] != value}
  assert 1 <= len(changed - {'name'}) <= 3
  assert config.name == name


def test_an_unknown_size_is_named():
  with pytest.raises(ValueError, match=r"Unknown size 'tiny' after the colon of --config. Known: paper, small"):
    common.get_config('tiny')


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'encoder__name': 'resnet19'}, "Unknown encoder 'resnet19'. Known: resnet10, resnet18, resnet18attn, resnet34"),
    ({'pretrain__objective': 'tile2vek'}, "Unknown config.pretrain.objective 'tile2vek'.*Did you mean 'tile2vec'"),
    ({'pretrain__objective': 'landcover'}, "Unknown config.pretrain.objective 'landcover'. Known: none, "),
    ({'pretrain__objective': 'scene'}, "Unknown config.pretrain.objective 'scene'. Known: none, contrastive, "),
    ({'finetune__target': 'mines'}, "config.finetune.target is 'mines'; allowed: one of .*, osm, mine"),
    ({'finetune__target': 'mine'}, 'config.evaluation.random_forest is True: .* one label a patch'),
    ({'pretrain__tile2vec__neighbour': 'far'}, "config.pretrain.tile2vec.neighbour is 'far'; allowed: one of near"),
    ({'pretrain__tile2vec__loss': 'simclr'}, "config.pretrain.tile2vec.loss is 'simclr'; allowed: one of triplet"),
    (
      {'pretrain__tile2vec__pooling': 'cell'},
      "config.pretrain.tile2vec: .* found pooling 'cell'. Use pooling 'mean'",
    ),
    ({'finetune__learning_rate': -1e-3}, 'config.finetune.learning_rate is -0.001; allowed: a number above 0'),
    ({'finetune__learning_rate': float('nan')}, 'config.finetune.learning_rate is nan'),
    ({'data__crop_px': 100}, 'config.data.crop_px is 100; allowed: a multiple of 16 pixels'),
    ({'pretrain__regions': 0}, 'config.pretrain.regions is 0; allowed'),
    (
      {'pretrain__regions': 3, 'pretrain__batch_size': 1024},
      'does not divide over config.pretrain.regions=3; nearest that do: 1023, 1026.',
    ),
    ({'data__resident': 'gpu'}, "config.data.resident is 'gpu'; allowed: one of never, auto, always"),
    ({'pretrain__sensor_dropout': 1.5}, 'config.pretrain.sensor_dropout is 1.5; allowed: a probability'),
    ({'finetune__target': 'corine_level0'}, "config.finetune.target is 'corine_level0'; allowed: one of corine_level1"),
    ({'finetune__frozen_encoder': 1}, 'config.finetune.frozen_encoder is 1; allowed: True or False'),
    (
      {'pretrain__lerning_rate': 1.0},
      'Unknown config.pretrain.lerning_rate. Did you mean config.pretrain.learning_rate',
    ),
    ({'pretrain__vae__kl_weight': -1.0}, 'config.pretrain.vae.kl_weight is -1.0; allowed: a number, 0 or more'),
    ({'pretrain__vae__kl_wieght': 1.0}, 'Unknown config.pretrain.vae.kl_wieght. Did you mean'),
    ({'pretrain__contrastive__loss': 'simclr'}, "loss is 'simclr'; allowed: one of triplet, infonce"),
    ({'pretrain__contrastive__augment__jitter': 0.1}, 'augment.jitter is 0.1; allowed: two numbers from 0 to 1'),
    ({'pretrain__contrastive__augment__shift_px': (1, 2.5)}, 'augment.shift_px is .*; allowed: two whole numbers'),
    ({'pretrain__objective': 'contrastive', 'pretrain__batch_size': 1}, 'config.pretrain.batch_size is 1; contrastive'),
    (
      {'pretrain__objective': 'contrastive', 'pretrain__batch_size': 16, 'pretrain__accumulate': 16},
      'config.pretrain.accumulate=16 takes the batch of 16 in parts of one',
    ),
    ({'pretrain__tile2vec__neighbour_scale_km': 'far'}, "is 'far'; allowed: 'auto' or a number above 0"),
    ({'pretrain__tile2vec__neighbour_scale_km': '0'}, "is '0'; allowed: 'auto' or a number above 0"),
    (
      {'pretrain__objective': 'deepsentinel.objectives.landcover:LandCover'},
      "has views='labelled'; pretraining takes one of pair, single, triplet",
    ),
    ({'pretrain__objective': 'deepsentinel.objectives.vae:VEA'}, "module deepsentinel.objectives.vae has no 'VEA'"),
    ({'pretrain__warmup_steps': 400}, 'config.pretrain.warmup_steps=400 leaves no step of config.pretrain.duration'),
    ({'finetune__schedule': 'step'}, "config.finetune.schedule is 'step'; allowed: one of constant, cosine"),
    ({'finetune__label_fraction': 0}, 'config.finetune.label_fraction is 0; allowed: a share above 0'),
    ({'pretrain__probe_every_steps': 5, 'data__labelled': ''}, 'config.pretrain.probe_every_steps=5 probes label maps'),
    ({'finetune__folds': 1}, 'config.finetune.folds is 1; allowed: 0, or a whole number of folds'),
    ({'dtype': 'float16'}, "config.dtype is 'float16'; allowed: one of float32, bfloat16"),
    ({'data__bands': 'B2,VV,B3'}, 'Sentinel-2 bands come before'),
    ({'data__labelled': '', 'pretrain__objective': 'none'}, 'nothing to do'),
    (
      {'finetune__duration': {'steps': 3, 'epochs': 1.0, 'examples': 0}},
      'config.finetune.duration must have exactly one',
    ),
    ({'finetune__duration': {'steps': 0, 'epochs': 0.0, 'examples': 0}}, 'found steps=0, epochs=0.0, examples=0'),
  ],
)
def test_wrong_values_are_named(changes, message):
  with pytest.raises(ValueError, match=message):
    settings.check(_changed(**changes))


def test_a_number_where_a_word_may_stand_and_an_objective_of_ones_own():
  for scale in ('auto', '5', '5.5', 5.5):
    settings.check(_changed(pretrain__tile2vec__neighbour_scale_km=scale))
  settings.check(_changed(pretrain__objective='deepsentinel.objectives.vae:VAE'))


def test_what_would_do_nothing_to_the_bands_is_refused():
  plain = {'sensor_dropout': 0.0, 'masked_cloud': 0.0, 'painted_cloud': 0.0, 'cloud_shadow': 0.0}
  settings.require_effect(plain, 'finetune', ('VV',))
  settings.require_effect({**plain, 'sensor_dropout': 0.3, 'cloud_shadow': 0.1}, 'finetune', ('B2', 'VV'))
  settings.require_effect({**plain, 'painted_cloud': 0.3}, 'finetune', ('B2', 'B3'))
  with pytest.raises(ValueError, match=r'config.pretrain.sensor_dropout is 0.3.*sentinel2 alone. Pass --config.pretra'):
    settings.require_effect({**plain, 'sensor_dropout': 0.3}, 'pretrain', ('B2', 'B3'))
  with pytest.raises(ValueError, match=r'painted_cloud=0 --config.finetune.cloud_shadow=0\.'):
    settings.require_effect({**plain, 'painted_cloud': 0.3, 'cloud_shadow': 0.1}, 'finetune', ('VV', 'VH'))


def test_missing_key_is_named():
  config = quickstart.get_config().to_dict()
  del config['finetune']['batch_size']
  with pytest.raises(ValueError, match=r'config\.finetune\.batch_size is missing'):
    settings.check(config)


@pytest.mark.parametrize(
  ('duration', 'steps'),
  [({'steps': 7}, 7), ({'epochs': 2.5}, 25), ({'examples': 64}, 8), ({'epochs': 0.01}, 1)],
)
def test_durations(duration, steps):
  """80 examples in batches of 8: ten steps an epoch."""
  whole = {'steps': 0, 'epochs': 0, 'examples': 0, **duration}
  assert settings.total_steps(whole, 80, 8, 'pretrain.duration') == steps
