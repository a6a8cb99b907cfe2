import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import type { TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Envelope, PeerEvent, Transport } from '../../src/actors/kernel/transport.ts';
import type { Clock, Logger } from '../../src/ports.ts';
import { type ClusterKeys, createClusterKeys, spokeKeys } from '../../src/transport/curve.ts';
import { messageFrames } from '../../src/transport/frames.ts';
import { HubTransport } from '../../src/transport/hub.ts';
import type { TransportLimits } from '../../src/transport/limits.ts';
import { nodeName } from '../../src/transport/node-name.ts';
import { SpokeTransport } from '../../src/transport/spoke.ts';
import { patience } from '../patience.ts';

export { eventually } from '../eventually.ts';

export const clock: Clock = {
  now: () => performance.now(),
  after(milliseconds, callback) {
    const timer = setTimeout(callback, milliseconds);
    return () => clearTimeout(timer);
  },
};

/** Pings so often that a dead peer is found within a test, so rarely lost that a busy machine finds none. */
export const hasty: Partial<TransportLimits> = { pingEveryMilliseconds: 100, lostAfterMilliseconds: 9_000 };

export interface LogLine {
  readonly level: 'debug' | 'info' | 'warn' | 'error';
  readonly message: string;
}

export function recordingLog(): Logger & { readonly lines: LogLine[] } {
  const lines: LogLine[] = [];
  const at = (level: LogLine['level']) => (_: object, message: string) => void lines.push({ level, message });
  return { lines, debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') };
}

/** The frame of an envelope that fits into one. */
export function messageFrame(session: number, position: number, envelope: Uint8Array): Uint8Array {
  return messageFrames(session, position, envelope, 2 ** 20)[0]!;
}

/** All that a transport told its listener. */
export interface Heard {
  readonly envelopes: { readonly from: string; readonly envelope: Envelope }[];
  readonly events: PeerEvent[];
  bodies(from?: string): unknown[];
  states(): string[];
}

export function listenTo(transport: Transport): Heard {
  const envelopes: Heard['envelopes'] = [];
  const events: PeerEvent[] = [];
  transport.listen(
    (from, envelope) => envelopes.push({ from, envelope }),
    (event) => events.push(event),
  );
  return {
    envelopes,
    events,
    bodies: (from) =>
      envelopes
        .filter((entry) => from === undefined || entry.from === from)
        .map(({ envelope }) => ('body' in envelope ? envelope.body : undefined)),
    states: () => events.map(({ node, state }) => `${node.split('~')[0]} ${state}`),
  };
}

export function tell(body: unknown): Envelope {
  return { kind: 'tell', to: { node: 'any~1', name: 'any', generation: 0 }, from: null, body };
}

export function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

/** One cluster of a test: its keys, and what it started, which ends with the test. */
export class TestCluster {
  readonly keys: ClusterKeys = createClusterKeys();
  readonly #test: TestContext;

  constructor(test: TestContext) {
    this.#test = test;
  }

  async hub(
    options: {
      node?: string;
      endpoint?: string;
      patientWith?: string;
      log?: Logger;
      limits?: Partial<TransportLimits>;
    } = {},
  ) {
    const hub = await HubTransport.bind({
      node: nodeName('hub'),
      keys: this.keys,
      clock,
      log: recordingLog(),
      limits: hasty,
      ...options,
    });
    this.#test.after(() => hub.close(0));
    return hub;
  }

  async spoke(
    endpoint: string,
    options: {
      node?: string;
      log?: Logger;
      limits?: Partial<TransportLimits>;
      keys?: ClusterKeys;
      deadline?: number;
    } = {},
  ) {
    const spoke = await SpokeTransport.connect({
      node: options.node ?? nodeName('rank-0'),
      endpoint,
      keys: options.keys ?? this.keys,
      clock,
      log: options.log ?? recordingLog(),
      deadlineMilliseconds: options.deadline ?? patience,
      limits: options.limits ?? hasty,
    });
    this.#test.after(() => spoke.close(0));
    return spoke;
  }

  /** A real process with a spoke in it; fixtures/spoke-process.ts says what it does. */
  async spokeProcess(endpoint: string, options: { node?: string; limits?: Partial<TransportLimits> } = {}) {
    const node = options.node ?? nodeName('rank-0');
    const child = startProcess(this.#test, 'spoke-process', {
      node,
      endpoint,
      keys: spokeKeys(this.keys),
      limits: options.limits ?? hasty,
    });
    await nextMessage(child);
    return { node, child };
  }

  async hubProcess(endpoint: string, options: { node?: string; limits?: Partial<TransportLimits> } = {}) {
    const node = options.node ?? nodeName('hub');
    const child = startProcess(this.#test, 'hub-process', {
      node,
      endpoint,
      keys: this.keys,
      limits: options.limits ?? hasty,
    });
    const { endpoint: bound } = (await nextMessage(child)) as { endpoint: string };
    return { node, child, endpoint: bound };
  }
}

export function startProcess(test: TestContext, fixture: string, options: object): ChildProcess {
  const child = fork(fileURLToPath(new URL(`fixtures/${fixture}.js`, import.meta.url)), [
    JSON.stringify(options),
  ]);
  test.after(() => void child.kill('SIGKILL'));
  return child;
}

/** The next thing that a child process tells its parent. */
export async function nextMessage(child: ChildProcess): Promise<unknown> {
  const [message] = await once(child, 'message', { signal: AbortSignal.timeout(patience) });
  return message;
}

/** Waits for the end of a process that should come to it by itself. */
export async function exitOf(child: ChildProcess): Promise<{ code: number | null; signal: string | null }> {
  if (child.exitCode === null && child.signalCode === null) {
    await once(child, 'exit', { signal: AbortSignal.timeout(patience) });
  }
  return { code: child.exitCode, signal: child.signalCode };
}
