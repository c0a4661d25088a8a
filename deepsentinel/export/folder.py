"""Writes the folder of an exported checkpoint; `train.exported` reads it."""

import dataclasses
import hashlib
import importlib.resources
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from deepsentinel import legend, provenance, sensors
from deepsentinel.export import card, evaluations, pytorch
from deepsentinel.train import checkpoint, exported
from deepsentinel.train.trained import Trained

FILES = (
  exported.CONTRACT, exported.WEIGHTS, pytorch.WEIGHTS, pytorch.MODULE, card.FILE, evaluations.PICTURE, exported.SUMS,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Exported:
  """What was written.

  Attributes:
    folder: where.
    files: their names.
    sha256: of model.safetensors, which pins the checkpoint.
    notes: what the user should know, a sentence each.
  """

  folder: pathlib.Path
  files: tuple[str, ...]
  sha256: str
  notes: tuple[str, ...] = ()


def export(
  source: str | pathlib.Path,
  out: pathlib.Path,
  *,
  stage: str | None = None,
  licence: str = '',
  pytorch: bool | None = None,
  evaluation: Sequence[str] = (),
) -> Exported:
  """Exports a checkpoint; the same call completes a folder that a killed one left, and writes the same bytes again.

  Args:
    source: a run's directory, or the directory of one of its stages.
    out: the folder to share; made if it is not there. Its name is the model's.
    stage: 'pretrain' or 'finetune'; None takes the fine-tuned model where there is one.
    licence: of the weights, as Hugging Face names it; '' where none is stated yet.
    pytorch: True writes weights for PyTorch or raises, False leaves them out, None writes them where it can.
    evaluation: folders, or JSON files, that `python -m deepsentinel.evaluate` wrote of this checkpoint.
  Raises:
    ValueError: no checkpoint, one that was exported already, a folder with something else in it, a licence that is no
      identifier, an encoder that PyTorch does not know, though it was asked for, or an evaluation that cannot be read
      or is of another checkpoint.
  """
  out = pathlib.Path(out).expanduser()
  _require_free(out)
  if licence and not re.fullmatch(r'[a-z0-9][a-z0-9.-]*', licence):
    raise ValueError(
      f'--licence={licence!r} is no identifier of a licence. Pass one in lower case such as cc-by-4.0, apache-2.0, mit '
      "or 'other'."
    )
  evaluated = evaluations.read(evaluation)
  trained = checkpoint.load_trained(source, stage)
  if exported.is_exported(trained.directory):
    raise ValueError(f'{source} was exported already: copy that folder. --checkpoint takes a run.')
  evaluations.require_of(evaluated, trained)
  files, notes = files_of(trained, out.resolve().name, licence, pytorch, evaluated)
  there = out / exported.CONTRACT
  if there.exists() and (found := _weights_in(there)) != trained.sha256:
    raise ValueError(
      f'--out={out} holds another checkpoint (its parameters have SHA-256 {found[:12] or "none"}..., these '
      f'{trained.sha256[:12]}...). Choose another folder, or remove that one.'
    )
  out.mkdir(parents=True, exist_ok=True)
  for name in set(FILES) - set(files):
    (out / name).unlink(missing_ok=True)  # SHA256SUMS first of all: until it is written again this is not whole
  for name, content in files.items():
    with provenance.whole(out / name) as file:
      file.write(content)
  digests = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
  with provenance.whole(out / exported.SUMS) as file:
    file.write(''.join(f'{digest}  {name}\n' for name, digest in digests.items()).encode())
  return Exported(out, (*sorted(files), exported.SUMS), digests[exported.WEIGHTS], tuple(notes))


def files_of(
  trained: Trained,
  name: str,
  licence: str = '',
  with_pytorch: bool | None = None,
  found: Sequence[evaluations.Evaluation] = (),
) -> tuple[dict[str, bytes], list[str]]:
  """Content of every file but SHA256SUMS, by name; and notes.

  Args:
    trained: of a run, from `checkpoint.load_trained`.
    name: of the model.
    licence, with_pytorch: as for `export`.
    found: evaluations of this checkpoint.
  Raises:
    ValueError: PyTorch is asked for and does not know the encoder.
  """
  notes: list[str] = []
  layers: dict[str, Any] = {}
  if with_pytorch is not False:
    try:
      layers = pytorch.layers(trained)
    except ValueError as error:
      if with_pytorch:
        raise
      notes.append(str(error))
  run = _run_of(trained)
  about = {**contract(trained), 'pytorch': layers or None, 'training': _training(run, trained.stage)}
  described = (json.dumps(about, indent=1) + '\n').encode()
  files = {exported.CONTRACT: described, exported.WEIGHTS: exported.save_weights(trained.variables, described)}
  if layers:
    files[pytorch.WEIGHTS] = pytorch.save(trained)
    files[pytorch.MODULE] = (importlib.resources.files('deepsentinel.export') / pytorch.MODULE).read_bytes()
  sha256 = hashlib.sha256(files[exported.WEIGHTS]).hexdigest()
  scores = _read_json(run / 'test.json')
  text = card.text(name, about, scores, licence=licence, sha256=sha256, pytorch=bool(layers), found=found)
  files[card.FILE] = text.encode()
  for one in found:
    if one.picture:
      files[evaluations.PICTURE] = one.picture
  if trained.synthetic:
    notes.append('Trained on SyntheticEarth, a simulated world: the card says so.')
  if not licence:
    notes.append('The card states no licence of the weights: pass --licence=... before you share them.')
  return files, notes


def contract(trained: Trained) -> dict[str, Any]:
  """model.json: what the weights take and give, in plain JSON values.

  'channels' has, in the order of the model's input, each band with unit, mean and standard deviation; 'spec',
  'statistics', 'subsets', 'config' and 'stage' are those of the checkpoint; 'shown' names the bands of a fine-tuned
  model to which all others are absent, and is empty where it sees all.
  """
  spec, encoder = trained.spec, trained.module.encoder
  channels = []
  for band, mean, std in zip(trained.bands, trained.statistics['mean'], trained.statistics['std'], strict=True):
    what = sensors.BANDS[band]
    optical = what.sensor == 'sentinel2'
    channels.append(
      {
        'band': band, 'sensor': what.sensor, 'description': what.description, 'wavelength_nm': what.wavelength_nm,
        'native_gsd_m': what.native_gsd_m, 'unit': 'reflectance (0 to 1)' if optical else 'dB',
        'stored_scale': sensors.S2_SCALE if optical else sensors.S1_SCALE,
        'stored_nodata': sensors.S2_NODATA if optical else sensors.S1_NODATA, 'mean': mean, 'std': std,
      }
    )  # fmt: skip
  target = legend.target_of(trained.config['finetune']) if trained.classes else None
  described = spec.to_dict()
  return {
    'format': exported.FORMAT,
    'stage': trained.stage,
    'step': trained.step,
    'sha256_of_parameters': trained.sha256,
    'synthetic': trained.synthetic,
    'encoder': {
      'name': trained.config['encoder']['name'], 'width': trained.config['encoder']['width'],
      'features': encoder.features, 'cell_px': encoder.stride,
    },
    'crop_px': trained.crop_px,
    'pixel_m': 10,
    'channels': channels,
    'sentinel2': {
      'level': spec.s2_level, 'stored': described['s2_storage'],
      'offset': f'the {sensors.S2_OFFSET_DN} that baselines 04.00 and later add to digital numbers is taken off',
    } if spec.s2_bands else None,
    'sentinel1': {'quantity': spec.s1_quantity, 'stored': described['s1_storage']} if spec.s1_bands else None,
    'nodata': 'a pixel without data, and every pixel of an absent band, is 0 after standardising, which is the mean',
    'subsets': trained.subsets,
    'shown': list(trained.shown),
    'target': target.title if target else None,
    'classes': list(trained.classes),
    'colours': [[int(v) for v in rgb] for rgb in target.colours] if target else [],
    'spec': described,
    'statistics': trained.statistics,
    'config': without_places(trained.config),
  }  # fmt: skip


def without_places(value: Any) -> Any:
  """A configuration without the folders and URLs of the machine it comes from: their last names stay."""
  if isinstance(value, dict):
    return {key: '' if key == 'data_dir' else without_places(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [without_places(item) for item in value]
  if isinstance(value, str) and (value.startswith(('/', '~')) or '://' in value):
    return re.split(r'[?#]', value)[0].rstrip('/').rpartition('/')[2]
  return value


def _run_of(trained: Trained) -> pathlib.Path:
  """RUN of RUN/STAGE/checkpoints/STEP."""
  return trained.directory.parents[2]


def _training(run: pathlib.Path, stage: str) -> dict[str, Any]:
  """What experiment.json tells of the training: record sets, code, steps; {} without it."""
  facts = _read_json(run / 'experiment.json')
  if not facts:
    return {}
  data = {
    use: {key: about[key] for key in ('name', 'patches', 'used', 'excluded_near_heldout') if key in about}
    for use, about in facts.get('data', {}).items()
  }
  stages = {name: {key: about.get(key) for key in ('steps', 'epochs', 'batch_size', 'best', 'parameters')}
            for name, about in facts.get('stages', {}).items()}  # fmt: skip
  if stage == 'pretrain':
    stages = {name: about for name, about in stages.items() if name == 'pretrain'}
  return {
    'name': facts.get('name'), 'objective': facts.get('pretrained_objective'), 'data': data, 'stages': stages,
    'git_commit': facts.get('git_commit'), 'versions': facts.get('versions'),
  }  # fmt: skip


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  try:
    return json.loads(path.read_text())
  except FileNotFoundError:
    return {}
  except ValueError as error:
    raise ValueError(f'{path} is damaged ({error}). Run the command that trained it again.') from error


def _require_free(out: pathlib.Path) -> None:
  """ValueError if a folder holds anything but an export, or is none."""
  if out.exists() and not out.is_dir():
    raise ValueError(f'--out={out} is a file. Choose a folder.')
  others = sorted(path.name for path in out.iterdir() if not path.name.startswith('.')) if out.exists() else []
  if any(name not in FILES for name in others) or (others and exported.CONTRACT not in others):
    raise ValueError(f'--out={out} holds other files ({", ".join(others[:3])}). Choose a folder of its own.')


def _weights_in(path: pathlib.Path) -> str:
  """The checksum of the parameters that a model.json is of; '' if it cannot be told."""
  try:
    return str(json.loads(path.read_text()).get('sha256_of_parameters', ''))
  except ValueError:
    return ''
