import type { Fault, Moment } from './fault-matrix.ts';

const withoutUpdate: readonly Moment[] = ['idle', 'registration'];

/** The same words for several moments. */
function at(moments: readonly Moment[], why: string): Fault['impossible'] {
  return Object.fromEntries(moments.map((moment) => [moment, why]));
}

const noLoad = at([...withoutUpdate, 'planning', 'pausing'], 'a worker is asked for nothing then');
const noCall = {
  ...at(withoutUpdate, 'engines are asked for nothing then'),
  ...at(['streaming', 'joining'], 'it has been called already'),
};
const noAllocation = at(
  ['idle', 'registration', 'pausing', 'streaming', 'joining'],
  'no slots are allocated then',
);
const noTraffic = at(
  ['idle', 'registration', 'planning', 'pausing', 'streaming'],
  'no weights travel between hosts then: each holds them',
);

/** The rank of the second instance, which shares its host with the first, feeds both. */
const rank = 1;

/** What the matrix injects. Engines that die are restarted when the request has been answered. */
export const matrixFaults: readonly Fault[] = [
  {
    who: 'supervisor',
    how: 'SIGKILL',
    impossible: {},
    inject: (cluster) => cluster.killSupervisor(),
  },
  {
    who: 'rank',
    how: 'SIGKILL',
    impossible: {},
    inject: ({ ranks }) => ranks.get(rank)?.kill(),
  },
  {
    who: 'rank',
    how: 'lost connection',
    impossible: {},
    inject: ({ ranks, world: { network, supervisorNode } }) => {
      const node = ranks.get(rank)!.node;
      network.endSession(supervisorNode, node, 'its connection is gone');
      network.endSession(node, supervisorNode, 'its connection is gone');
    },
  },
  {
    who: 'all ranks of a host',
    how: 'SIGKILL',
    impossible: {},
    inject: ({ ranks, world }) => {
      for (const process of [...ranks.values()])
        if (world.hostOf(process.rank) === world.hosts[1]) process.kill();
    },
  },
  {
    who: 'supervisor and a rank',
    how: 'SIGKILL',
    impossible: {},
    inject: (cluster) => {
      cluster.ranks.get(rank)?.kill();
      cluster.killSupervisor();
    },
  },
  {
    who: 'engine',
    how: 'SIGKILL',
    impossible: {},
    inject: ({ world }) => world.engines[1]!.kill(),
    heal: ({ world }) => world.engines[1]!.restart(),
  },
  {
    who: 'engine',
    how: 'refuses the update call',
    impossible: noCall,
    inject: ({ world }) => {
      world.engines[1]!.nextCall = 'error';
    },
  },
  {
    who: 'engine',
    how: 'never answers the update call',
    impossible: noCall,
    inject: ({ world }) => {
      world.engines[1]!.nextCall = 'silence';
    },
    heal: ({ world }) => world.engines[1]!.restart(),
  },
  ...(['refuse', 'die', 'hang', 'corrupt'] as const).map(
    (what): Fault => ({
      who: 'engine worker',
      how: { refuse: 'refuses', die: 'dies', hang: 'hangs', corrupt: 'stores other bytes' }[what],
      impossible: noLoad,
      inject: ({ world }) => {
        // The joining instance, or the first one.
        const engine = world.joined.size > 3 ? world.engines[3]! : world.engines[0]!;
        engine.workers[0]!.nextLoad = what;
      },
      heal: ({ world }) => {
        for (const engine of world.engines)
          if (!engine.isUp || engine.workers.some(({ isBusy }) => isBusy)) engine.restart();
      },
    }),
  ),
  {
    who: 'device',
    how: 'refuses an allocation',
    impossible: noAllocation,
    inject: ({ world }) => {
      world.devices[0]!.allocationFailures += 1;
    },
  },
  {
    who: 'network between hosts',
    how: 'silent packet loss',
    impossible: noTraffic,
    inject: ({ world }) => world.silence(world.hosts[2]!),
    heal: ({ world }) => world.restore(world.hosts[2]!),
  },
];
