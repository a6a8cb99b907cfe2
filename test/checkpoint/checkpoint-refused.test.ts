import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { openCheckpoint } from '../../src/checkpoint/source.ts';
import { assertClear, f32, fileBytes, temporaryDirectory, writeSafetensors } from './safetensors-files.ts';

const INDEX = 'model.safetensors.index.json';

async function assertRefused(source: string | string[], ...words: (string | RegExp)[]): Promise<void> {
  await assert.rejects(openCheckpoint(source), (error) => assertClear(error, ...words));
}

const openFiles = () => readdirSync('/proc/self/fd').length;

test('a path that does not exist is refused', async (context) => {
  const path = join(temporaryDirectory(context), 'nothing');
  await assertRefused(path, path, /does not exist/);
  await assertRefused([path], path, /does not exist/);
});

test('a path below a file is refused', async (context) => {
  const file = join(temporaryDirectory(context), 'file');
  writeFileSync(file, 'x');
  await assertRefused(join(file, 'model'), join(file, 'model'), /not a directory/);
});

test('a path with characters that no path can have is refused on one line', async () => {
  await assertRefused('/tmp/a\0b', '/tmp/a\\u0000b');
  await assertRefused('/tmp/no\nsuch', '/tmp/no\\u000asuch', /does not exist/);
});

test('an empty list is refused', async () => {
  await assertRefused([], /list of checkpoint files is empty/);
});

test('a directory without any safetensors file is refused', async (context) => {
  const directory = temporaryDirectory(context);
  writeFileSync(join(directory, 'pytorch_model.bin'), 'x');
  await assertRefused(directory, directory, /no \*\.safetensors/);
});

test('a directory in a list of files is refused', async (context) => {
  const directory = temporaryDirectory(context);
  await assertRefused([directory], directory, /is a directory/);
});

test('files without permission are refused, by what is not permitted', async (context) => {
  const directory = temporaryDirectory(context);
  const file = join(directory, 'model.safetensors');
  writeSafetensors(file, [f32('a', 1)]);
  chmodSync(directory, 0o755);
  chmodSync(file, 0o000);
  // Root may read everything, so root becomes nobody for a moment.
  const wasRoot = process.geteuid!() === 0;
  if (wasRoot) process.seteuid!(65_534);
  try {
    await assertRefused(directory, file, /may not be read: permission denied/);
    await assertRefused(file, file, /may not be read: permission denied/);
  } finally {
    if (wasRoot) process.seteuid!(0);
  }
});

test('a file without tensors is refused', async (context) => {
  const file = join(temporaryDirectory(context), 'model.safetensors');
  writeFileSync(file, fileBytes({ __metadata__: { format: 'pt' } }, 0));
  await assertRefused(file, file, /no tensors/);
  await assertRefused([file], file, /no tensors/);
});

test('a tensor in two files is refused, with both files', async (context) => {
  const directory = temporaryDirectory(context);
  const [a, b] = [join(directory, 'a.safetensors'), join(directory, 'b.safetensors')];
  writeSafetensors(a, [f32('x', 1), f32('w', 1)]);
  writeSafetensors(b, [f32('w', 2)]);
  await assertRefused(directory, '"w"', a, b);
});

test('a file that is listed twice is refused, also under another name', async (context) => {
  const directory = temporaryDirectory(context);
  const [file, link] = [join(directory, 'a.safetensors'), join(directory, 'link')];
  writeSafetensors(file, [f32('x', 1)]);
  symlinkSync(file, link);
  await assertRefused([file, file], file, /listed twice/);
  await assertRefused([file, link], file, link, /same file/);
});

test('a set of shards with one missing is refused, with the name of the missing one', async (context) => {
  for (const missing of ['00001', '00002', '00003']) {
    const directory = temporaryDirectory(context);
    for (const number of ['00001', '00002', '00003'].filter((other) => other !== missing)) {
      writeSafetensors(join(directory, `model-${number}-of-00003.safetensors`), [f32(number, 1)]);
    }
    await assertRefused(directory, directory, `model-${missing}-of-00003.safetensors`);
  }
});

