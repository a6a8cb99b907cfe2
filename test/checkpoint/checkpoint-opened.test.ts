import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, realpathSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { test } from 'node:test';
import { LastOpened, openCheckpoint, type SourceFile } from '../../src/checkpoint/source.ts';
import { f32, temporaryDirectory, writeSafetensors } from './safetensors-files.ts';

function writeIndex(directory: string, weightMap: object, metadata?: object): void {
  const index = { ...(metadata === undefined ? {} : { metadata }), weight_map: weightMap };
  writeFileSync(join(directory, 'model.safetensors.index.json'), JSON.stringify(index));
}

test('a single file is opened, and its columns agree', async (context) => {
  const path = join(temporaryDirectory(context), 'any-name.safetensors');
  writeSafetensors(path, [f32('a', 2, 3), { name: 'b', dtype: 'BF16', shape: [5] }, f32('none', 0)]);
  const index = await openCheckpoint(path);
  assert.deepEqual(index.names, ['a', 'none', 'b']);
  assert.deepEqual(index.bytes, Float64Array.of(24, 0, 10));
  assert.deepEqual(index.fileOf, Uint32Array.of(0, 0, 0));
  assert.deepEqual(index.shapeStarts, Uint32Array.of(0, 2, 3, 4));
  assert.deepEqual(index.dimensions, Float64Array.of(2, 3, 0, 5));
  assert.equal(index.offsets[1], index.offsets[0]! + 24);
  const [{ identity, ...file }] = index.files as [SourceFile];
  const where = { path: realpathSync(path), inSharedMemory: false, device: null };
  assert.deepEqual(file, { ...where, bytes: index.offsets[2]! + 10 });
  const { dev, ino, size, mtimeNs, ctimeNs } = statSync(path, { bigint: true });
  const header = createHash('sha256').update(readFileSync(path).subarray(8, index.offsets[0])).digest('hex');
  assert.equal(identity, [dev, ino, size, mtimeNs, ctimeNs, header].join(':'));
});

test('a directory with an index gives the files it names, in the order of their names', async (context) => {
  const directory = temporaryDirectory(context);
  mkdirSync(join(directory, 'more'));
  writeSafetensors(join(directory, 'b.safetensors'), [f32('x', 1)]);
  writeSafetensors(join(directory, 'a.safetensors'), [f32('z', 1), f32('y', 1)]);
  writeSafetensors(join(directory, 'more/c.safetensors'), [f32('w', 1)]);
  writeIndex(directory, {
    x: './b.safetensors',
    y: 'a.safetensors',
    z: 'a.safetensors',
    w: 'more/c.safetensors',
  });
  const { names, fileOf, shapeStarts } = await openCheckpoint(directory);
  assert.deepEqual(names, ['y', 'z', 'x', 'w']);
  assert.deepEqual(fileOf, Uint32Array.of(0, 0, 1, 2));
  assert.deepEqual(shapeStarts, Uint32Array.of(0, 1, 2, 3, 4));
});

test('files that an index does not name do not count, tensors that it does not name do', async (context) => {
  const directory = temporaryDirectory(context);
  writeSafetensors(join(directory, 'model-00001-of-00001.safetensors'), [f32('a', 1), f32('unnamed', 1)]);
  writeSafetensors(join(directory, 'consolidated.safetensors'), [f32('a', 1)]);
  writeFileSync(join(directory, 'broken.safetensors'), '');
  writeIndex(directory, { a: 'model-00001-of-00001.safetensors' }, { total_size: 3 });
  assert.deepEqual((await openCheckpoint(directory)).names, ['a', 'unnamed']);
});

test('without an index, model.safetensors is the checkpoint', async (context) => {
  const directory = temporaryDirectory(context);
  writeSafetensors(join(directory, 'model.safetensors'), [f32('a', 1)]);
  writeSafetensors(join(directory, 'adapter.safetensors'), [f32('a', 1)]);
  assert.deepEqual((await openCheckpoint(`${directory}/`)).names, ['a']);
});

