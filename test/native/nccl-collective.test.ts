import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import type { Interval } from '../../src/native-bridge/addon.ts';
import { CudaDevice, type CudaDeviceBuffer } from '../../src/native-bridge/cuda-device.ts';
import { Mapping } from '../../src/native-bridge/memory.ts';
import { NcclCollective } from '../../src/native-bridge/nccl-collective.ts';
import { buildFakeCuda } from './fake-cuda.ts';
import { loadFakeNccl } from './fake-nccl.ts';
import { TestHost } from './harness.ts';

/** Of the fake driver and the fake NCCL; the real ones are tried in test/gpu. */
const cuda = loadFakeNccl();
// Processes that are started from here find them as well.
process.env.LD_LIBRARY_PATH = buildFakeCuda();

const slotBytes = 10_007;
const timeoutMilliseconds = 20_000;
const outOfMemory = 2;
/** More than are ever on a stream at a time. */
const many = 30;

class Member {
  readonly rank: number;
  readonly collective: NcclCollective;
  readonly link: CudaDeviceBuffer;
  readonly #device: CudaDevice;
  readonly #staging: CudaDeviceBuffer;

  constructor(rank: number, device: CudaDevice, collective: NcclCollective) {
    this.rank = rank;
    this.collective = collective;
    this.#device = device;
    this.#staging = device.allocate(many * slotBytes);
    this.link = device.allocate(many * slotBytes);
  }

  /** Every slot of the staging buffer gets content of its own. */
  async fill(host: TestHost): Promise<void> {
    const bytes = many * slotBytes;
    const mapping = Mapping.create(`${host.controlPath()}-content`, bytes);
    mapping.unlink();
    for (let number = 0; number < many; number += 1) {
      mapping.write(number * slotBytes, contentOf(number, this.rank));
    }
    const rectangles = Float64Array.of(0, 0, bytes, 1, bytes, bytes);
    await this.#device.upload([{ segment: mapping, rectangles }], this.#staging);
    mapping.close();
  }

