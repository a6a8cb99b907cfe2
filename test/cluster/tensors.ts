import { open } from 'node:fs/promises';
import { DTYPES } from '../../src/checkpoint/dtype.ts';
import { openCheckpoint } from '../../src/checkpoint/source.ts';
import type { NamedTensor } from '../../src/index.ts';

/** All tensors of a checkpoint, read with nothing but the file system. */
export async function readTensors(path: string): Promise<Record<string, NamedTensor>> {
  const index = await openCheckpoint(path);
  const files = await Promise.all(index.files.map((file) => open(file.path)));
  const entries: [string, NamedTensor][] = [];
  for (const [row, name] of index.names.entries()) {
    const data = new Uint8Array(index.bytes[row]!);
    await files[index.fileOf[row]!]!.read(data, 0, data.length, index.offsets[row]!);
    const shape = [...index.dimensions.subarray(index.shapeStarts[row]!, index.shapeStarts[row + 1]!)];
    entries.push([name, { dtype: DTYPES[index.dtypes[row]!]!.name, shape, data }]);
  }
  for (const file of files) await file.close();
  return Object.fromEntries(entries.sort(([one], [other]) => (one < other ? -1 : 1)));
}
