/** What a daemon may read and call. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { EngineList, FileRoots } from '../../src/daemon/access.ts';
import { f32, temporaryDirectory, writeSafetensors } from '../checkpoint/safetensors-files.ts';

test('files within the roots are found where they really are; nothing else is', async (t) => {
  const scratch = temporaryDirectory(t);
  const [root, outside] = [join(scratch, 'root'), join(scratch, 'root-and-more')];
  for (const directory of [root, outside, join(root, 'linked'), join(root, 'indexed')]) mkdirSync(directory);
  writeSafetensors(join(root, 'm.safetensors'), [f32('w', 4)]);
  writeSafetensors(join(outside, 'secret.safetensors'), [f32('w', 4)]);
  const link = (to: string, from: string) => symlinkSync(to, join(root, from));
  link(join(root, 'm.safetensors'), 'inside.safetensors');
  link(join(outside, 'secret.safetensors'), 'out.safetensors');
  link(outside, 'directory');
  link(join(outside, 'secret.safetensors'), 'linked/model.safetensors');
  writeFileSync(
    join(root, 'indexed/model.safetensors.index.json'),
    JSON.stringify({ weight_map: { w: '../../root-and-more/secret.safetensors' } }),
  );
  assert.equal(spawnSync('mkfifo', [join(root, 'fifo.safetensors')]).status, 0);
  const roots = await FileRoots.open([root]);

  assert.equal(await roots.resolve(join(root, 'm.safetensors')), join(root, 'm.safetensors'));
  assert.equal(await roots.resolve(join(root, 'inside.safetensors')), join(root, 'm.safetensors'));
  for (const path of [
    join(outside, 'secret.safetensors'),
    `${root}/../root-and-more/secret.safetensors`,
    join(root, 'out.safetensors'),
    join(root, 'directory'),
    join(root, 'directory/secret.safetensors'),
    join(root, 'linked'),
    // What is outside is not said to exist or not.
    join(outside, 'missing'),
    '/',
    '/etc/passwd',
  ])
    await assert.rejects(
      roots.resolve(path),
      { name: 'AccessError', message: /outside the daemon's roots/ },
      path,
    );
  await assert.rejects(roots.resolve(join(root, 'indexed')), (error: Error) =>
    ['AccessError', 'CheckpointError'].includes(error.name),
  );
  for (const path of ['m.safetensors', './x', `${root}/m\0.safetensors`, ''])
    await assert.rejects(roots.resolve(path), { name: 'UsageError', message: /is not an absolute path/ });
  await assert.rejects(roots.resolve(join(root, 'missing')), {
    name: 'CheckpointError',
    message: /does not exist/,
  });
  await assert.rejects(roots.resolve(join(root, 'fifo.safetensors')), { message: /is not a regular file/ });
  await assert.rejects(FileRoots.open([join(root, 'm.safetensors')]), {
    name: 'UsageError',
    message: /is not a directory/,
  });
});

test('loopback addresses and what is named may be called, nothing that only looks like them', () => {
  const engines = new EngineList([
    '10.1.0.0/16',
    'node-2',
    'node-3:8000',
    'https://engine.example:8443',
    'unix:/run/vllm.sock',
    'fd00::/8',
  ]);
  const allowed = [
    'http://127.0.0.1:8000',
    'http://127.8.8.8',
    'http://localhost:1',
    'http://[::1]:8000',
    'http://10.1.255.1:8000',
    'http://node-2:9999',
    'http://node-3:8000',
    'https://engine.example:8443',
    'unix:/run/vllm.sock',
    'http://[fd00::1]:80',
    // Another spelling of 127.0.0.1.
    'http://0x7f.1:8000',
  ];
  for (const endpoint of allowed) engines.check(endpoint);
  const refused = [
    'http://10.2.0.1:8000',
    'http://node-3:8001',
    'http://node-3',
    'http://engine.example:8443',
    'http://127.0.0.1.evil.example',
    'http://localhost.evil.example',
    'http://127.0.0.1@evil.example:80',
    'http://evil.example#127.0.0.1',
    'http://169.254.169.254/latest/meta-data',
    'http://0.0.0.0:8000',
    'http://[::ffff:10.2.0.1]:80',
    'unix:/var/run/docker.sock',
    'unix:/run/../var/run/docker.sock',
    'file:///etc/passwd',
    'gopher://127.0.0.1',
    'no url',
    '',
  ];
  for (const endpoint of refused)
    assert.throws(() => engines.check(endpoint), { name: 'AccessError' }, endpoint);
  assert.throws(
    () => engines.check('http://user:password@evil.example'),
    (error: Error) => !error.message.includes('password'),
  );
  for (const entry of ['', '10.0.0.0/33', 'a/b', 'ftp://x', 'unix:relative'])
    assert.throws(() => new EngineList([entry]), { name: 'UsageError', message: /--allow-engine is/ }, entry);
});
