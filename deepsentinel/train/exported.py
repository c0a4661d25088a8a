"""An exported checkpoint: a folder to share, here or at a URL, that is loaded like the run it came from.

NAME/model.safetensors   the variables under their Flax names, e.g. 'params/encoder/Conv1/kernel'
NAME/model.json          the sensor contract and whatever else it takes to use them
NAME/SHA256SUMS          of all files; written last

The weights name the checksum of model.json in their header, so that the checksum of the weights alone pins both.
"""

import fcntl
import hashlib
import json
import logging
import pathlib
import re
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util

from deepsentinel import provenance, sensors
from deepsentinel.data import download, stores
from deepsentinel.train import models, state, trained

log = logging.getLogger(__name__)

WEIGHTS, CONTRACT, SUMS = 'model.safetensors', 'model.json', download.SUMS
FORMAT = 1
_PIN = re.compile(r'(?:#sha256=|@sha256:)([0-9a-fA-F]*)$')
_SCHEME = 'file://'


def digest(tree: Any) -> str:
  """SHA-256 over keys, shapes, types and values of a tree of arrays."""
  sha = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
    array = np.ascontiguousarray(leaf)
    sha.update(f'{jax.tree_util.keystr(path)} {array.shape} {array.dtype}'.encode())
    sha.update(array.tobytes())
  return sha.hexdigest()


def assemble(about: dict[str, Any], variables: dict[str, Any], *, what: str, **facts: Any) -> trained.Trained:
  """A trained model of its description and its variables.

  Args:
    about: with 'stage', 'config', 'spec', 'statistics', 'subsets' and 'synthetic', as `checkpoint.describe` makes it.
    variables: {'params', 'batch_stats'}, NumPy arrays.
    what: the checkpoint, for messages.
    facts: 'step', 'sha256' and 'directory' of `Trained`.
  Raises:
    ValueError: the arrays are not those of the configuration (lists the keys of both), or its encoder is not here.
  """
  spec = sensors.SensorSpec.from_dict(about['spec'])
  module: nn.Module = models.build(about['config'], about['stage'])
  shapes = state.variable_shapes(module, models.example_inputs(module, len(spec.bands)))
  hint = 'It was written by another version of this encoder or objective; use that version (experiment.json names it).'
  state.require_same(variables, shapes, what=what, hint=hint)
  return trained.Trained(
    stage=about['stage'],
    config=about['config'],
    spec=spec,
    statistics=about['statistics'],
    subsets=about['subsets'],
    module=module,
    variables=variables,
    synthetic=about['synthetic'],
    **facts,
  )


def save_weights(variables: dict[str, Any], contract: bytes) -> bytes:
  """model.safetensors: the variables as they are, and the checksum of the bytes of model.json; the same every time."""
  import safetensors.numpy

  flat = traverse_util.flatten_dict(variables, sep='/')
  arrays = {name: np.array(leaf, order='C') for name, leaf in flat.items()}
  return safetensors.numpy.save(arrays, {CONTRACT: hashlib.sha256(contract).hexdigest()})


def split_pin(name: str | pathlib.Path) -> tuple[str, str]:
  """A checkpoint's name, and the SHA-256 of its weights that 'NAME#sha256=HEX' or 'NAME@sha256:HEX' asks for, or ''.

  Raises:
    ValueError: the pin is no SHA-256.
  """
  text = str(name)
  found = _PIN.search(text)
  if not found:
    return text, ''
  if len(found[1]) != 64:
    raise ValueError(
      f'{stores.plain(text)}: a pin is the 64 hexadecimal digits that {SUMS} gives of {WEIGHTS}; found {len(found[1])}.'
    )
  return text[: found.start()], found[1].lower()


