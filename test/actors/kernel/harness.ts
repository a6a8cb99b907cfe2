import { SimulatedClock } from '../../../simulation/clock.ts';
import { turns } from '../../../simulation/turns.ts';
import {
  type Actor,
  ActorSystem,
  type Context,
  type Request,
  type Transport,
} from '../../../src/actors/kernel/index.ts';
import type { Logger } from '../../../src/ports.ts';

/** Messages of the actors that these tests make: each names what it does. */
export type TestMessage =
  | ({ readonly type: 'echo'; readonly value: unknown } & Request<unknown>)
  | ({ readonly type: 'throw'; readonly value: unknown } & Request<never>)
  | ({ readonly type: 'ignore' } & Request<never>)
  | ({ readonly type: 'wait'; readonly until: Promise<unknown> } & Request<unknown>)
  | { readonly type: 'note'; readonly value: unknown };

export const silentLog: Logger = { debug() {}, info() {}, warn() {}, error() {} };

/** Keeps what happened, in order. */
export class Probe implements Actor<TestMessage> {
  readonly #name: string;
  readonly #events: string[];

  constructor(name: string, events: string[]) {
    this.#name = name;
    this.#events = events;
  }

  started(_context: Context<TestMessage>): void | Promise<void> {
    this.#events.push(`${this.#name} started`);
  }

  async receive(message: TestMessage, context: Context<TestMessage>): Promise<void> {
    switch (message.type) {
      case 'echo':
        return context.reply(message, message.value);
      case 'throw':
        throw message.value;
      case 'ignore':
        return;
      case 'wait':
        await message.until;
        return context.reply(message, 'waited');
      case 'note':
        this.#events.push(`${this.#name} got ${message.value}`);
    }
  }

  stopping(_context: Context<TestMessage>): void | Promise<void> {
    this.#events.push(`${this.#name} stopping`);
  }
}

export function makeSystem(transport?: Transport): {
  system: ActorSystem;
  clock: SimulatedClock;
  crashes: string[];
} {
  const clock = new SimulatedClock();
  const crashes: string[] = [];
  const system = ActorSystem.create({
    clock,
    random: { next: () => 0.5 },
    log: silentLog,
    turns,
    onTopLevelCrash: (ref, error) => crashes.push(`${ref.name}: ${error.message}`),
    ...(transport === undefined ? {} : { transport }),
  });
  return { system, clock, crashes };
}

/** Starts an actor; resolves to what it sees of the system. */
export function contextOf(system: ActorSystem, name: string): Promise<Context<TestMessage>> {
  return new Promise((resolve) => {
    system.spawn<TestMessage>(name, () => ({ started: resolve, receive: () => {} }));
  });
}

export const soon = { deadlineMilliseconds: 1_000 };
