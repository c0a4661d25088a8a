"""Why patches failed, in a word or two: what the progress bar has room for."""

import collections
import re

# A reason is what an error said; the first of these that is found in it names its kind.
_KINDS = {
  'no pair': r'^no pair of scenes',
  'quota': r'\bQuotaError: ',
  'no access': r'\bDenied: ',
  'bad request': r'\bBadRequest: ',
  'no answer': r'\b(NoAnswer|TimeoutError|Connection\w*Error): ',
  'nodata': r': all pixels are nodata|: every valid pixel is NaN',
  'no scene': r'the source has no scene of it|the source no longer lists',
  'no labels': r': not one pixel has a class',
}
_SHOWN = 3


def kind(reason: str) -> str:
  """Its kind; of an error that is none of them, the name of its class."""
  for name, pattern in _KINDS.items():
    if re.search(pattern, reason):
      return name
  error = re.search(r'\b([A-Z]\w*): ', reason)
  return error[1] if error else 'other'


def summary(kinds: collections.Counter[str]) -> str:
  """E.g. 'failed 12 (8 quota, 4 no pair)', the most frequent first; '' of none."""
  if not kinds:
    return ''
  shown = kinds.most_common(_SHOWN)
  rest = kinds.total() - sum(count for _, count in shown)
  parts = [f'{count} {name}' for name, count in shown] + ([f'{rest} more'] if rest else [])
  return f'failed {kinds.total()} ({", ".join(parts)})'
