"""A corpus, or records made of one, to a store on a network: Google Cloud Storage, Azure, or any other of fsspec's.

    python -m deepsentinel.corpus publish corpora/labelled_1k gs://BUCKET/labelled_1k

SHA256SUMS is written last: where it is, the copy is whole. The same command goes on where a killed one stopped.
"""

import base64
import concurrent.futures
import hashlib
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from tqdm import tqdm

from deepsentinel.corpus import card, page, stores

SUMS = 'SHA256SUMS'
CARD = 'README.md'


def publish(folder: pathlib.Path, url: str, *, workers: int = 8, progress: bool = True) -> int:
  """Copies a folder's files to a store; those that are there already, with the same content, stay.

  Args:
    folder: a corpus with nothing left to fetch, or records that `tfds build` made.
    url: where to, e.g. 'gs://BUCKET/NAME', 'az://CONTAINER/NAME', 's3://BUCKET/NAME' or a folder.
    workers: files sent at a time.
    progress: shows a progress bar.
  Returns:
    How many files were not there yet.
  Raises:
    ValueError: nothing to publish, a store that needs a package or refuses, or files that could not be sent.
  """
  folder = pathlib.Path(folder)
  text = describe(folder, url)
  store, root = stores.opened(url)
  sums = checksums(folder, progress)
  there = stores.listing(store, root)
  kept = {name for name in sums if same(there.get(name), folder / name)}
  listed = ''.join(f'{digest}  {name}\n' for name, digest in sums.items())
  if SUMS in there and stores.patiently(store.cat_file, f'{root}/{SUMS}').decode() != listed:
    stores.patiently(store.rm_file, f'{root}/{SUMS}')  # of an earlier state: until the end this copy is not whole
  with tqdm(total=sum((folder / name).stat().st_size for name in sums), desc='publishing', unit='B', unit_scale=True,
            disable=not progress) as bar, concurrent.futures.ThreadPoolExecutor(workers) as pool:  # fmt: skip

    def send(name: str) -> str:
      """'' or why a file could not be sent."""
      path = folder / name
      try:
        if name not in kept:
          stores.patiently(store.put_file, str(path), f'{root}/{name}')
      except Exception as e:  # a store can fail in any way; the other files go on
        return f'{name}: {type(e).__name__}: {e}'
      finally:
        bar.update(path.stat().st_size)
      return ''

    failed = [reason for reason in pool.map(send, sums) if reason]
  if failed:
    raise ValueError(
      f'{len(failed)} of {len(sums)} files could not be sent to {url}, such as {failed[0][:300]}. Run the same command '
      'again: what is there stays.'
    )
  for name, content in ((CARD, text), (SUMS, listed)):
    stores.patiently(store.pipe_file, f'{root}/{name}', content.encode())
  return len(sums) - len(kept)


def verify(url: str, *, workers: int = 8, progress: bool = True) -> int:
  """Reads a published copy back and returns how many files it has; ValueError if one is not what SHA256SUMS says."""
  store, root = stores.opened(url)
  try:
    lines = store.cat_file(f'{root}/{SUMS}').decode().splitlines()
  except FileNotFoundError:
    raise ValueError(f'{url} has no {SUMS}: the copy is not whole. Run the publishing command again.') from None
  wanted = {name: digest for digest, _, name in (line.partition('  ') for line in lines)}

  def differs(name: str) -> str:
    try:
      content = stores.patiently(store.cat_file, f'{root}/{name}')
    except FileNotFoundError:
      return name
    return '' if hashlib.sha256(content).hexdigest() == wanted[name] else name

  with concurrent.futures.ThreadPoolExecutor(workers) as pool:
    results = tqdm(pool.map(differs, wanted), total=len(wanted), desc='reading back', unit='file', disable=not progress)
    wrong = [name for name in results if name]
  if wrong:
    raise ValueError(
      f'{len(wrong)} of {len(wanted)} files at {url} are gone or not what was published, such as {wrong[0]}. Run the '
      'publishing command again.'
    )
  return len(wanted)


