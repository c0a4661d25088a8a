"""Checkpoints: what a run needs to go on bit for bit, and what others need to use its model.

One checkpoint holds the variables (parameters, batch statistics), the optimiser's state, the progress (position in the
data = step, best validation loss, sums not yet logged) and a description: sensor contract, statistics, configuration.
Orbax writes each under a temporary name and renames it, so a killed run leaves whole checkpoints only; digests in the
progress find one that was damaged later.
"""

import copy
import dataclasses
import errno
import json
import logging
import os
import pathlib
import re
import shutil
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from deepsentinel import sensors
from deepsentinel.train import exported, models, parallel, state, trained
from deepsentinel.train.exported import digest

log = logging.getLogger(__name__)

# What a damaged checkpoint raises depends on which of its files is damaged, and on Orbax, TensorStore and JSON.
DAMAGE = (ValueError, KeyError, TypeError, OSError, RuntimeError, EOFError, AttributeError, IndexError)

# What the system says of files that are gone or of another kind; anything else it says is about the disk.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)

DAMAGED = 'damaged'
_MEND = 'Run the command that trained it again: it goes back to the last whole checkpoint and trains on from there.'


@dataclasses.dataclass
class _KeepLatestAndBest(checkpoint_managers.PreservationPolicy):
  latest: int
  best_step: int | None = None

  def should_preserve(self, checkpoints, *, context):
    newest = sorted(c.step for c in checkpoints)[-self.latest :]
    return [c.step in newest or c.step == self.best_step for c in checkpoints]


class Checkpoints:
  """The checkpoints of one stage; writing, and going on from the newest whole one."""

  def __init__(self, directory: pathlib.Path, about: dict[str, Any], keep: int = 2):
    """Opens or makes the folder.

    Args:
      directory: of the stage's checkpoints.
      about: the description stored with each, plain JSON values; see `describe`.
      keep: how many of the newest to keep, beside the best.
    """
    self._about = about
    self._policy = _KeepLatestAndBest(keep)
    self._manager = ocp.CheckpointManager(
      directory.resolve(),
      options=ocp.CheckpointManagerOptions(
        preservation_policy=self._policy, create=True, cleanup_tmp_directories=True, enable_async_checkpointing=True
      ),
    )

  def latest_step(self) -> int | None:
    return self._manager.latest_step()

  def save(self, train_state: state.TrainState, progress: dict[str, Any]) -> None:
    """Starts writing a checkpoint of an unreplicated state; a step that is already there is left as it is.

    Args:
      train_state: NumPy arrays, not to be written into afterwards.
      progress: plain JSON values; 'best' is None or has the 'step' of the checkpoint to keep.
    """
    step = int(train_state.step)
    if step in self._manager.all_steps():
      return
    self._policy.best_step = (progress.get('best') or {}).get('step')
    optimiser = {'step': train_state.step, **_numbered(train_state.opt_state)}
    progress = {
      **copy.deepcopy(progress),  # written in the background, while the caller goes on counting
      'position': step,
      'sha256': digest(train_state.params),
      'sha256_all': digest((train_state.variables, optimiser)),
    }
    self._manager.save(
      step,
      args=ocp.args.Composite(
        variables=ocp.args.StandardSave(train_state.variables),
        optimiser=ocp.args.StandardSave(optimiser),
        progress=ocp.args.JsonSave(progress),
        about=ocp.args.JsonSave(self._about),
      ),
    )

  def restore(self, like: state.TrainState) -> tuple[state.TrainState, dict[str, Any]] | None:
    """The newest whole checkpoint as (state of NumPy arrays, progress), or None if there is none.

    A damaged one is set aside with a warning, in a folder beside this one, and the one before it is taken; likewise
    one whose best checkpoint so far is gone or damaged, because that is the model the stage ends with.

    Args:
      like: a state of the wanted structure, e.g. the initial one.
    Raises:
      ValueError: the checkpoint is whole but holds another model or another sensor contract.
      OSError: the disk cannot be read, which says nothing about the checkpoint.
    """
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        restored = self._read(step)
        best = (restored['progress'].get('best') or {}).get('step', step)
        if best != step:
          self._read(best)
      except DAMAGE as error:
        _raise_if_unreadable(error, pathlib.Path(self._manager.directory))
        log.warning('Checkpoint %d of %s is damaged (%s); going back.', step, self._manager.directory, short(error))
        self._set_aside(step)
        continue
      return self._checked(restored, like)
    return None

  def _set_aside(self, step: int) -> None:
    folder = pathlib.Path(self._manager.directory)
    parallel.wait_for_all('read')  # nobody reads it any more
    if parallel.is_chief():
      aside = folder.parent / DAMAGED / str(step)
      shutil.rmtree(aside, ignore_errors=True)
      aside.parent.mkdir(exist_ok=True)
      (folder / str(step)).rename(aside)
    parallel.wait_for_all('set aside')
    self._manager.reload()

  def _read(self, step: int) -> dict[str, Any]:
    """A checkpoint as NumPy arrays; one of `DAMAGE` if it is not as it was written."""
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(
        variables=ocp.args.StandardRestore(), optimiser=ocp.args.StandardRestore(),
        progress=ocp.args.JsonRestore(), about=ocp.args.JsonRestore(),
      ),
    )  # fmt: skip
    variables = {'batch_stats': {}, **jax.tree.map(np.asarray, restored['variables'])}
    optimiser = jax.tree.map(np.asarray, restored['optimiser'])
    if digest((variables, optimiser)) != restored['progress']['sha256_all']:
      raise ValueError('its numbers are not those that were written')
    return {
      'variables': variables,
      'optimiser': optimiser,
      'progress': restored['progress'],
      'about': restored['about'],
    }

  def _checked(self, restored: dict[str, Any], like: state.TrainState) -> tuple[state.TrainState, dict[str, Any]]:
    require_same_contract(restored['about'], self._about, str(self._manager.directory))
    variables, progress = restored['variables'], restored['progress']
    state.require_same(
      variables, like.variables, what=f'The checkpoint in {self._manager.directory}',
      hint='Start this configuration in a new --workdir.',
    )  # fmt: skip
    optimiser = restored['optimiser']
    leaves = [optimiser[key] for key in sorted(optimiser) if key != 'step']
    opt_state = jax.tree.unflatten(jax.tree.structure(like.opt_state), leaves)
    return state.TrainState(optimiser['step'], variables['params'], variables['batch_stats'], opt_state), progress

  def wait(self) -> None:
    """Returns when what was saved is on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    self._manager.wait_until_finished()
    self._manager.close()


def _raise_if_unreadable(error: Exception, folder: pathlib.Path) -> None:
  """OSError if an error is the system's refusal to read, which TensorStore hides in a ValueError."""
  if isinstance(error, OSError) and error.errno not in (None, *_GONE):
    raise error
  code = re.search(r"os_error_code='(\d+)'", str(error))
  if code and int(code[1]) not in _GONE:
    number = int(code[1])
    raise OSError(number, f'{os.strerror(number)} (its checkpoints were left as they are)', str(folder)) from error


