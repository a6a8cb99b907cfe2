import assert from 'node:assert/strict';
import { hostname } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import type { LinkKind } from '../../src/engines/engine-client.ts';
import type { Cluster } from '../../src/index.ts';
import { Mapping } from '../../src/native-bridge/memory.ts';
import { f32, temporaryDirectory, writeSafetensors } from '../checkpoint/safetensors-files.ts';

const bucketBytes = 1_024;
const tensorNames = ['a', 'b', 'c', 'd'];

/**
 * Stores through a mapping that someone holds open change no time stamp of a file that is used in place: an update finds
 * them as it uploads, and the engine is broken until the file is again what was registered.
 */
export async function assertStoresAreFound(t: TestContext, cluster: Cluster, link: LinkKind): Promise<void> {
  const file = join(temporaryDirectory(t, '/dev/shm'), 'live.safetensors');
  // Each tensor is filled with a byte of its own.
  writeSafetensors(
    file,
    tensorNames.map((name) => f32(name, 256)),
  );
  const mapping = Mapping.open(file, true);
  const at = mapping.bytes - 8;
  // The first store to a page is noted in the time of modification, the next ones are not.
  mapping.write(at, mapping.read(at, 8));
  await cluster.register('live', file);
  const first = await cluster.update('live', { bucketBytes });
  assert.equal(first.instances[0]?.proofs.arrived, link === 'weightcast' ? 'holds' : 'unknown');
  mapping.write(at, new Uint8Array(8).fill(200));
  await assert.rejects(cluster.update('live', { bucketBytes }), (error: Error) => {
    assert.equal(error.name, 'VerificationError', error.message);
    assert.match(error.message, /tensor d has another digest than the checkpoint/);
    assert.ok(error.message.includes(`${file} on host ${hostname()}`), error.message);
    return true;
  });
  assert.equal((await cluster.status()).instances[0]?.state, 'broken');
  // What it was when it was registered.
  mapping.write(at, new Uint8Array(8).fill(tensorNames.length));
  mapping.close();
  await cluster.update('live', { bucketBytes });
  assert.equal((await cluster.status()).instances[0]?.state, 'serving');
}
