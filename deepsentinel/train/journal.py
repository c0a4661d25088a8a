"""What an experiment has done and with what: experiment.json and config.json of its directory, which it holds."""

import fcntl
import json
import os
import pathlib
from typing import Any

from absl import logging

from deepsentinel import provenance
from deepsentinel.train import checkpoint, parallel, settings


class Journal:
  """experiment.json and config.json of a directory; the first `update` makes them, so a wrong call leaves nothing.

  Until it is closed the directory is its own: two processes that train in one would lose each other's work.

  Attributes:
    path: of experiment.json.
  """

  def __init__(self, workdir: pathlib.Path, config: dict[str, Any]):
    """Opens or begins the experiment; ValueError if the directory holds one with another configuration."""
    self.path, self._config_path = workdir / 'experiment.json', workdir / 'config.json'
    self._config = config
    self._lock: int | None = None
    self._content: dict[str, Any] = {'name': config['name'], 'status': 'running', 'stages': {}}
    try:
      self._hold()
      self._open()
    except BaseException:
      self.close()
      raise

  def _open(self) -> None:
    if self._config_path.exists():
      _require_same_config(_read_json(self._config_path), self._config, self.path.parent)
    if self.path.exists():
      self._content = _read_json(self.path)

  def __getitem__(self, key: str) -> Any:
    return self._content[key]

  def _hold(self) -> None:
    workdir = self.path.parent
    if self._lock is not None or not parallel.is_chief() or not workdir.is_dir():
      return
    try:
      self._lock = os.open(workdir / '.lock', os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:  # one that can be read only is not trained in
      return logging.debug('%s cannot be locked: %s', workdir, error)
    try:
      fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel drops it with the process
    except BlockingIOError:
      self.close()
      raise ValueError(f'Another process is training in {workdir}. Wait for it, or choose another --workdir.') from None
    except OSError as error:  # a file system without locks
      logging.warning('%s cannot be locked (%s): start no other process in it.', workdir, error)

  def close(self) -> None:
    """Gives the directory free."""
    if self._lock is not None:
      os.close(self._lock)
      self._lock = None

  def require_same_data(self, facts: dict[str, Any]) -> None:
    """ValueError if a stage was begun with other records, or with another encoder, than are there now."""
    if 'spec' in self._content:
      checkpoint.require_same_contract(self._content, facts, str(self.path.parent))
    was, now = self._content.get('data', {}), facts['data']
    for split in (name for name in was if name in now):
      if was[split].get('sha256', now[split]['sha256']) != now[split]['sha256']:
        raise ValueError(
          f'The {split} records in {now[split]["directory"]} are not those that {self.path.parent} was begun with: '
          f'{now[split]["patches"]} patches, it had {was[split]["patches"]} in {was[split]["directory"]}. Choose '
          'another --workdir for them, or give the records it was begun with to go on.'
        )
    if (encoder := self._content.get('pretrained_from')) and encoder != facts['pretrained_from']:
      raise ValueError(
        f'{self.path.parent} was begun with the encoder of step {encoder["step"]} (SHA-256 '
        f'{encoder["sha256"][:12]}...), and its pretrain.from_checkpoint holds another now. Choose another --workdir.'
      )

  def update(self, facts: dict[str, Any]) -> None:
    if parallel.is_chief():
      self.path.parent.mkdir(parents=True, exist_ok=True)
      if self._lock is None:
        self._hold()
        self._open()  # another process may have begun and ended it since
      if not self._config_path.exists():
        provenance.write_json(self._config_path, self._config)
    self._content.update(facts)
    if parallel.is_chief():
      provenance.write_json(self.path, self._content)

  def finish_stage(self, name: str, facts: dict[str, Any]) -> None:
    self.update({'stages': {**self['stages'], name: {'status': 'finished', **facts}}})


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  try:
    return json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(
      f'{path} is damaged or of something else ({error}). Restore it, or choose another --workdir.'
    ) from error


# May differ between two calls of one experiment: they change no number.
_FREE_KEYS = (
  'data.data_dir', 'data.download', 'data.read_threads', 'data.resident', 'pretrain.probe_every_steps',
)  # fmt: skip


def _require_same_config(there: dict[str, Any], here: dict[str, Any], workdir: pathlib.Path) -> None:
  a, b = settings.flatten(there), settings.flatten(here)
  differing = [k for k in sorted({*a, *b}) if a.get(k) != b.get(k) and k not in _FREE_KEYS]
  if not differing:
    return
  if not any(k in a and k in b for k in differing):
    keys = ', '.join(f'config.{k}' for k in differing)
    raise ValueError(
      f'{workdir} holds an experiment of another version of DeepSentinel: only one of the two knows {keys}. Go on '
      'with the version that began it (git_commit in its experiment.json), or choose another --workdir; if it finished '
      f'pretraining, --config.pretrain.from_checkpoint={workdir} takes that over.'
    )
  listing = '; '.join(f'config.{k}: {a.get(k)!r} there, {b.get(k)!r} here' for k in differing)
  raise ValueError(
    f'{workdir} holds an experiment with another configuration ({listing}). Choose another --workdir, or give the '
    'configuration it was begun with to go on.'
  )