def local_folder(name: str, pin: str = '', progress: bool = True) -> pathlib.Path:
  """The folder of this machine that holds a checkpoint; one at a URL is copied into the cache first, and checked.

  What is in the cache is not copied again. Without a network the copy is used, with a warning; with a pin that it
  meets, nothing is asked of the network at all.

  Args:
    name: a path, or the URL of an exported folder.
    pin: SHA-256 of its weights, or ''.
    progress: shows a progress bar.
  Raises:
    ValueError: nothing exported there, files that are not those exported, other weights than pinned, or no answer and
      no copy.
  """
  if name.startswith(_SCHEME):
    name = name.removeprefix(_SCHEME)
  if not stores.is_url(name):
    return pathlib.Path(name).expanduser().resolve()
  url, shown = str(stores.folder_of(name)), stores.plain(name)
  mend = 'Export the checkpoint again, and copy all of its folder there.'
  known = stores.kept_in(url, [], 'checkpoints') / SUMS  # what SHA256SUMS said when it was last copied from there
  last = download.read_sums(known.read_text(), shown, mend) if known.exists() else {}
  if pin and last.get(WEIGHTS) == pin and (whole := _whole_copy(url, last)):
    return whole
  try:
    listed = (stores.Store(url).read(SUMS) or b'').decode()
  except stores.Unreadable as error:
    copy = _whole_copy(url, last)
    if copy is None or (pin and last[WEIGHTS] != pin):
      raise
    log.warning('%s The copy of an earlier time is used.', error)
    return copy
  digests = download.read_sums(listed, shown, mend)
  if not {WEIGHTS, CONTRACT} <= set(digests):
    raise ValueError(
      f'{shown} has no {SUMS} of an exported checkpoint. A run is shared by '
      '`python -m deepsentinel.export --checkpoint=RUN --out=FOLDER`: copy that folder there.'
    )
  _require_pin(digests[WEIGHTS], pin, str(shown))
  wanted = {key: digests[key] for key in (CONTRACT, WEIGHTS)}
  kept = _copy_of(url, wanted)
  known.parent.mkdir(parents=True, exist_ok=True)
  with open(known.parent / '.lock', 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)  # of several processes one copies, the others find it done
    download.copy_checked(stores.Store(url), wanted, kept, mend, again=True, progress=progress)
    for path in (kept / SUMS, known):
      with provenance.whole(path) as file:
        file.write(''.join(f'{sha256}  {key}\n' for key, sha256 in wanted.items()).encode())
  return kept


def _copy_of(url: str, digests: dict[str, str]) -> pathlib.Path:
  return stores.kept_in(url, [digests[CONTRACT], digests[WEIGHTS]], 'checkpoints')


def _whole_copy(url: str, digests: dict[str, str]) -> pathlib.Path | None:
  """The copy of an exported folder with these checksums, if it is here and whole."""
  if not {CONTRACT, WEIGHTS} <= set(digests):
    return None
  kept = _copy_of(url, digests)
  here = all((kept / f).exists() and download.digest_of(kept / f) == digests[f] for f in (CONTRACT, WEIGHTS))
  return kept if here and (kept / SUMS).exists() else None


def _require_pin(found: str, pin: str, where: str) -> None:
  if pin and found != pin:
    raise ValueError(
      f'{where} holds other weights than those pinned: SHA-256 {found}, asked for {pin}. Ask who shared it for the '
      'checkpoint that was pinned, or pass the new one if it is wanted.'
    )


def is_exported(folder: pathlib.Path) -> bool:
  """Whether a folder is (or was to be) an exported checkpoint."""
  return any((folder / name).is_file() for name in (WEIGHTS, CONTRACT))


def load(folder: pathlib.Path, stage: str | None = None, pin: str = '') -> trained.Trained:
  """The model of an exported folder, with the arrays of the checkpoint that was exported, bit for bit.

  Args:
    folder: on this machine.
    stage: 'pretrain' or 'finetune' if it has to be of that stage.
    pin: SHA-256 that its weights have to have, or ''.
  Raises:
    ValueError: a file that is gone or not as exported, another stage, other weights than pinned, or an encoder that
      is not here; each with its mend.
  """
  import safetensors

  mend = 'Copy the folder again from where it came, or export it again with `python -m deepsentinel.export`.'
  sums = folder / SUMS
  listed = download.read_sums(sums.read_text(), folder, mend) if sums.is_file() else {}
  for name in (CONTRACT, WEIGHTS):
    if name not in listed:
      raise ValueError(f'{folder} has no {SUMS} that names {name}: the export or the copy is not finished. {mend}')
    if not (folder / name).is_file():
      raise ValueError(f'{folder} has no {name}. {mend}')
    if download.digest_of(folder / name) != listed[name]:
      raise ValueError(f'{folder / name} is damaged or altered: its SHA-256 is not that in {SUMS}. {mend}')
  _require_pin(listed[WEIGHTS], pin, str(folder))
  about = json.loads((folder / CONTRACT).read_text())
  if about.get('format') != FORMAT:
    raise ValueError(
      f'{folder} is of format {about.get("format")}; this version reads {FORMAT}. Update DeepSentinel, or export it '
      'again with this version.'
    )
  if stage is not None and stage != about['stage']:
    raise ValueError(
      f'{folder} holds the model of the {about["stage"]} stage; {stage} is asked for here. Export that one: '
      f'`python -m deepsentinel.export --checkpoint=RUN --stage={stage} --out=FOLDER`.'
    )
  with safetensors.safe_open(folder / WEIGHTS, 'np') as file:
    if (file.metadata() or {}).get(CONTRACT) != listed[CONTRACT]:
      raise ValueError(f'{folder / CONTRACT} is not the one that {WEIGHTS} was exported with. {mend}')
    flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
  variables = {'batch_stats': {}, **traverse_util.unflatten_dict(flat, sep='/')}
  return assemble(
    about,
    variables,
    what=f'The exported checkpoint in {folder}',
    step=about['step'],
    sha256=digest(variables['params']),
    directory=folder,
  )