def _numbered(tree: Any) -> dict[str, np.ndarray]:
  """Leaves by number: an optimiser's state is a tree of tuples that only the same optimiser can name."""
  return {f'{i:06d}': leaf for i, leaf in enumerate(jax.tree.leaves(tree))}


def short(error: Exception) -> str:
  return f'{type(error).__name__}: {error}'.split('\n')[0][:200]


def describe(
  *,
  stage: str,
  config: dict[str, Any],
  spec: sensors.SensorSpec,
  statistics: dict[str, Any],
  subsets: list[list[str]],
  synthetic: bool,
) -> dict[str, Any]:
  """The description stored with every checkpoint: plain JSON values.

  Args:
    stage: 'pretrain' or 'finetune'.
    config: the experiment's configuration.
    spec: the sensor contract; its bands are the model's channels.
    statistics: BandStatistics.to_dict() of these bands.
    subsets: lists of bands that the model was also trained to work with.
    synthetic: whether its pixels were computed, not measured.
  """
  return {
    'format': 1, 'stage': stage, 'config': config, 'spec': spec.to_dict(), 'statistics': statistics,
    'subsets': subsets, 'synthetic': synthetic,
  }  # fmt: skip


def require_same_contract(found: dict[str, Any], wanted: dict[str, Any], where: str) -> None:
  """ValueError if a checkpoint's description has another sensor contract than the run at hand."""
  a, b = sensors.SensorSpec.from_dict(found['spec']), sensors.SensorSpec.from_dict(wanted['spec'])
  if a == b:
    return
  pairs = (('bands', list(a.bands), list(b.bands)), ('Sentinel-2 level', a.s2_level, b.s2_level),
           ('radar quantity', a.s1_quantity, b.s1_quantity))  # fmt: skip
  differing = '; '.join(f'{what} {x} against {y}' for what, x, y in pairs if x != y)
  raise ValueError(
    f'The checkpoint in {where} has another sensor contract than these records: {differing}. '
    'Use records of the same product and bands, or start in a new --workdir.'
  )


