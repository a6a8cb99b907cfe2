import assert from 'node:assert/strict';
import { test } from 'node:test';
import { failure } from '../engines/harness.ts';
import { bindCheckpointEngineLink } from '../engines/scripted-worker.ts';
import { TestHost } from '../native/harness.ts';
import { PythonWorker } from './engine-worker.ts';
import {
  bind,
  connected,
  mapsDeviceMemory,
  skip,
  skipOriginal,
  startWorker,
  tensors,
  worksAgain,
} from './exchanges.ts';

for (const kind of ['weightcast', 'original'] as const) {
  const options = { skip: kind === 'original' ? skipOriginal : skip };
  const whose = kind === 'original' ? "checkpoint-engine's worker" : 'our worker';

  test(
    `an error in load_weights arrives with its traceback, and the process lives: ${whose}`,
    options,
    async (t) => {
      const { device, worker, link } = await connected(t, kind, { at: 2, does: 'raise' });
      const error = await failure(link.load(tensors));
      assert.match(
        error.message,
        /failed loading a bucket: KeyError: 'there is no such parameter in bucket 2'$/,
      );
      assert.match(String(error.cause), /^Traceback[\s\S]*engine_stub\.py", line \d+, in load_weights/);
      // The rank frees the buffer once it knows: by then our worker has let go of it, whatever the error holds on to.
      if (kind === 'weightcast') assert.ok(!mapsDeviceMemory(worker));
      await link.abort('the worker failed');
      // The original raises what the rank aborts with.
      assert.deepEqual(
        await worker.ended(),
        kind === 'original'
          ? { ended: 'RuntimeError', message: 'weightcast aborted the update: the worker failed' }
          : { ended: 'KeyError', message: "'there is no such parameter in bucket 2'" },
      );
      await worksAgain(t, kind, worker, device);
    },
  );

  test(
    `a handle that cannot be opened arrives with its traceback, and the process lives: ${whose}`,
    options,
    async (t) => {
      const device = new TestHost(t).device({ capacity: 2 ** 22 });
      const worker = await startWorker(t, kind);
      const link = await bind(t, kind, device);
      worker.command({ links: { [device.uuid]: link.address } });
      const handle = Buffer.from(`/dev/shm/weightcast-device-${device.uuid}/allocation-99`);
      const error = await failure(link.open({ handle, bytes: 64 }));
      assert.match(error.message, /failed opening the link buffer: FileNotFoundError: .*allocation-99'$/);
      await link.abort('no buffer');
      assert.equal((await worker.ended()).ended, 'FileNotFoundError');
      await worksAgain(t, kind, worker, device);
    },
  );

  test(`a worker that is killed while it loads fails the request at once: ${whose}`, options, async (t) => {
    const { link } = await connected(t, kind, { at: 2, does: 'die' });
    const error = await failure(link.load(tensors));
    assert.match(error.message, /closed the connection while loading a bucket$/);
    await link.abort('the worker died');
  });

  test(`a worker that hangs fails the request at its deadline: ${whose}`, options, async (t) => {
    const { link } = await connected(t, kind, { at: 2, does: 'hang' }, 5_000);
    const error = await failure(link.load(tensors));
    assert.match(error.message, /did not answer within 5000 ms when loading a bucket$/);
    await link.abort('the worker hangs');
  });

  test(`a post-hook that throws fails the exchange, and the process lives: ${whose}`, options, async (t) => {
    const { device, worker, link } = await connected(t, kind, { at: 'post-hook', does: 'raise' });
    await link.release();
    const error = await failure(link.finish());
    assert.match(
      error.message,
      kind === 'original'
        ? /closed the connection while running its post-hook$/
        : /running its post-hook: KeyError: /,
    );
    await link.abort('the post-hook failed');
    assert.equal((await worker.ended()).ended, 'KeyError');
    await worksAgain(t, kind, worker, device);
  });

  test(
    `an abort between two buckets ends the exchange on both sides, and the process lives: ${whose}`,
    options,
    async (t) => {
      const { device, worker, link, buffer } = await connected(t, kind, null);
      await link.abort('rank 3 died');
      buffer.free();
      const { ended, message } = await worker.ended();
      assert.equal(ended, kind === 'original' ? 'RuntimeError' : 'UpdateAborted');
      assert.match(message!, /aborted the update: rank 3 died$/);
      await worksAgain(t, kind, worker, device);
    },
  );
}

test('a post-hook of SGLang, which logs its error and goes on, fails the exchange', { skip }, async (t) => {
  const device = new TestHost(t).device({ capacity: 2 ** 22 });
  const buffer = device.allocate(1_024);
  const worker = await PythonWorker.start(t, 'weightcast_worker.py', ['cpu', 'sglang', '60']);
  const link = await bind(t, 'weightcast', device);
  worker.command({ links: { [device.uuid]: link.address }, fault: { at: 'post-hook', does: 'raise' } });
  await link.open({ handle: buffer.ipcHandle, bytes: buffer.bytes });
  await link.load(tensors);
  await link.release();
  buffer.free();
  const error = await failure(link.finish());
  assert.match(error.message, /running its post-hook: KeyError: /);
  await link.abort('the post-hook failed');
  assert.equal((await worker.ended()).ended, 'KeyError');
  await worksAgain(t, 'weightcast', worker, device);
});

test('a worker of checkpoint-engine that comes too late is sent away, and its process lives', {
  skip: skipOriginal,
}, async (t) => {
  const device = new TestHost(t).device({ capacity: 2 ** 22 });
  const worker = await startWorker(t, 'original');
  const link = await bindCheckpointEngineLink(t, { latecomerMilliseconds: 20_000 });
  const opening = link.open({ handle: Buffer.from('freed by now'), bytes: 64 });
  opening.catch(() => {});
  await link.abort('rank 3 died');
  link.close();
  worker.command({ links: { [device.uuid]: link.address } });
  assert.equal((await worker.ended()).ended, 'AssertionError');
  await worksAgain(t, 'original', worker, device);
});

test('a model that keeps memory of the link buffer fails the update before that is written over', {
  skip,
}, async (t) => {
  const { device, worker, link } = await connected(t, 'weightcast', { at: 2, does: 'keep' });
  const error = await failure(link.load(tensors));
  assert.match(
    error.message,
    /loading a bucket: .*BufferInUse: the model holds on to memory of the link buffer/,
  );
  await link.abort('in use');
  assert.equal((await worker.ended()).ended, 'BufferInUse');
  await worksAgain(t, 'weightcast', worker, device);
});

test('our worker reads an abort before the buckets that were announced ahead', { skip }, async (t) => {
  const { worker, link } = await connected(t, 'weightcast', { at: 2, does: 'wait' });
  const loads = [2, 3, 4].map(() => link.load(tensors));
  for (const load of loads) load.catch(() => {});
  for (let said = {}; !('bucket' in said && said.bucket === 2); ) said = await worker.next<object>();
  await link.abort('rank 3 died');
  const said = await worker.next<object>();
  assert.deepEqual(
    { ...said },
    { ended: 'UpdateAborted', message: 'the rank aborted the update: rank 3 died' },
  );
});
