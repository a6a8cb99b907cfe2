/** The ranks of all hosts for bench/supervisor/once.ts, in a process of their own. */
import { once } from 'node:events';
import { type ActorRef, ActorSystem } from '../../src/actors/kernel/index.ts';
import type { RankMessage } from '../../src/actors/protocol/rank.ts';
import type { SupervisorMessage } from '../../src/actors/protocol/supervisor.ts';
import { systemClock } from '../../src/native-bridge/clock.ts';
import type { SpokeKeys } from '../../src/transport/curve.ts';
import { SpokeTransport } from '../../src/transport/spoke.ts';
import { limits, log } from './circumstances.ts';
import { FakeRank, fakeRankOptions } from './fake-rank.ts';

export interface HostsOrder {
  readonly hub: string;
  readonly endpoint: string;
  readonly keys: SpokeKeys;
  readonly ranks: number;
  readonly ranksPerHost: number;
}

const deadlineMilliseconds = 60_000;

async function startHost(number: number, { hub, endpoint, keys, ranksPerHost }: HostsOrder): Promise<void> {
  const node = `host-${number}~1`;
  const clock = systemClock;
  const transport = await SpokeTransport.connect({
    node,
    endpoint,
    keys,
    clock,
    log,
    limits,
    deadlineMilliseconds,
  });
  const system = ActorSystem.create({ clock, random: { next: () => 0.5 }, log, transport });
  const supervisor = system.wellKnown<SupervisorMessage>(hub, 'supervisor');
  for (let local = 0; local < ranksPerHost; local += 1) {
    const rank = number * ranksPerHost + local;
    const ref: ActorRef<RankMessage> = system.spawn(`rank-${rank}`, () => new FakeRank(), fakeRankOptions);
    system.tell(supervisor, {
      type: 'rank-ready',
      rank,
      ref,
      deviceUuid: `GPU-${rank}`,
      host: `node-${number}`,
      directory: '/dev/shm/weightcast-0123456789ab',
      directoryId: `${number}`,
      nics: [],
      collectiveScope: 'cluster',
      pid: 1,
      epochs: { first: 0, last: 0, loaded: 0 },
    });
  }
}

const [order] = (await once(process, 'message')) as [HostsOrder];
for (let host = 0; host < order.ranks / order.ranksPerHost; host += 1) await startHost(host, order);
process.once('disconnect', () => process.exit(0));
