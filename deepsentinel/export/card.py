"""The model card of an exported checkpoint: README.md, with the front matter that Hugging Face reads."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from deepsentinel import sensors
from deepsentinel.export import measured
from deepsentinel.export.evaluations import Evaluation
from deepsentinel.train import exported

FILE = 'README.md'
_SYNTHETIC = (
  '> **Trained on SyntheticEarth, a simulated world. Not for real imagery:** its pixels and labels are computed, and '
  'no number here says anything about the Earth.'
)
_SCORES = {'weighted_iou': 'weighted IoU', 'macro_iou': 'macro IoU', 'overall_accuracy': 'overall accuracy',
           'f1': 'F1', 'roc_auc': 'ROC-AUC', 'average_precision': 'average precision'}  # fmt: skip
_METHODS = {'model': 'this model', 'majority': 'majority class', 'random_forest': 'random forest, per pixel',
            'band_statistics': 'band statistics'}  # fmt: skip
_USES = {'train': 'fine-tuning', 'validation': 'validation', 'test': 'test', 'pretrain': 'pretraining'}


def text(
  name: str,
  about: Mapping[str, Any],
  scores: Mapping[str, Any],
  *,
  licence: str,
  sha256: str,
  pytorch: bool,
  found: Sequence[Evaluation] = (),
) -> str:
  """README.md.

  Args:
    name: of the model.
    about: model.json.
    scores: test.json of the run; empty where it was not tested.
    licence: of the weights; '' where none is stated.
    sha256: of model.safetensors.
    pytorch: whether weights for PyTorch are there.
    found: evaluations of these very weights.
  """
  title = 'SyntheticEarth, a simulated world' if about['synthetic'] else 'Sentinel-1 and Sentinel-2'
  lines = [*_front_matter(name, about, scores, licence, pytorch, found), '', f'# {name}', '']
  lines += [_SYNTHETIC, ''] if about['synthetic'] else []
  encoder = about['encoder']
  what = (
    f'predicts {about["target"]} ({", ".join(about["classes"])})'
    if about['classes']
    else f'gives an embedding of {encoder["features"]} numbers for every 160 m'
  )
  lines += [
    f'A DeepSentinel model of {title} that {what}. Encoder {encoder["name"]}, {encoder["width"]} channels in the stem, '
    f'{encoder["features"]} features; step {about["step"]} of the {about["stage"]} stage.',
    '',
    *_use(name, about, sha256, pytorch),
    *_input(about),
    *_training(about),
    *_scores(about, scores),
    *measured.sections(found, about['sha256_of_parameters'], about['target']),
    *_limits(about),
    *_licence(about, licence),
  ]
  return '\n'.join(lines).rstrip() + '\n'


def _front_matter(name, about, scores, licence: str, pytorch: bool, evaluated) -> list[str]:
  tags = ['sentinel-1', 'sentinel-2', 'remote-sensing', 'earth-observation', 'deepsentinel', 'jax', 'flax']
  tags += ['pytorch'] if pytorch else []
  tags += ['synthetic-data'] if about['synthetic'] else []
  pixels = len(about['classes']) > 0 and about['target'] != 'Coal mines'
  task = 'image-segmentation' if pixels else 'image-classification' if about['classes'] else 'image-feature-extraction'
  front: dict[str, Any] = {'library_name': 'deepsentinel', 'pipeline_tag': task, 'tags': tags}
  if licence:
    front['license'] = licence
  found = (scores.get('methods') or {}).get('model', {})
  of_test = [
    {'type': key, 'name': title, 'value': round(float(found[key]), 4)}
    for key, title in _SCORES.items()
    if isinstance(found.get(key), int | float)
  ]
  results = []
  if of_test and about['classes']:
    dataset = measured.dataset({'data': scores.get('data', 'unnamed'), 'synthetic': about['synthetic']})
    results.append({'task': {'type': task}, 'dataset': dataset, 'metrics': of_test})
  results += measured.model_index(evaluated, about['sha256_of_parameters'], about['target'])
  if results:
    front['model-index'] = [{'name': name, 'results': results}]
  return ['---', yaml.safe_dump(front, sort_keys=False, allow_unicode=True).rstrip(), '---']


def _use(name, about, sha256: str, pytorch: bool) -> list[str]:
  place = f'{name}#sha256={sha256}'
  lines = [
    '## Use it',
    '',
    'With DeepSentinel (JAX), by folder or by URL; the checksum, which is optional, pins it:',
    '',
  ]
  spec = sensors.SensorSpec.from_dict(about['spec'])
  spec = spec.select(about['shown'] or spec.bands)
  scenes = ['--s2=S2_FOLDER --s2_unit=reflectance_x1e4'] if spec.s2_bands else []
  scenes += [f'--s1=S1.tif --s1_unit=db --s1_quantity={spec.s1_quantity}'] if spec.s1_bands else []
  lines += ['```sh', f"python -m deepsentinel.embed --checkpoint='{place}' \\",
            f'  {" ".join(scenes)} --out=maps/scene']  # fmt: skip
  if about['stage'] == 'pretrain':
    encoder = about['config']['encoder']
    lines += ['python -m deepsentinel.main --config=configs/none_resnet18.py --workdir=runs/mine \\',
              f'  --config.encoder.name={encoder["name"]} --config.encoder.width={encoder["width"]} \\',
              f"  --config.pretrain.from_checkpoint='{place}'"]  # fmt: skip
  lines += ['```', '']
  if pytorch:
    seen = [f'# It sees {", ".join(about["shown"])} alone: the others may hold anything.'] if about['shown'] else []
    lines += [
      'With PyTorch, which needs `torch` and `safetensors` alone; run it in this folder:',
      '',
      '```python',
      'import torch',
      'from modeling_deepsentinel import DeepSentinel',
      '',
      "model = DeepSentinel.from_pretrained('.')",
      'pixels = torch.rand(1, len(model.bands), 64, 64)  # reflectance (0 to 1) and dB in the order of model.bands',
      *seen,
      'out = model(pixels)  # NaN stands for no data; `present` leaves bands out',
      'print(model.bands, out.embedding.shape, out.feature_map.shape)',
      '```',
      '',
    ]
  lines += [f'`sha256sum -c {exported.SUMS}` checks the files.', '']
  return lines


def _input(about) -> list[str]:
  lines = ['## What it takes', '', '| channel | band | unit | mean | standard deviation |', '|---|---|---|---|---|']
  for i, channel in enumerate(about['channels']):
    lines.append(
      f'| {i} | {channel["band"]}, {channel["description"]} | {channel["unit"]} | {channel["mean"]:.4g} | '
      f'{channel["std"]:.4g} |'
    )
  lines.append('')
  if about['sentinel2']:
    lines.append(f'- Sentinel-2 {about["sentinel2"]["level"]}: {about["sentinel2"]["offset"]}.')
  if about['sentinel1']:
    lines.append(f'- Sentinel-1 {about["sentinel1"]["quantity"]}, in dB.')
  subsets = '; '.join(' '.join(subset) for subset in about['subsets']) or 'none: it needs all of them'
  if about['shown']:
    lines.append(
      f'- It was fine-tuned and tested on {", ".join(about["shown"])} alone (`config.data.bands`): DeepSentinel reads '
      'no other band, and to PyTorch the others are absent, whatever they hold.'
    )
  lines += [
    f'- Pixels of {about["pixel_m"]} m; trained on crops of {about["crop_px"]} x {about["crop_px"]}.',
    f'- No data: {about["nodata"]}.',
    f'- Parts of the bands that it was trained to work with: {subsets}.',
    '',
    f'`{exported.CONTRACT}` says the same to a program.',
    '',
  ]
  return lines


def _training(about) -> list[str]:
  training = about['training']
  if not training:
    return []
  objective = training.get('objective') or 'none'
  lines = ['## Training', '', f'Pretraining: {"none" if objective == "none" else objective}. Record sets:', '']
  wanted = ('pretrain',) if about['stage'] == 'pretrain' else _USES
  for use, data in training['data'].items():
    if use in wanted:
      count = data.get('used', data['patches'])
      lines.append(f'- {_USES.get(use, use)}: {data["name"]}, {count:,} patches')
  for stage, facts in training['stages'].items():
    lines.append(f'- {stage}: {facts["steps"]:,} steps of {facts["batch_size"]} examples')
  commit = training.get('git_commit')
  lines += [f'- code: DeepSentinel {commit[:12]}'] if commit else []
  return [*lines, '']


def _scores(about, scores) -> list[str]:
  methods = scores.get('methods') or {}
  if not methods:
    return ['## Scores', '', 'It was not tested.', '']
  model = methods.get('model', {})
  keys = [key for key in _SCORES if isinstance(model.get(key), int | float)]
  where = f'{scores.get("test_patches", 0):,} test patches of {scores.get("data", "an unnamed record set")}'
  if about['stage'] == 'pretrain':
    lead = f'Of this encoder after fine-tuning to {scores.get("target")}, on {where}'
  else:
    lead = f'{about["target"]}, on {where}'
  lead += ', on **SyntheticEarth, a simulated world**:' if about['synthetic'] else ':'
  lines = ['## Scores', '', lead, '', '| | ' + ' | '.join(_SCORES[key] for key in keys) + ' |']
  lines.append('|---|' + '---|' * len(keys))
  for method, found in methods.items():
    numbers = (f'{found[key]:.3f}' if isinstance(found.get(key), int | float) else '–' for key in keys)
    lines.append(f'| {_METHODS.get(method, method)} | ' + ' | '.join(numbers) + ' |')
  if about['classes'] and model.get('iou'):
    lines += ['', '| class | IoU | share of the test pixels |', '|---|---|---|']
    for label, iou, share in zip(about['classes'], model['iou'], model['reference_share'], strict=True):
      lines.append(f'| {label} | {"–" if iou is None else f"{iou:.3f}"} | {share or 0:.1%} |')
  return [*lines, '']


def _limits(about) -> list[str]:
  lines = ['## Limits', '']
  if about['synthetic']:
    lines.append('- It knows SyntheticEarth only. Train on real imagery before you use it on any.')
  if about['sentinel1']:
    lines.append(
      f'- Radar of another quantity than {about["sentinel1"]["quantity"]} is refused by DeepSentinel; PyTorch cannot '
      'tell it.'
    )
  lines += [
    '- Clouds are left in the training pixels. A cell that only they cover is described by the radar at best.',
    '- Seasons, regions and processing baselines outside those of the record sets were not tested.',
  ]
  if about['config'].get('dtype', 'float32') != 'float32':
    lines.append(f'- DeepSentinel computes it in {about["config"]["dtype"]}, PyTorch in float32: they differ a little.')
  return [*lines, '']


def _licence(about, licence: str) -> list[str]:
  lines = ['## Licence', '']
  lines.append(f'Weights: {licence}.' if licence else 'The weights bear no licence yet: ask who shared them.')
  if not about['synthetic']:
    lines.append(
      'Trained on modified Copernicus Sentinel data. Where labels were used: CORINE Land Cover, European Union, '
      'Copernicus Land Monitoring Service, European Environment Agency; OpenStreetMap, © OpenStreetMap contributors, '
      'Open Database Licence 1.0.'
    )
  return [*lines, '']
