"""The short kinds of failures: every sentence that the worker and the sources fail with has one."""

import ast
import collections
import inspect
import re

import pytest

from deepsentinel.corpus import reasons, worker
from deepsentinel.sources import remote


@pytest.mark.parametrize(
  ('reason', 'kind'),
  [
    ('no pair of scenes within 3 days in 2019-01-01 to 2019-01-13 at any of 51 points', 'no pair'),
    ('sentinel2: all pixels are nodata', 'nodata'),
    ('sentinel1: every valid pixel is NaN', 'nodata'),
    ('sentinel1: the source has no scene of it here', 'no scene'),
    ('sentinel2: the source no longer lists scene S2A_1', 'no scene'),
    ('corine: not one pixel has a class here', 'no labels'),
    ('sentinel1: OSError: the archive does not answer: Denied', 'OSError'),
    ('something else', 'other'),
    *((f'{where}{error}: Earth Engine, pixels of x: no.', kind) for where in ('', 'sentinel1: ') for error, kind in (
      ('QuotaError', 'quota'), ('BadRequest', 'bad request'), ('NoAnswer', 'no answer'), ('Denied', 'no access'),
      ('TimeoutError', 'no answer'), ('ConnectionResetError', 'no answer'),
    )),
  ],
)  # fmt: skip
def test_kind(reason, kind):
  assert reasons.kind(reason) == kind


def test_every_refusal_of_the_worker_has_a_kind():
  calls = [node for node in ast.walk(ast.parse(inspect.getsource(worker))) if isinstance(node, ast.Call)]
  raised = [ast.unparse(c.args[0]) for c in calls if isinstance(c.func, ast.Name) and c.func.id == 'Unfit']
  sentences = [re.sub(r'{.*?}', 'x', ast.literal_eval(text.removeprefix('f'))) for text in raised]
  assert len(sentences) >= 6
  for sentence in sentences:
    assert sentence == 'x: x: x' or reasons.kind(sentence) != 'other', sentence


@pytest.mark.parametrize('status', [0, 400, 401, 403, 404, 408, 429, 500, 503])
def test_every_refusal_of_a_platform_has_a_kind(status):
  error = remote.refused(status, 'x.')
  expected = {400: 'bad request', 401: 'no access', 403: 'no access', 404: 'bad request', 429: 'quota'}
  assert reasons.kind(f'{type(error).__name__}: {error}') == expected.get(status, 'no answer')


def test_the_most_frequent_come_first():
  kinds = collections.Counter({'no pair': 4, 'quota': 8})
  assert reasons.summary(kinds) == 'failed 12 (8 quota, 4 no pair)'
  assert reasons.summary(kinds + collections.Counter(a=1, b=1, c=1)) == 'failed 15 (8 quota, 4 no pair, 1 a, 2 more)'
  assert reasons.summary(collections.Counter()) == ''