def _stage_directory(path: pathlib.Path, stage: str | None) -> pathlib.Path:
  """The stage's directory below a run (or the directory itself), with whole checkpoints in it; ValueError if none."""
  if stage is not None and stage not in models.STAGES:
    raise ValueError(f'Unknown stage {stage!r}. Known: {", ".join(models.STAGES)}.')
  wanted = (stage,) if stage else tuple(reversed(models.STAGES))
  if path.name in wanted and (path / 'checkpoints').is_dir():
    candidates = [path]
  else:
    candidates = [path / name for name in wanted]
  for candidate in candidates:
    folder = candidate / 'checkpoints'
    if folder.is_dir() and any(child.name.isdigit() for child in folder.iterdir()):
      return candidate
  kind = f'{stage} checkpoint' if stage else 'checkpoint'
  mend = f'`python -m deepsentinel.main --config=configs/quickstart.py --workdir={path}` trains one.'
  if (path / 'config.json').exists():
    mend = f'That run has not come so far: `python -m deepsentinel.main --workdir={path}`, as it was begun, goes on.'
    section = json.loads((path / 'config.json').read_text()).get('pretrain', {})
    if section.get('from_checkpoint'):
      mend = (
        f'That run took its encoder from {section["from_checkpoint"]}: name that one.' if stage == 'pretrain' else mend
      )
    elif section.get('objective') == 'none' and stage == 'pretrain':
      mend = 'That run is one without pretraining: name one that pretrained.'
    if folds := sorted(path.glob('fold_*/finetune')):
      mend = (
        f'That run is a cross-validation: name one of its folds, such as {folds[0]}.' if stage != 'pretrain' else mend
      )
  raise ValueError(f'No {kind} in {path} (looked in {", ".join(str(c / "checkpoints") for c in candidates)}). {mend}')


def load_trained(path: str | pathlib.Path, stage: str | None = None) -> trained.Trained:
  """The model of a run: the best checkpoint of fine-tuning, or the last of pretraining; or the one that was exported.

  Args:
    path: a run's directory, the directory of one of its stages, or what `python -m deepsentinel.export` made of it: a
      folder, or its URL. '#sha256=HEX' (or '@sha256:HEX') behind either of the latter pins the weights.
    stage: 'pretrain' or 'finetune'; None takes the fine-tuned model where there is one.
  Raises:
    ValueError: no checkpoint there (names the command that trains one), a damaged one, one that is not what was
      exported or pinned, or one whose arrays are not those of its configuration (lists the keys of both).
    OSError: the disk cannot be read, which says nothing about the checkpoint.
  """
  name, pin = exported.split_pin(path)
  here = exported.local_folder(name, pin)
  if exported.is_exported(here):
    return exported.load(here, stage, pin)
  directory = _stage_directory(here, stage)
  if pin:
    raise ValueError(f'{here} is a run: only an exported checkpoint is pinned. Leave out the SHA-256, or export it.')
  folder = directory / 'checkpoints'
  with ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(create=False)) as manager:
    steps = sorted(manager.all_steps())
    json_items = {'progress': ocp.args.JsonRestore(), 'about': ocp.args.JsonRestore()}
    try:
      progress = manager.restore(steps[-1], args=ocp.args.Composite(progress=ocp.args.JsonRestore()))['progress']
      best = (progress.get('best') or {}).get('step')
      step = steps[-1] if best is None or best not in steps else int(best)
      restored = manager.restore(step, args=ocp.args.Composite(variables=ocp.args.StandardRestore(), **json_items))
      variables = {'batch_stats': {}, **jax.tree.map(np.asarray, restored['variables'])}
      damaged = digest(variables['params']) != restored['progress']['sha256']
    except DAMAGE as error:
      _raise_if_unreadable(error, folder)
      raise ValueError(
        f'A checkpoint in {folder} is damaged ({type(error).__name__}: {str(error).partition(":")[0][:80]}). {_MEND}'
      ) from error
  if damaged:
    raise ValueError(f'Checkpoint {step} in {folder} is damaged (its numbers are not those that were written). {_MEND}')
  about = restored['about']
  return exported.assemble(
    about,
    variables,
    what=f'The {about["stage"]} checkpoint in {folder}',
    step=step,
    sha256=restored['progress']['sha256'],
    directory=folder / str(step),
  )
