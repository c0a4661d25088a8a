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

import fsspec
from tqdm import tqdm

from deepsentinel.corpus import card, page
from deepsentinel.data import records, stores
from deepsentinel.data.download import SUMS, parsed_sums

CARD = 'README.md'
_BLOCK_BYTES = 1 << 20
_NAMED = 5  # files that an error names


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
  store, root = stores.open_store(url)
  if (folder / 'dataset_info.json').exists():
    for split in records.splits(folder):
      records.RecordSet(folder, split, threads=1)  # checks the shards, and writes the index that is published with them
  there = listing(store, root)
  sums, kept = compare(folder, there, progress)
  listed = ''.join(f'{digest}  {name}\n' for name, digest in sums.items())
  if SUMS in there and (before := stores.patiently(store.cat_file, f'{root}/{SUMS}').decode()) != listed:
    # Of an earlier state: until the end this copy is not whole. What only has the length of its successor goes first,
    # since without these sums nothing tells it from that.
    was = parsed_sums(before)
    for name in [name for name in kept if was.get(name, sums[name]) != sums[name]]:
      stores.patiently(store.rm_file, f'{root}/{name}')
      kept.remove(name)
    stores.patiently(store.rm_file, f'{root}/{SUMS}')
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
  store, root = stores.open_store(url)
  try:
    wanted = parsed_sums(store.cat_file(f'{root}/{SUMS}').decode())
  except FileNotFoundError:
    raise ValueError(f'{url} has no {SUMS}: the copy is not whole. Run the publishing command again.') from None

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
    shown = ', '.join(wrong[:_NAMED]) + (', ...' if len(wrong) > _NAMED else '')
    # Most stores do not say a file's checksum: one that is there with its length would be taken for the same.
    raise ValueError(
      f'{len(wrong)} of {len(wanted)} files at {url} are gone or not what was published: {shown}. Delete there what is '
      'left of them (or the whole folder) and run the publishing command again.'
    )
  return len(wanted)


def files_of(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """What is published: all but hidden files, what is half-written, and the card that is made anew."""
  for path in sorted(folder.rglob('*')):
    parts = path.relative_to(folder).parts
    hidden = any(part.startswith('.') for part in parts) or path.name.endswith('.partial')
    if path.is_file() and not hidden and parts not in ((CARD,), (SUMS,)):
      yield path


def compare(
  folder: pathlib.Path, there: Mapping[str, Mapping[str, Any]], progress: bool = True
) -> tuple[dict[str, str], set[str]]:
  """Reads every file once.

  Args:
    folder: to publish.
    there: what a store says of its files, by path.
    progress: shows a progress bar.
  Returns:
    SHA-256 of every file by its path with forward slashes; those of which the store has the same, by length and, where
    it says it, MD5.
  """
  paths = list(files_of(folder))
  sums, kept = {}, set()
  for path in tqdm(paths, desc='checksums', unit='file', disable=not progress):
    name = path.relative_to(folder).as_posix()
    info = there.get(name)
    alike = info is not None and info.get('size') == path.stat().st_size
    said = md5_of(info) if alike and info is not None else None
    sums[name], md5 = digests(path, md5=said is not None)
    if alike and said in (None, md5):
      kept.add(name)
  return sums, kept


def digests(path: pathlib.Path, *, md5: bool) -> tuple[str, bytes]:
  """SHA-256 in hexadecimal digits and, where asked for, MD5 of a file, which is read once."""
  sha256, other = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
  with path.open('rb', buffering=0) as file:
    while block := file.read(_BLOCK_BYTES):
      sha256.update(block)
      if md5:
        other.update(block)
  return sha256.hexdigest(), other.digest()


def listing(store: fsspec.AbstractFileSystem, root: str) -> dict[str, Mapping[str, Any]]:
  """What is at `root`, by its path below it."""
  store.invalidate_cache()
  try:
    found = stores.patiently(store.find, root, detail=True)
  except FileNotFoundError:
    return {}
  prefix = store._strip_protocol(root).rstrip('/') + '/'
  return {path.removeprefix(prefix): info for path, info in found.items()}


def md5_of(info: Mapping[str, Any]) -> bytes | None:
  """The MD5 that Google's or Azure's store says of a file; None where it says none."""
  said = info.get('md5Hash') or (info.get('content_settings') or {}).get('content_md5')
  if not said:
    return None
  return bytes(said) if isinstance(said, (bytes, bytearray)) else base64.b64decode(said)


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
    about = about.get('card', {})
    synthetic, labelled = bool(about.get('synthetic')), bool(about.get('labelled'))
    key = 'unlabelled' if 'unlabelled' in name else 'labelled'
    use = (
      f'```python\nimport tensorflow_datasets as tfds\nbuilder = tfds.builder_from_directory({url!r})\n```\n\n'
      'or, to train on them where they lie, '
      f'`python -m deepsentinel.main --config=configs/NAME.py --config.data.{key}={url}`.'
    )
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
