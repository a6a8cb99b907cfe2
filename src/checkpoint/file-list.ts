import { readdir, stat } from 'node:fs/promises';
import { join, normalize } from 'node:path';
import { CheckpointError } from '../errors.ts';
import { readRegularFile } from '../text-file.ts';
import { mapBounded } from './bounded-concurrency.ts';
import { escapeControls, quoted } from './printable.ts';
import { asCheckpointError } from './safetensors.ts';
import { isObject, parseJsonObject } from './strict-json.ts';

export const INDEX = 'model.safetensors.index.json';
const SINGLE = 'model.safetensors';
const PARALLEL_LOOKUPS = 16;

/** A file as the caller named it, and the tensors that an index expects in it. */
export interface ListedFile {
  readonly path: string;
  readonly expected: readonly string[];
}

/**
 * The files that make up a checkpoint. In a directory the index decides, if there is one: only the files that it
 * names count, as in vLLM and transformers (so `consolidated.safetensors` beside an index is not read a second
 * time). Without an index it is `model.safetensors`, else all `*.safetensors` in the order of their names.
 * `metadata.total_size` of an index is ignored, as by other readers: writers get it wrong.
 *
 * Rejects with a CheckpointError of one line.
 */
export async function listFiles(source: string | readonly string[]): Promise<readonly ListedFile[]> {
  if (typeof source !== 'string') {
    if (source.length === 0) throw new CheckpointError('the list of checkpoint files is empty');
    return source.map((path) => ({ path, expected: [] }));
  }
  const stats = await withPathInError(source, () => stat(source));
  if (!stats.isDirectory()) return [{ path: source, expected: [] }];
  const entries = await withPathInError(source, () => readdir(source));
  if (entries.includes(INDEX)) return listIndex(source);
  return listDirectory(source, entries).map((name) => ({ path: join(source, name), expected: [] }));
}

async function withPathInError<T>(path: string, operation: () => Promise<T>): Promise<T> {
  try {
    return await operation();
  } catch (error) {
    throw asCheckpointError(error, escapeControls(path));
  }
}

/** Files of a directory without an index. */
function listDirectory(directory: string, entries: readonly string[]): readonly string[] {
  const shard = entries.find((name) => /^model-\d+-of-\d+\.safetensors$/.test(name));
  if (entries.includes(SINGLE) && shard !== undefined) {
    const both = `${SINGLE} and ${quoted(shard)}, and no ${INDEX} that says which are the checkpoint`;
    throw new CheckpointError(`${escapeControls(directory)} holds ${both}: give the files themselves`);
  }
  if (entries.includes(SINGLE)) return [SINGLE];
  const files = entries.filter((name) => name.endsWith('.safetensors')).sort();
  if (files.length === 0) {
    throw new CheckpointError(`${escapeControls(directory)} holds no ${INDEX} and no *.safetensors file`);
  }
  if (files.every((name) => name.startsWith('adapter_model'))) {
    const what = `${quoted(files[0]!)}, the adapter of a model, and no weights of one: merge it into its model first`;
    throw new CheckpointError(`${escapeControls(directory)} holds ${what}`);
  }
  // Mistral's releases hold the same weights a second time under other names.
  const shards = files.filter((name) => !name.startsWith('consolidated'));
  const chosen = shards.length > 0 ? shards : files;
  const missing = missingShard(chosen);
  if (missing !== null) {
    throw new CheckpointError(`${escapeControls(directory)} is incomplete: ${quoted(missing)} is missing`);
  }
  return chosen;
}

/**
 * The first file that a set of shards `<name>-00001-of-00003.safetensors` lacks by its own numbering, or null: an
 * interrupted download looks like a smaller model.
 */
function missingShard(files: readonly string[]): string | null {
  const present = new Set(files);
  for (const file of files) {
    const match = /^(.*-)(\d+)(-of-(\d+)\.safetensors)$/.exec(file);
    if (match === null) continue;
    const [, prefix, digits, suffix, total] = match as unknown as [string, string, string, string, string];
    const nameOf = (number: number) => prefix + String(number).padStart(digits.length, '0') + suffix;
    // Some writers count from 0, and then disagree on whether the total is the last number.
    if (present.has(nameOf(0))) continue;
    for (const neighbour of [Number(digits) - 1, Number(digits) + 1]) {
      if (neighbour < 1 || neighbour > Number(total)) continue;
      if (!present.has(nameOf(neighbour))) return nameOf(neighbour);
    }
  }
  return null;
}

async function listIndex(directory: string): Promise<readonly ListedFile[]> {
  const path = join(directory, INDEX);
  const file = escapeControls(path);
  const index = await withPathInError(path, () => readRegularFile(path));
  const weightMap = parseJsonObject(index, file).get('weight_map');
  if (!isObject(weightMap)) throw new CheckpointError(`${file} has no object "weight_map"`);
  const tensorsOf = new Map<string, string[]>();
  for (const [tensor, name] of Object.entries(weightMap)) {
    if (typeof name !== 'string' || !staysInside(name)) {
      const value = quoted(typeof name === 'string' ? name : String(JSON.stringify(name)));
      throw new CheckpointError(
        `${file} places tensor ${quoted(tensor)} in ${value}, which is no file beside it`,
      );
    }
    const key = normalize(name);
    const tensors = tensorsOf.get(key);
    if (tensors === undefined) tensorsOf.set(key, [tensor]);
    else tensors.push(tensor);
  }
  if (tensorsOf.size === 0) throw new CheckpointError(`${file} names no tensors`);
  await checkNamedFilesExist(directory, file, tensorsOf);
  return [...tensorsOf]
    .sort(byFileName)
    .map(([name, expected]) => ({ path: join(directory, name), expected }));
}

/** Whether a path of an index leads to below the index: links there may point anywhere, as in the Hub's cache. */
function staysInside(name: string): boolean {
  return name !== '' && !name.startsWith('/') && !name.includes('\0') && !name.split('/').includes('..');
}

function byFileName([a]: readonly [string, unknown], [b]: readonly [string, unknown]): number {
  return a < b ? -1 : 1;
}

async function checkNamedFilesExist(
  directory: string,
  index: string,
  tensorsOf: ReadonlyMap<string, readonly string[]>,
): Promise<void> {
  await mapBounded([...tensorsOf], PARALLEL_LOOKUPS, async ([name, tensors]) => {
    try {
      await stat(join(directory, name));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') return; // Opening it will say what is wrong.
      throw new CheckpointError(
        `${index} names the file ${quoted(name)} (for tensor ${quoted(tensors[0]!)}), which does not exist`,
      );
    }
  });
}
