import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';

/** For a machine with the devices rxe0 and rxe1, as in verbs.test.ts: whole scenarios with the verbs fabric alone. */

interface Result {
  readonly verified: boolean;
  readonly requestsServed: number;
  readonly requestsFailed: number;
  readonly bytes: number;
  readonly received: readonly { readonly instance: string; readonly bytes: number }[];
}

/** Longest packet that a device of this machine sends: the MTU of RoCE below its jumbo frames. */
const packetBytes = 4096;

function packetsReceived(): number {
  return ['rxe0', 'rxe1']
    .map((device) => readFileSync(`/sys/class/infiniband/${device}/ports/1/hw_counters/rcvd_pkts`, 'utf8'))
    .reduce((sum, text) => sum + Number(text), 0);
}

/** Runs scenarios/NAME as a user does, and returns its figures; everything it got came over the devices. */
async function runScenario(t: TestContext, name: string, ...options: string[]): Promise<Result> {
  const scratch = mkdtempSync(join(tmpdir(), 'scenario-'));
  t.after(() => rmSync(scratch, { recursive: true, force: true }));
  const json = join(scratch, 'result.json');
  const script = fileURLToPath(new URL(`../../scenarios/${name}.js`, import.meta.url));
  const before = packetsReceived();
  const child = spawn(process.execPath, [script, ...options, '--json', json], {
    stdio: 'inherit',
    env: { ...process.env, WEIGHTCAST_FABRIC: 'verbs' },
  });
  const code = await new Promise((resolve) =>
    child.once('exit', (status, signal) => resolve(signal ?? status)),
  );
  assert.equal(code, 0);
  const result: Result = JSON.parse(readFileSync(json, 'utf8'));
  assert.deepEqual([result.verified, result.requestsFailed], [true, 0]);
  assert.ok(result.requestsServed > 0);
  const received = result.received.reduce((sum, { bytes }) => sum + bytes, 0);
  assert.ok(received >= result.bytes, `${received} of ${result.bytes} bytes were received`);
  const packets = packetsReceived() - before;
  assert.ok(packets > received / packetBytes, `${packets} packets for ${received} bytes`);
  return result;
}

test('a late joiner gets every byte from both instances that serve', async (t) => {
  const { received } = await runScenario(t, 'late-join', '--size', '16MiB', '--ranks', '1');
  assert.deepEqual(received.map(({ instance }) => instance).sort(), ['first', 'second']);
});

test('a source that is killed while it is read is made up for by the other', async (t) => {
  const { received } = await runScenario(t, 'source-dies', '--size', '32MiB', '--ranks', '1');
  assert.ok(received.some(({ instance }) => instance === 'survivor'));
});
