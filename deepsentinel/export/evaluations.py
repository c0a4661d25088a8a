"""What `python -m deepsentinel.evaluate` found of a checkpoint, read and checked for its model card."""

import dataclasses
import json
import pathlib
from collections.abc import Iterable
from typing import Any

from deepsentinel.train.trained import Trained

PROBES, CLOUDS, PICTURE = 'evaluation.json', 'robustness.json', 'robustness.png'
# What each kind has to hold, and the words that run it.
_HOLDS = {
  'maps': ('data', 'title', 'classes', 'synthetic', 'patches', 'blocks', 'fractions', 'caveats', 'methods', 'rows'),
  'lists': ('data', 'classes', 'synthetic', 'patches', 'methods', 'embeddings', 'band_statistics'),
  'clouds': ('data', 'split', 'synthetic', 'patches', 'blocks', 'models', 'checkpoints', 'shares', 'majority_class',
             'curves', 'checks'),
}  # fmt: skip
_HOLDS['benchmark'] = _HOLDS['maps']
_WORDS = {'maps': '', 'lists': '', 'benchmark': ' benchmark NAME --dir=DIR', 'clouds': ' clouds'}


_COMMANDS = (
  '`python -m deepsentinel.evaluate --checkpoint=RUN --data=RECORDS --out=OUT` writes the one, `python -m '
  'deepsentinel.evaluate clouds --checkpoint=RUN --data=RECORDS --out=OUT` the other.'
)


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """One result.

  Attributes:
    path: of its JSON.
    kind: 'maps', 'lists' or 'benchmark', which are probes of frozen encoders, or 'clouds'.
    about: what the JSON holds.
    picture: of 'clouds', robustness.png.
  """

  path: pathlib.Path
  kind: str
  about: dict[str, Any]
  picture: bytes = b''

  def seen(self) -> list[dict[str, Any]]:
    """Every checkpoint that was evaluated: 'sha256' of its parameters, and 'stage' and 'step', or 'seed'."""
    if self.kind == 'clouds':
      return self.about['checkpoints']
    return [method for method in self.about['methods'] if method['kind'] == 'embedding']

  def own(self, sha256: str) -> dict[str, Any]:
    """The entry of `seen` of these parameters; {} if there is none."""
    return next((one for one in self.seen() if one.get('sha256') == sha256), {})


def read(names: Iterable[str]) -> list[Evaluation]:
  """The results in folders that the evaluate commands wrote, or in their JSON files; one that is named twice, once.

  Raises:
    ValueError: nothing there, a file that is damaged or of something else, a figure that is gone, or two results of
      quality under cloud.
  """
  paths = [path.resolve() for name in names for path in _files(pathlib.Path(name).expanduser())]
  found = [_read(path) for path in dict.fromkeys(paths)]
  clouds = [str(one.path) for one in found if one.kind == 'clouds']
  if len(clouds) > 1:
    raise ValueError(f'--evaluation names {" and ".join(clouds)}, which both are of quality under cloud. Name one.')
  return found


def require_of(found: Iterable[Evaluation], trained: Trained) -> None:
  """ValueError if a result is of other weights than this checkpoint's, by the checksum of its parameters."""
  for one in found:
    if one.own(trained.sha256):
      continue
    seen = '; '.join(_named(entry) for entry in one.seen()) or 'none'
    raise ValueError(
      f'{one.path} is of other weights than those to be exported (it names {seen}; exported is '
      f'{_named({"sha256": trained.sha256, "stage": trained.stage, "step": trained.step})}). {_mend(one, trained)}'
    )


def _mend(one: Evaluation, trained: Trained) -> str:
  run, stages = trained.directory.parents[2], {entry.get('stage', 'finetune') for entry in one.seen()}
  if one.kind == 'clouds' and trained.stage == 'pretrain':
    return 'Quality under cloud is that of a fine-tuned model: export it with --stage=finetune, or leave this out.'
  stage = '' if one.kind == 'clouds' else f' --stage={trained.stage}'
  again = f'`python -m deepsentinel.evaluate{_WORDS[one.kind]} --checkpoint={run}{stage} --out=OUT ...`'
  (other,) = stages - {trained.stage} if len(stages) == 1 and trained.stage not in stages else ('',)
  return f'Evaluate this checkpoint: {again}' + (f', or export the other stage with --stage={other}.' if other else '.')


def _named(entry: dict[str, Any]) -> str:
  facts = [f'{key} {entry[key]}' for key in ('stage', 'step', 'seed') if entry.get(key) is not None]
  return ', '.join([*facts, f'parameters {entry.get("sha256", "unknown")[:12]}'])


def _files(given: pathlib.Path) -> list[pathlib.Path]:
  if given.is_file():
    return [given]
  if not given.is_dir():
    raise ValueError(f'--evaluation={given} is not there. Name a folder with {PROBES} or {CLOUDS}. {_COMMANDS}')
  there = [given / name for name in (PROBES, CLOUDS) if (given / name).is_file()]
  if not there and (given / 'clouds' / 'job.json').is_file():
    raise ValueError(
      f'--evaluation={given} is not finished: run its `python -m deepsentinel.evaluate clouds` again, which goes on.'
    )
  if not there:
    raise ValueError(f'--evaluation={given} holds neither {PROBES} nor {CLOUDS}. {_COMMANDS}')
  return there


def _read(path: pathlib.Path) -> Evaluation:
  try:
    about = json.loads(path.read_bytes())
  except ValueError as error:
    raise ValueError(
      f'{path} is damaged or no JSON ({error}). Run the evaluate command that wrote it again.'
    ) from error
  kind = about.get('kind', 'clouds' if 'checks' in about else '') if isinstance(about, dict) else ''
  if kind not in _HOLDS:
    held = f'it holds {", ".join(list(about)[:3])}, ...' if isinstance(about, dict) else 'it holds no names and values'
    raise ValueError(f'{path} is neither an {PROBES} nor a {CLOUDS} ({held}). {_COMMANDS}')
  lacking = [key for key in _HOLDS[kind] if key not in about]
  if kind == 'clouds' and not lacking:
    entries = [entry for views in about['curves'].values() for same in views.values() for entry in same]
    lacking = [key for key in ('quality_of_models', 'skill_of_models') if any(key not in entry for entry in entries)]
  if lacking:
    raise ValueError(
      f'{path} is damaged or of another version: it lacks {", ".join(lacking)}. Run '
      f'`python -m deepsentinel.evaluate{_WORDS[kind]} ...` again.'
    )
  return Evaluation(path, kind, about, _picture(path.with_name(PICTURE)) if kind == 'clouds' else b'')


def _picture(path: pathlib.Path) -> bytes:
  content = path.read_bytes() if path.is_file() else b''
  if not content.startswith(b'\x89PNG') or b'IEND' not in content[-12:]:
    found = 'is damaged' if content else 'is not there'
    raise ValueError(
      f'{path}, the figure beside {CLOUDS}, {found}. Run the same `python -m deepsentinel.evaluate clouds` again: it '
      'draws it anew and computes nothing twice.'
    )
  return content