  broadcast(number: number, root: number, timeout = timeoutMilliseconds): Promise<Interval> {
    const offset = number * slotBytes;
    return this.collective.broadcast({
      root,
      source: root === this.rank ? { buffer: this.#staging, offset } : null,
      destination: { buffer: this.link, offset },
      bytes: slotBytes,
      letsGo: false,
      timeoutMilliseconds: timeout,
    });
  }

  async check(number: number, root: number): Promise<void> {
    const received = await this.#device.read(this.link, number * slotBytes, slotBytes);
    assert(
      received.equals(contentOf(number, root)),
      `rank ${this.rank} has broadcast ${number} as it was sent`,
    );
  }

  free(): void {
    this.#staging.free();
    this.link.free();
  }
}

function contentOf(number: number, root: number): Buffer {
  const content = Buffer.alloc(slotBytes, number + 1);
  content.writeUInt32LE(root, slotBytes - 4);
  return content;
}

function openDevice(t: TestContext): CudaDevice {
  const device = CudaDevice.open({ index: 0, pinThreads: 1 });
  t.after(() => device.close());
  return device;
}

async function join(
  t: TestContext,
  device: CudaDevice,
  controlPath: string,
  id: Uint8Array,
  rank: number,
  worldSize: number,
): Promise<Member> {
  const collective = await NcclCollective.open({
    device,
    id,
    controlPath,
    rank,
    worldSize,
    timeoutMilliseconds,
  });
  t.after(() => collective.closed());
  return new Member(rank, device, collective);
}

function joinAll(t: TestContext, host: TestHost, device: CudaDevice, worldSize: number): Promise<Member[]> {
  const id = NcclCollective.uniqueId();
  const ranks = Array.from({ length: worldSize }, (_, rank) => rank);
  return Promise.all(ranks.map((rank) => join(t, device, host.controlPath(), id, rank, worldSize)));
}

test('all broadcasts may be issued before the first one ends, and run in the order of issue', async (t) => {
  const host = new TestHost(t);
  const members = await joinAll(t, host, openDevice(t), 3);
  await Promise.all(members.map((member) => member.fill(host)));
  const issued = members.map((member) =>
    Array.from({ length: many }, (_, number) => member.broadcast(number, number % 3)),
  );
  const intervals = await Promise.all(issued[0]!);
  await Promise.all(issued.flat());
  for (const [number, interval] of intervals.entries()) {
    assert(interval.startedAt <= interval.endedAt);
    if (number > 0) assert(intervals[number - 1]!.endedAt <= interval.endedAt);
    for (const member of members) await member.check(number, number % 3);
  }
});

test('closing gives back all that a communicator took', async (t) => {
  const host = new TestHost(t);
  const device = openDevice(t);
  const before = cuda.census();
  const members = await joinAll(t, host, device, 2);
  await Promise.all(members.map((member) => member.broadcast(0, 0)));
  for (const member of members) {
    await member.collective.closed();
    await assert.rejects(member.broadcast(0, 0), {
      name: 'NativeError',
      message: 'the collective is closed',
    });
    member.free();
  }
  assert.deepEqual(cuda.census(), before);
  assert.deepEqual(host.remains(), []);
});

test('a rank alone broadcasts to itself', async (t) => {
  const host = new TestHost(t);
  const [member] = await joinAll(t, host, openDevice(t), 1);
  await member!.fill(host);
  await member!.broadcast(3, 0);
  await member!.check(3, 0);
});

test('closing with a broadcast under way aborts it here and elsewhere', async (t) => {
  const host = new TestHost(t);
  const [first, second, third] = await joinAll(t, host, openDevice(t), 3);
  const waiting = [first, second].map((member) =>
    assert.rejects(member!.broadcast(0, 2), { name: 'AbortedError', message: /aborted by rank 0/ }),
  );
  await new Promise((resolve) => setTimeout(resolve, 50));
  first!.collective.close();
  await Promise.all(waiting);
  await assert.rejects(third!.broadcast(0, 2), { name: 'AbortedError' });
});

test('a rank that leaves without its part of a broadcast is lost to the others', async (t) => {
  const host = new TestHost(t);
  const [first, leaver] = await joinAll(t, host, openDevice(t), 2);
  const waiting = first!.broadcast(0, 1);
  leaver!.collective.close();
  await assert.rejects(waiting, { name: 'PeerLostError', message: /rank 1 is gone/ });
});

for (const which of ['first', 'second'] as const) {
  test(`a broadcast whose ${which} event the driver refuses fails, and so do later ones`, async (t) => {
    const host = new TestHost(t);
    const [member] = await joinAll(t, host, openDevice(t), 1);
    cuda.failNext('cuEventCreate', outOfMemory, which === 'first' ? 0 : 1, 0);
    const failure = { name: 'OutOfDeviceMemoryError', message: /^cannot make an event: out of memory/ };
    await assert.rejects(member!.broadcast(0, 0), failure);
    await assert.rejects(member!.broadcast(1, 0), failure);
  });
}

test('places outside their buffers are refused and disturb nobody', async (t) => {
  const host = new TestHost(t);
  const [member] = await joinAll(t, host, openDevice(t), 1);
  const place = { buffer: member!.link, offset: 0 };
  const options = {
    root: 0,
    source: place,
    destination: place,
    bytes: member!.link.bytes + 1,
    letsGo: false,
    timeoutMilliseconds,
  };
  await assert.rejects(member!.collective.broadcast(options), {
    name: 'NativeError',
    message: /lies outside/,
  });
  await assert.rejects(member!.collective.broadcast({ ...options, bytes: 1, source: null }), {
    name: 'NativeError',
    message: /a source is given on the root/,
  });
  await member!.broadcast(0, 0);
});

for (const ending of ['exit', 'throw', 'worker'] as const) {
  test(`an environment that ends by ${ending} in the middle of a broadcast aborts it`, async (t) => {
    const host = new TestHost(t);
    const id = NcclCollective.uniqueId();
    const program = host.start(
      'unfinished-nccl',
      host.controlPath(),
      Buffer.from(id).toString('base64'),
      ending,
    );
    const member = await join(t, openDevice(t), host.controlPath(), id, 0, 2);
    await program.message();
    // Rank 0 waits for rank 1 to send, which waits for rank 0: neither ends by itself.
    await assert.rejects(member.broadcast(0, 1), { name: 'AbortedError', message: /aborted by rank 1/ });
    assert.equal(await program.ended(), ending === 'throw' ? 1 : 0);
  });
}
