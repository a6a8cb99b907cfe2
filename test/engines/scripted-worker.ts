import type { TestContext } from 'node:test';
import { Reply } from 'zeromq';
import { CheckpointEngineWorkerLink } from '../../src/engines/worker-link/checkpoint-engine.ts';
import { systemClock } from '../../src/native-bridge/clock.ts';
import { never } from './harness.ts';

/** A socket in the place of checkpoint-engine's worker; the test says what it answers. */
export class ScriptedWorker {
  readonly #socket = new Reply();

  constructor(t: TestContext, address: string) {
    t.after(() => this.leave());
    this.#socket.connect(address);
  }

  /** What the rank asks next. */
  async asked(): Promise<Buffer> {
    const frames = await this.#socket.receive();
    return Buffer.concat(frames);
  }

  async answer(reply: string | Uint8Array | Uint8Array[] = ''): Promise<void> {
    await this.#socket.send(reply);
  }

  /** Answers one request after the other with success; resolves with them. */
  async serve(requests: number): Promise<Buffer[]> {
    const asked: Buffer[] = [];
    for (let turn = 0; turn < requests; turn += 1) {
      asked.push(await this.asked());
      await this.answer();
    }
    return asked;
  }

  leave(): void {
    if (!this.#socket.closed) this.#socket.close();
  }
}

export async function bindCheckpointEngineLink(
  t: TestContext,
  options: { timeoutMilliseconds?: number; latecomerMilliseconds?: number } = {},
): Promise<CheckpointEngineWorkerLink> {
  const link = await CheckpointEngineWorkerLink.bind({
    deviceUuid: 'GPU-test',
    epoch: 7,
    timeoutMilliseconds: never,
    latecomerMilliseconds: 0,
    clock: systemClock,
    ...options,
  });
  t.after(() => link.close());
  return link;
}
