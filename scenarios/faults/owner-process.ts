/** Owns a cluster for whoever started it, who can then kill and stop an owner like any other process. Ends with the channel. */
import { toWire, UsageError } from '../../src/errors.ts';
import { Cluster, type SupervisorEvent } from '../../src/index.ts';
import { supervisorPid } from '../supervisor-pid.ts';
import type { OwnerAnswer, OwnerCall } from './owner.ts';

let cluster: Cluster | null = null;

function tell(message: OwnerAnswer): void {
  if (process.connected) process.send!(message, () => {});
}

function started(): Cluster {
  if (cluster === null) throw new UsageError('the cluster has not started');
  return cluster;
}

const methods: { readonly [M in OwnerCall['method']]: (...parameters: never[]) => Promise<unknown> } = {
  start: async (options: Parameters<typeof Cluster.start>[0]) => {
    const onSupervisor = ({ state }: SupervisorEvent) => tell({ event: state, at: Date.now() });
    cluster = await Cluster.start({ ...options, onSupervisor });
  },
  register: (...parameters: Parameters<Cluster['register']>) => started().register(...parameters),
  unregister: (name: string) => started().unregister(name),
  update: (...parameters: Parameters<Cluster['update']>) => started().update(...parameters),
  addInstance: (...parameters: Parameters<Cluster['addInstance']>) => started().addInstance(...parameters),
  removeInstance: (name: string) => started().removeInstance(name),
  releaseSpareMemory: () => started().releaseSpareMemory(),
  status: () => started().status(),
  stop: () => started().stop(),
  supervisorPid: async () => supervisorPid(),
};

process.on('message', ({ id, method, parameters }: OwnerCall) => {
  const call = async () => (methods[method] as (...given: readonly unknown[]) => unknown)(...parameters);
  call().then(
    (value) => tell({ id, value }),
    (error) => tell({ id, error: toWire(error) }),
  );
});
process.on('disconnect', () => process.exit(0));