def files_of(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """What is published: all but hidden files, what is half-written, and the card that is made anew."""
  for path in sorted(folder.rglob('*')):
    parts = path.relative_to(folder).parts
    hidden = any(part.startswith('.') for part in parts) or path.name.endswith('.partial')
    if path.is_file() and not hidden and parts not in ((CARD,), (SUMS,)):
      yield path


def checksums(folder: pathlib.Path, progress: bool = True) -> dict[str, str]:
  """SHA-256 of every file to publish, by its path with forward slashes."""
  paths = list(files_of(folder))
  found = {}
  for path in tqdm(paths, desc='checksums', unit='file', disable=not progress):
    with path.open('rb') as file:
      found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, 'sha256').hexdigest()
  return found


def same(info: Mapping[str, Any] | None, path: pathlib.Path) -> bool:
  """Whether a file of a store is this one: of its length, and of its MD5 where the store says it."""
  if info is None or info.get('size') != path.stat().st_size:
    return False
  said = info.get('md5Hash') or (info.get('content_settings') or {}).get('content_md5')
  if not said:
    return True
  with path.open('rb') as file:
    digest = hashlib.file_digest(file, 'md5').digest()
  return bytes(said) == digest if isinstance(said, (bytes, bytearray)) else said == base64.b64encode(digest).decode()


def describe(folder: pathlib.Path, url: str) -> str:
  """The dataset card, in Markdown; ValueError where the folder is nothing to publish."""
  if (folder / card.FILE).exists():
    corpus = card.Corpus(folder)
    if not corpus.card['complete'] or corpus.card['counts']['planned']:
      raise ValueError(f'{folder} is not whole: {corpus.card["counts"]["planned"]} patches are still to be fetched.')
    done = corpus.manifest().query('state == "done"')
    rows = page.facts(corpus, done)
    name, synthetic, labelled = corpus.card['name'], corpus.synthetic, corpus.labelled
    use = 'Each patch is a folder of GeoTIFFs below `patches/`; `manifest.parquet` (GeoParquet) has a row for each.'
  elif (folder / 'dataset_info.json').exists() and (folder / 'metadata.json').exists():
    info, about = (json.loads((folder / name).read_text()) for name in ('dataset_info.json', 'metadata.json'))
    counts = {s['name']: sum(int(n) for n in s['shardLengths']) for s in info['splits']}
    rows = [('Records', ', '.join(f'{name} {count:,}' for name, count in counts.items()))]
    name = info['name']
    synthetic, labelled = bool(about.get('synthetic')), 'labelled' in name and 'unlabelled' not in name
    use = f'```python\nimport tensorflow_datasets as tfds\nbuilder = tfds.builder_from_directory({url!r})\n```'
  else:
    raise ValueError(
      f'{folder} is neither a corpus ({card.FILE}) nor records of `tfds build` (dataset_info.json). Name such a folder.'
    )
  lines = ['---', f'pretty_name: {name}', 'tags: [sentinel-1, sentinel-2, remote-sensing]', '---', '', f'# {name}', '']
  if synthetic:
    lines += ['> Pixels and labels of SyntheticEarth, a simulated world: they say nothing about real imagery.', '']
  lines += ['| | |', '|---|---|', *(f'| {key} | {value} |' for key, value in rows), '', use, '']
  lines += [f'`{SUMS}` lists the SHA-256 of every file.', '']
  if not synthetic:
    lines.append('Contains modified Copernicus Sentinel data.')
    if labelled:
      lines.append(
        'CORINE Land Cover: European Union, Copernicus Land Monitoring Service, European Environment Agency.'
      )
      lines.append('OpenStreetMap: © OpenStreetMap contributors, Open Database Licence 1.0.')
  return '\n'.join(lines) + '\n'
