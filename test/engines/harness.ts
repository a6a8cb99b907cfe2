import assert from 'node:assert/strict';
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import type { TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Request } from 'zeromq';
import { decodeReply } from '../../src/engines/worker-link/messages.ts';
import {
  MessagePackWorkerLink,
  type MessagePackWorkerLinkOptions,
} from '../../src/engines/worker-link/rank-side.ts';
import {
  type ReceivedWeights,
  type ReceiveOptions,
  receiveWeights,
  type WeightReceiver,
} from '../../src/engines/worker-link/worker-side.ts';
import { WorkerLinkError } from '../../src/errors.ts';
import { systemClock } from '../../src/native-bridge/clock.ts';

/** A deadline that no test waits for: what must happen at once fails the test if it waits for this one. */
export const never = 600_000;
/** A deadline that a test does wait for. */
export const soon = 300;

export const version = 'qwen@0123456789abcdef';

export async function bindLink(
  t: TestContext,
  options: Partial<MessagePackWorkerLinkOptions> = {},
): Promise<MessagePackWorkerLink> {
  const link = await MessagePackWorkerLink.bind({
    deviceUuid: 'HOST-test-0',
    epoch: 7,
    version,
    timeoutMilliseconds: never,
    clock: systemClock,
    ...options,
  });
  t.after(() => link.close());
  return link;
}

/** An engine worker's end in this process; `calls` is what its receiver was asked for, in order. */
export function receive(
  address: string,
  receiver: Partial<WeightReceiver> = {},
  options: Partial<ReceiveOptions> = {},
): { readonly calls: string[]; readonly received: Promise<ReceivedWeights> } {
  const calls: string[] = [];
  const received = receiveWeights(
    { address, deviceUuid: 'HOST-test-0', timeoutMilliseconds: never, clock: systemClock, ...options },
    {
      async open(buffer) {
        calls.push('open');
        await receiver.open?.(buffer);
      },
      async load(tensors) {
        calls.push('load');
        await receiver.load?.(tensors);
      },
      async release() {
        calls.push('release');
        await receiver.release?.();
      },
      async finish() {
        calls.push('finish');
        return (await receiver.finish?.()) ?? null;
      },
      ...(receiver.live && { live: () => receiver.live!() }),
      ...(receiver.record && { record: receiver.record }),
    },
  );
  // A test may look at it only after other waits.
  received.catch(() => {});
  return { calls, received };
}

/** Resolves with the error that a request on a link must fail with. */
export async function failure(request: Promise<unknown>): Promise<WorkerLinkError> {
  const error = await request.then(
    () => assert.fail('the request succeeded'),
    (reason: unknown) => reason,
  );
  assert.ok(error instanceof WorkerLinkError, `not a WorkerLinkError: ${error}`);
  return error;
}

/** A rank that says whatever a test has it say. */
export async function rawRank(t: TestContext) {
  const socket = new Request({ linger: 0 });
  t.after(() => socket.closed || socket.close());
  const address = `ipc://@weightcast-test-${process.pid}-${performance.now()}.sock`;
  await socket.bind(address);
  return {
    address,
    async ask(frame: Uint8Array) {
      await socket.send(frame);
      return decodeReply((await socket.receive())[0]!);
    },
    close: () => socket.close(),
  };
}

export const buffer = { handle: Buffer.from('the handle of a buffer'), bytes: 4_096 };
export const tensors = [{ name: 'norm', dtype: 'F32', shape: [2, 2], offset: 256 }];

/** A promise that a test settles. */
export function gate(): { readonly opened: Promise<void>; open(): void } {
  let open!: () => void;
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { opened, open };
}

/** A program of fixtures/ in a process of its own. */
export class Fixture {
  readonly child: ChildProcess;
  readonly #messages: unknown[] = [];
  readonly #exited: Promise<unknown>;
  #wake: () => void = () => {};

  constructor(t: TestContext, name: string, ...values: string[]) {
    const path = fileURLToPath(new URL(`fixtures/${name}.js`, import.meta.url));
    this.child = fork(path, values, { serialization: 'advanced' });
    this.#exited = once(this.child, 'exit');
    this.child.on('message', (message) => {
      this.#messages.push(message);
      this.#wake();
    });
    this.child.on('exit', () => this.#wake());
    t.after(() => this.kill());
  }

  /** The next message of the process, which must not end before it. */
  async next<T>(): Promise<T> {
    while (this.#messages.length === 0) {
      assert.equal(this.child.exitCode ?? this.child.signalCode, null, 'the process has ended');
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    return this.#messages.shift() as T;
  }

  async kill(): Promise<void> {
    if (this.child.exitCode === null && this.child.signalCode === null) this.child.kill('SIGKILL');
    await this.#exited;
  }
}
