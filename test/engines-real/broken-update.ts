import assert from 'node:assert/strict';
import { open } from 'node:fs/promises';
import type { TestContext } from 'node:test';
import { DTYPES } from '../../src/checkpoint/dtype.ts';
import { openCheckpoint } from '../../src/checkpoint/source.ts';
import { VllmClient } from '../../src/engines/vllm.ts';
import type { LinkTensor } from '../../src/engines/worker-link/worker-link.ts';
import { systemClock } from '../../src/native-bridge/clock.ts';
import { bindLink, never } from '../engines/harness.ts';
import { TestHost } from '../native/harness.ts';
import { sendBuckets, type TestTensor } from '../python/engine-worker.ts';

/** How an update ends that does not reach its end. */
export type Break = 'abort' | 'rank lost' | 'load fails';

/** A tensor that its parameter does not take. */
const misshapen = {
  name: 'model.layers.1.self_attn.k_proj.weight',
  dtype: 'BF16',
  shape: [3, 5],
  offset: 0,
} as const satisfies LinkTensor;

/** Two of the largest tensors. */
const bufferBytes = 4 * 2 ** 20;

export async function readTensors(directory: string): Promise<TestTensor[]> {
  const index = await openCheckpoint(directory);
  const files = await Promise.all(index.files.map(({ path }) => open(path)));
  try {
    return await Promise.all(
      index.names.map(async (name, i) => {
        const data = new Uint8Array(index.bytes[i]!);
        await files[index.fileOf[i]!]!.read(data, 0, data.byteLength, index.offsets[i]!);
        const shape = [...index.dimensions.subarray(index.shapeStarts[i]!, index.shapeStarts[i + 1]!)];
        return { name, dtype: DTYPES[index.dtypes[i]!]!.name, shape, data };
      }),
    );
  } finally {
    await Promise.all(files.map((file) => file.close()));
  }
}

/**
 * Sends `tensors` to an engine as a rank does, and then breaks off. Resolves with what the engine answered to the request
 * to update, when it has.
 */
export async function breakOff(
  t: TestContext,
  endpoint: string,
  tensors: readonly TestTensor[],
  how: Break,
): Promise<string> {
  const device = new TestHost(t).device({ capacity: 2 ** 24 });
  const buffer = device.allocate(bufferBytes);
  const link = await bindLink(t, { deviceUuid: device.uuid });
  const client = new VllmClient({ endpoint, clock: systemClock });
  const order = { links: { [device.uuid]: link.address }, resetCache: false };
  const answered = client
    .update(order, { timeoutMilliseconds: never, signal: new AbortController().signal })
    .then(
      () => 'updated',
      (error: Error) => error.message,
    );
  await link.open({ handle: buffer.ipcHandle, bytes: buffer.bytes });
  await sendBuckets(link, buffer.bytes, (offset, data) => buffer.mapping.write(offset, data), tensors);
  if (how === 'load fails') await assert.rejects(link.load([misshapen]), { name: 'WorkerLinkError' });
  if (how === 'rank lost') link.close();
  else await link.abort('the test breaks it off');
  const answer = await answered;
  buffer.free();
  await client.close();
  return answer;
}
