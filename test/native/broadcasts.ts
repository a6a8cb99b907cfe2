import assert from 'node:assert/strict';
import type { TestContext } from 'node:test';
import type { Interval } from '../../src/native-bridge/addon.ts';
import { type Collective, ShmCollective } from '../../src/native-bridge/collective.ts';
import type { HostDevice, HostDeviceBuffer } from '../../src/native-bridge/host-device.ts';
import { patience } from '../patience.ts';
import type { TestHost } from './harness.ts';

export const slotBytes = 300_001;

/** One rank's part of a collective: a staging buffer to broadcast from, a link buffer of two slots to receive in. */
export class Member {
  readonly rank: number;
  readonly staging: HostDeviceBuffer;
  readonly link: HostDeviceBuffer;
  readonly collective: Collective;

  constructor(collective: Collective, device: HostDevice, rank: number) {
    this.rank = rank;
    this.collective = collective;
    this.staging = device.allocate(slotBytes);
    this.link = device.allocate(2 * slotBytes);
  }

  /** Broadcast number `number`; even ones come from the root's staging buffer, odd ones from its link slot. */
  broadcast(number: number, root: number, timeoutMilliseconds = patience): Promise<Interval> {
    const destination = { buffer: this.link, offset: (number % 2) * slotBytes };
    const own = number % 2 === 0 ? { buffer: this.staging, offset: 0 } : destination;
    if (root === this.rank) own.buffer.mapping.write(own.offset, contentOf(number));
    return this.collective.broadcast({
      root,
      source: root === this.rank ? own : null,
      destination,
      bytes: slotBytes,
      letsGo: false,
      timeoutMilliseconds,
    });
  }

  check(number: number): void {
    const received = this.link.mapping.read((number % 2) * slotBytes, slotBytes);
    assert(
      received.equals(contentOf(number)),
      `rank ${this.rank} received broadcast ${number} as it was sent`,
    );
  }

  /** Two broadcasts in flight all the time, each rank the root in turn; checks what arrives. */
  async takeTurns(worldSize: number, count: number): Promise<void> {
    const inFlight: Promise<Interval>[] = [];
    for (let number = 0; number < count + 2; number += 1) {
      if (number >= 2) {
        await inFlight.shift();
        this.check(number - 2);
      }
      if (number < count) inFlight.push(this.broadcast(number, number % worldSize));
    }
  }
}

function contentOf(number: number): Buffer {
  const content = Buffer.alloc(slotBytes, number + 1);
  content.writeUInt32LE(number, slotBytes - 4);
  return content;
}

/** What members of a collective of `worldSize` ranks in this process hold, for each of `ranks`. */
export function joinAll(
  t: TestContext,
  host: TestHost,
  ranks: number[],
  worldSize: number,
): Promise<Member[]> {
  return Promise.all(ranks.map((rank) => join(t, host, rank, worldSize)));
}

export async function join(t: TestContext, host: TestHost, rank: number, worldSize: number): Promise<Member> {
  const device = host.device({ index: rank });
  const id = Buffer.from(host.controlPath());
  const collective = await ShmCollective.open({ id, device, rank, worldSize });
  t.after(() => collective.close());
  return new Member(collective, device, rank);
}
