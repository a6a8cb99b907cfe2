import assert from 'node:assert/strict';
import { describe, type TestContext, test } from 'node:test';
import { buildFakeCuda } from './fake-cuda.ts';
import { buildFakeNccl } from './fake-nccl.ts';
import type { FaultReport } from './fixtures/nccl-fault.ts';
import { TestHost } from './harness.ts';

/** The ranks' own timeouts are 300 ms; NCCL is given five seconds to let go of the device. */
const soonMilliseconds = 2_500;
const boundedMilliseconds = 12_000;

buildFakeCuda();
buildFakeNccl();

async function run(t: TestContext, when: string, fault: string): Promise<FaultReport> {
  const host = new TestHost(t);
  const program = host.start('nccl-fault', host.controlPath(), when, fault);
  const report = await program.message<FaultReport>();
  assert.equal(await program.ended(), 0, 'the process ends by itself, whatever hangs in it');
  assert.deepEqual(host.remains(), []);
  return report;
}

function assertAll(results: readonly string[], pattern: RegExp): void {
  for (const result of results) assert.match(result, pattern);
}

describe('NCCL that fails', { concurrency: 4 }, () => {
  for (const { when, fault, pattern } of [
    { when: 'open', fault: 'init-pending', pattern: /^DeadlineError: opening a communicator on rank \d/ },
    { when: 'open', fault: 'init-fails', pattern: /^NativeError: .*\(socket: out of luck\)$|^AbortedError/ },
    { when: 'broadcast', fault: 'issue-pending', pattern: /^DeadlineError: broadcast 0 on rank \d/ },
    { when: 'broadcast', fault: 'kernel-hangs', pattern: /^DeadlineError: broadcast 0 on rank \d/ },
    { when: 'broadcast', fault: 'remote-error', pattern: /^PeerLostError|^AbortedError/ },
    { when: 'broadcast', fault: 'refuse', pattern: /: native-broadcast:refuse, on purpose|^AbortedError/ },
  ] as const) {
    test(`${fault}: all ranks are told in time and the device has everything back`, async (t) => {
      const report = await run(t, when, fault);
      assertAll(report[when].results, pattern);
      assert(
        report[when].results.some((result) => !result.startsWith('Aborted')),
        'one rank says what it was',
      );
      assert(report[when].milliseconds < soonMilliseconds, `${report[when].milliseconds} ms`);
      if (when === 'broadcast') {
        assert.deepEqual(
          report.later.results,
          report.broadcast.results,
          'later ones fail for the same reason',
        );
        assert.deepEqual(report.close.results, ['ok', 'ok']);
      }
      assert.deepEqual(report.after, report.before);
    });
  }

  for (const { when, fault } of [
    { when: 'open', fault: 'init-hangs' },
    { when: 'broadcast', fault: 'issue-hangs' },
    { when: 'broadcast', fault: 'abort-hangs' },
    { when: 'broadcast', fault: 'abort-deaf' },
    { when: 'broadcast', fault: 'lost' },
  ] as const) {
    test(`${fault}: all ranks are told, in bounded time, that the device is lost`, async (t) => {
      const report = await run(t, when, fault);
      assert(report[when].milliseconds < boundedMilliseconds, `${report[when].milliseconds} ms`);
      for (const step of when === 'open' ? [report.open] : [report.broadcast, report.later]) {
        // A rank that has only heard of another's error may find its own part of the device in order.
        assertAll(
          step.results,
          fault === 'lost' ? /^DeviceLostError|^AbortedError.*failed$/ : /^DeviceLostError/,
        );
        assert(step.results.some((result) => result.startsWith('DeviceLostError')));
      }
    });
  }

  test('finalize-pending: a communicator that does not come to rest is aborted', async (t) => {
    const report = await run(t, 'close', 'finalize-pending');
    assert.deepEqual(report.close.results, ['ok', 'ok']);
    assert(report.close.milliseconds < boundedMilliseconds);
    assert.deepEqual(report.after, report.before);
  });

  test('destroy-hangs: whoever closes is told that the device is lost', async (t) => {
    const report = await run(t, 'close', 'destroy-hangs');
    assertAll(report.close.results, /^DeviceLostError/);
    assert(report.close.milliseconds < boundedMilliseconds);
  });
});