test('without either, all safetensors files are, but not the consolidated copy', async (context) => {
  const directory = temporaryDirectory(context);
  writeSafetensors(join(directory, 'model-00002-of-00002.safetensors'), [f32('b', 1)]);
  writeSafetensors(join(directory, 'model-00001-of-00002.safetensors'), [f32('c', 1)]);
  writeSafetensors(join(directory, 'consolidated.safetensors'), [f32('b', 1)]);
  writeFileSync(join(directory, 'README.md'), '');
  assert.deepEqual((await openCheckpoint(directory)).names, ['c', 'b']);
});

test('a directory of consolidated files only is a checkpoint too', async (context) => {
  const directory = temporaryDirectory(context);
  writeSafetensors(join(directory, 'consolidated.safetensors'), [f32('b', 1)]);
  assert.deepEqual((await openCheckpoint(directory)).names, ['b']);
});

test('a list of files keeps its order, and an index beside them plays no part', async (context) => {
  const directory = temporaryDirectory(context);
  const [a, b] = [join(directory, 'a.safetensors'), join(directory, 'b.safetensors')];
  writeSafetensors(a, [f32('in a', 1)]);
  writeSafetensors(b, [f32('in b', 1)]);
  writeIndex(directory, { other: 'missing.safetensors' });
  assert.deepEqual((await openCheckpoint([b, a])).names, ['in b', 'in a']);
});

test('more files than are read at once keep their order', async (context) => {
  const directory = temporaryDirectory(context);
  const numbers = Array.from({ length: 50 }, (_, number) => String(number).padStart(2, '0'));
  for (const number of numbers)
    writeSafetensors(join(directory, `${number}.safetensors`), [f32(`t${number}`, 1)]);
  const { names } = await openCheckpoint(directory);
  assert.deepEqual(
    names,
    numbers.map((number) => `t${number}`),
  );
});

test('links, as the cache of the Hub uses them, are followed and resolved', async (context) => {
  const directory = temporaryDirectory(context);
  mkdirSync(join(directory, 'blobs'));
  mkdirSync(join(directory, 'snapshot'));
  writeSafetensors(join(directory, 'blobs/0123'), [f32('a', 1)]);
  symlinkSync('../blobs/0123', join(directory, 'snapshot/model.safetensors'));
  const { files } = await openCheckpoint(relative(process.cwd(), join(directory, 'snapshot')));
  assert.equal(files[0]!.path, realpathSync(join(directory, 'blobs/0123')));
});

test('a file in shared memory is known as such, also behind a link', async (context) => {
  const shared = join(temporaryDirectory(context, '/dev/shm'), 'w.safetensors');
  writeSafetensors(shared, [f32('a', 1)]);
  const link = join(temporaryDirectory(context), 'model.safetensors');
  symlinkSync(shared, link);
  assert.equal((await openCheckpoint(link)).files[0]!.inSharedMemory, true);
});

test('an empty shard is no fault while others have tensors', async (context) => {
  const directory = temporaryDirectory(context);
  writeSafetensors(join(directory, 'a.safetensors'), []);
  writeSafetensors(join(directory, 'b.safetensors'), [f32('b', 1)]);
  const { names, fileOf } = await openCheckpoint(directory);
  assert.deepEqual([names, [...fileOf]], [['b'], [1]]);
});

test('files with the headers of those that were opened last have their columns, and are those that they are now', async (context) => {
  const directory = temporaryDirectory(context);
  const paths = ['a', 'b'].map((name) => join(directory, `${name}.safetensors`));
  for (const [at, path] of paths.entries()) writeSafetensors(path, [f32(`t${at}`, 2, 3)]);
  const last = new LastOpened();
  const first = await openCheckpoint(paths, last);
  writeSafetensors(paths[1]!, [f32('t1', 2, 3)]);
  const second = await openCheckpoint(paths, last);
  assert.equal(second.names, first.names);
  assert.deepEqual(second, await openCheckpoint(paths));
  writeSafetensors(paths[1]!, [f32('t0', 2, 3)]);
  await assert.rejects(openCheckpoint(paths, last), /tensor "t0" is in/);
  assert.deepEqual((await openCheckpoint(paths.slice(0, 1), last)).names, ['t0']);
  writeSafetensors(paths[1]!, [f32('t1', 3, 2)]);
  assert.deepEqual(await openCheckpoint(paths, last), await openCheckpoint(paths));
});
