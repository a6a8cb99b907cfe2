import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import type { TestContext } from 'node:test';
import {
  type ConnectOptions,
  type FabricOptions,
  type FabricPeer,
  HostFabric,
  rdmaOptionsOf,
} from '../../src/native-bridge/fabric.ts';
import { Mapping, ThreadPool } from '../../src/native-bridge/memory.ts';
import { patience } from '../patience.ts';
import { type Program, TestHost } from './harness.ts';

/** Of the segment that a source of a test exposes. */
export const segmentBytes = (8 << 20) + 12_345;

/** What a source says of itself. */
export interface SourceReport {
  readonly address: Uint8Array;
  readonly token: Uint8Array;
}

/** A source in a process of its own, and how to reach it. */
export interface Source extends SourceReport {
  readonly program: Program;
}

/** Every byte of segment number `seed` of any test: no two pages are alike. */
export function contentOf(seed: number, bytes: number): Buffer {
  const words = new Uint32Array(Math.ceil(bytes / 4));
  let state = (seed + 1) * 0x9e3779b1;
  for (let index = 0; index < words.length; index += 1) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    words[index] = state ^ (state >>> 15);
  }
  return Buffer.from(words.buffer, 0, bytes);
}

/** Those that the environment chooses of the host's, if it has any. */
export const rdmaPorts = () =>
  rdmaOptionsOf(process.env, { gpu: null, localRank: 0, localRanks: 1 }).rdmaPorts;

/** The fabrics, segments and processes of one test, all of one cluster. */
export class TestCluster {
  readonly host: TestHost;
  readonly secret = randomBytes(32);
  readonly #test: TestContext;
  #files = 0;

  constructor(test: TestContext) {
    this.#test = test;
    this.host = new TestHost(test);
  }

  fabric(options: Partial<FabricOptions> = {}): HostFabric {
    const pool = options.pool ?? new ThreadPool(2);
    const fabric = HostFabric.open({ secret: this.secret, pool, rdmaPorts: rdmaPorts(), ...options });
    this.#test.after(() => {
      fabric.close();
      pool.close();
    });
    return fabric;
  }

  /**
   * One that moves bytes on one thread, for reads by {@link longRanges}: they fill the same place again and again, and
   * in what order several threads would do so is not determined.
   */
  fabricOfOneThread(): HostFabric {
    return this.fabric({ threads: 1, pool: new ThreadPool(1) });
  }

  /** Shared memory under a name of this test, all zero bytes. */
  memory(bytes = segmentBytes): Mapping {
    this.#files += 1;
    const mapping = Mapping.create(`/dev/shm/${this.host.namespace}-${process.pid}-${this.#files}`, bytes);
    this.#test.after(() => {
      mapping.close();
      mapping.unlink();
    });
    return mapping;
  }

  segment(seed: number, bytes = segmentBytes): Mapping {
    const mapping = this.memory(bytes);
    mapping.write(0, contentOf(seed, bytes));
    return mapping;
  }

  /** A process that exposes segment number 1, of `bytes` bytes. */
  async source(bytes = segmentBytes): Promise<Source> {
    const program = this.host.start('fabric-source', this.secret.toString('hex'), bytes);
    const report = await program.message<{ address: number[]; token: number[] }>();
    return { program, address: Uint8Array.from(report.address), token: Uint8Array.from(report.token) };
  }

  async connect(
    fabric: HostFabric,
    address: Uint8Array,
    options: Partial<ConnectOptions> = {},
  ): Promise<FabricPeer> {
    const peer = await fabric.connect(address, { name: 'rank 7', timeoutMilliseconds: patience, ...options });
    this.#test.after(() => peer.close());
    return peer;
  }
}

/** One run of bytes, from the start of the segment to the start of the destination. */
export const run = (bytes: number): Float64Array => Float64Array.of(0, 0, bytes);

/** The same megabytes again and again: a read that lasts, without a segment to match. */
export function longRanges(bytes: number, times: number): Float64Array {
  return Float64Array.from({ length: 3 * times }, (_, index) => (index % 3 === 2 ? bytes : 0));
}

/** Waits until a read has begun to write, so that what comes next hits it in the middle. */
export async function until(condition: () => boolean): Promise<void> {
  const deadline = performance.now() + patience;
  while (!condition()) {
    assert(performance.now() < deadline, 'what the test waits for comes to pass');
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

/** Asserts that nothing writes to the memory any more: what is put there now stays. */
export async function assertAtRest(destination: Mapping, bytes: number): Promise<void> {
  const mark = Buffer.alloc(bytes, 0xa5);
  destination.write(0, mark);
  await new Promise((resolve) => setTimeout(resolve, 100));
  assert(
    destination.read(0, bytes).equals(mark),
    'no byte of the destination changes after the end of a read',
  );
}
