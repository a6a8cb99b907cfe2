import { strict as assert } from 'node:assert';
import { AbortedError, DeadlineError, type WeightcastError } from '../errors.ts';
import type { Interval } from '../native-bridge/addon.ts';
import type { BroadcastOptions, Collective } from '../native-bridge/collective.ts';
import type { Clock } from '../ports.ts';

/** Bytes a millisecond. */
const broadcastRate = 100e6;

interface Operation {
  readonly root: number;
  readonly bytes: number;
  readonly startedAt: number;
  readonly waiting: { resolve(interval: Interval): void; reject(error: WeightcastError): void }[];
}

/** The communicators of a simulated cluster, by number. */
export class SimulatedCommunicators {
  readonly #clock: Clock;
  readonly #groups = new Map<number, Group>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  open(communicator: number, worldSize: number): Collective {
    let group = this.#groups.get(communicator);
    if (group === undefined) {
      group = new Group(worldSize, this.#clock);
      this.#groups.set(communicator, group);
    }
    return group.join();
  }
}

/**
 * Members that broadcast to each other. What NCCL answers with a hang is an assertion here: every member must issue
 * the same operations in the same order.
 */
class Group {
  readonly #worldSize: number;
  readonly #clock: Clock;
  readonly #operations: Operation[] = [];
  #failed: WeightcastError | null = null;

  constructor(worldSize: number, clock: Clock) {
    this.#worldSize = worldSize;
    this.#clock = clock;
  }

  join(): Collective {
    let issued = 0;
    return {
      broadcast: (options) => {
        issued += 1;
        return this.#broadcast(issued - 1, options);
      },
      abort: () => this.#fail(new AbortedError('the collective was aborted')),
      close: () => this.#fail(new AbortedError('a member of the collective has left')),
    };
  }

  #broadcast(number: number, { root, bytes, timeoutMilliseconds }: BroadcastOptions): Promise<Interval> {
    if (this.#failed !== null) return Promise.reject(this.#failed);
    this.#operations[number] ??= { root, bytes, startedAt: this.#clock.now(), waiting: [] };
    const operation = this.#operations[number]!;
    assert.deepEqual(
      [root, bytes],
      [operation.root, operation.bytes],
      `members differ on operation ${number}`,
    );
    return new Promise((resolve, reject) => {
      const cancel = this.#clock.after(timeoutMilliseconds, () =>
        this.#fail(
          new DeadlineError(`operation ${number} waited for a member for ${timeoutMilliseconds} ms`),
        ),
      );
      operation.waiting.push({
        resolve: (interval) => {
          cancel();
          resolve(interval);
        },
        reject: (error) => {
          cancel();
          reject(error);
        },
      });
      if (operation.waiting.length === this.#worldSize) this.#run(operation);
    });
  }

  #run(operation: Operation): void {
    this.#clock.after(operation.bytes / broadcastRate, () => {
      if (this.#failed !== null) return;
      const interval = { startedAt: operation.startedAt, endedAt: this.#clock.now() };
      for (const { resolve } of operation.waiting.splice(0)) resolve(interval);
    });
  }

  #fail(error: WeightcastError): void {
    this.#failed ??= error;
    for (const operation of this.#operations) {
      for (const { reject } of operation.waiting.splice(0)) reject(this.#failed);
    }
  }
}