test('a checkpoint beside the shards of another, as an interrupted save leaves them, is refused', async (context) => {
  const directory = temporaryDirectory(context);
  const shard = 'model-00001-of-00001.safetensors';
  for (const name of ['model.safetensors', shard]) writeSafetensors(join(directory, name), [f32('x', 1)]);
  await assertRefused(directory, directory, shard, /no model\.safetensors\.index\.json that says which/);
});

test('an adapter of LoRA alone is refused', async (context) => {
  const directory = temporaryDirectory(context);
  writeSafetensors(join(directory, 'adapter_model.safetensors'), [f32('x', 1)]);
  await assertRefused(directory, directory, 'adapter_model.safetensors', /merge it into its model first/);
});

test('of several bad files the first is named, every time, and no file stays open', async (context) => {
  const directory = temporaryDirectory(context);
  for (let number = 10; number < 50; number += 1) {
    const file = join(directory, `${number}.safetensors`);
    if (number < 12) writeSafetensors(file, [f32(`t${number}`, 1)]);
    else writeFileSync(file, 'x'.repeat(number));
  }
  const before = openFiles();
  for (let round = 0; round < 5; round += 1)
    await assertRefused(directory, join(directory, '12.safetensors'));
  assert.equal(openFiles(), before);
});

const badIndexes: readonly (readonly [title: string, index: string, ...words: (string | RegExp)[]])[] = [
  ['that is not JSON', '{"weight_map": {\n', /not JSON/],
  ['that is empty', '', /not JSON/],
  ['that is a list', '[]', /not a JSON object/],
  ['without a weight map', '{"metadata": {}}', /"weight_map"/],
  ['with a weight map that is a list', '{"weight_map": ["a"]}', /"weight_map"/],
  ['without tensors', '{"weight_map": {}}', /no tensors/],
  ['with a number for a file', '{"weight_map": {"w": 3}}', '"w"', '"3"'],
  ['with null for a file', '{"weight_map": {"w": null}}', '"w"', '"null"'],
  ['with an empty file name', '{"weight_map": {"w": ""}}', '"w"', '""'],
  [
    'that leads out of its directory',
    '{"weight_map": {"w": "../x.safetensors"}}',
    '"w"',
    '"../x.safetensors"',
  ],
  [
    'that leads out by a detour',
    '{"weight_map": {"w": "a/../../x"}}',
    '"w"',
    '"a/../../x"',
    /no file beside it/,
  ],
  [
    'with an absolute path',
    '{"weight_map": {"w": "/etc/passwd"}}',
    '"w"',
    '"/etc/passwd"',
    /no file beside it/,
  ],
  ['with a tensor twice', '{"weight_map": {"w": "a.safetensors", "w": "b.safetensors"}}', '"w" twice'],
  [
    'that names a missing file',
    '{"weight_map": {"w": "gone.safetensors"}}',
    '"w"',
    '"gone.safetensors"',
    /not exist/,
  ],
  [
    'that names a missing tensor',
    '{"weight_map": {"a": "a.safetensors", "v": "a.safetensors"}}',
    '"v"',
    'a.safetensors',
  ],
  [
    'that names the wrong file',
    '{"weight_map": {"a": "b.safetensors", "b": "a.safetensors"}}',
    /does not hold tensor "b"/,
  ],
  ['that names a directory', '{"weight_map": {"w": "directory"}}', 'directory', /is a directory/],
];

for (const [title, text, ...words] of badIndexes) {
  test(`an index ${title} is refused`, async (context) => {
    const directory = temporaryDirectory(context);
    mkdirSync(join(directory, 'directory'));
    writeSafetensors(join(directory, 'a.safetensors'), [f32('a', 1)]);
    writeSafetensors(join(directory, 'b.safetensors'), [f32('b', 1)]);
    writeFileSync(join(directory, INDEX), text);
    await assertRefused(directory, directory, ...words);
  });
}
