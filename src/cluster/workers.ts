import { hostname } from 'node:os';
import * as z from 'zod';
import type { Instance, Worker } from '../actors/protocol/instance.ts';
import { instance as instanceForm, ranksOf } from '../actors/protocol/instance.ts';
import type { InstanceOptions, WorkerOptions } from '../actors/protocol/instance-options.ts';
import { escapeControls } from '../checkpoint/printable.ts';
import { firstForeignRank } from '../checkpoint/rank-name.ts';
import { checkEngineOptions } from '../engines/engine-options.ts';
import { UsageError } from '../errors.ts';
import type { HostOptions } from '../processes/configuration.ts';
import { checkForm } from './inputs.ts';

/** Where the workers of instances are: on which hosts, beside which ranks, on which devices. */

type Hosts = Readonly<Record<string, HostOptions>> | undefined;

export const deviceUuid = /^(?:GPU|MIG)-[^\s,:]{1,128}$/;
const device = z.custom<number | string>(
  (value) =>
    typeof value === 'string'
      ? deviceUuid.test(value)
      : Number.isSafeInteger(value) && (value as number) >= 0,
  'a device is an index or a UUID, GPU-… or MIG-…',
);
const workers = z.strictObject({
  ranks: z.array(z.int().min(0)).min(1).optional(),
  host: z.string().optional(),
  devices: z.array(device).min(1).optional(),
});
/** The words of `checkEngineOptions` say what an option may be. */
const engineWords = {
  engine: z.string().optional(),
  link: z.string().optional(),
  pause: z.string().optional(),
};
const form = instanceForm.omit({ workers: true }).extend({
  ...engineWords,
  ...workers.shape,
  workers: z.array(workers).min(1).optional(),
});

/** Throws a UsageError that names the instance and the option. */
export function checkInstance(instance: InstanceOptions, hosts: Hosts): void {
  checkForm(labelOf(instance), form, instance);
  const { name } = instance;
  checkEngineOptions(name, instance);
  const short = (['ranks', 'host', 'devices'] as const).find((option) => instance[option] !== undefined);
  if (instance.workers !== undefined && short !== undefined)
    throw new UsageError(
      `instance ${name} has both workers and ${short}, which is for an engine on one host: give it to each of workers`,
    );
  for (const group of workersOf(instance)) checkWorkers(name, group, hosts);
  const all = workersOf(instance).flatMap((group) => group.ranks ?? []);
  if (new Set(all).size < all.length) throw new UsageError(`instance ${name} has a rank twice`);
  const foreign = all.find((rank) => rank >= firstForeignRank);
  if (foreign !== undefined)
    throw new UsageError(
      `instance ${name} has rank ${foreign}; ranks are whole numbers below ${firstForeignRank}`,
    );
}

/** An engine of one host has one such group. */
export function workersOf({ workers, ranks, host, devices }: InstanceOptions): readonly WorkerOptions[] {
  return workers ?? [{ ...(ranks && { ranks }), ...(host && { host }), ...(devices && { devices }) }];
}

/** Whether that is the host that the cluster starts on, which needs no name. */
export function isHere(host: string | undefined): boolean {
  return host === undefined || host === hostname();
}

/** How many workers an instance has. */
export function workerCount(instance: InstanceOptions): number {
  return workersOf(instance).reduce((sum, { ranks, devices }) => sum + (ranks ?? devices ?? []).length, 0);
}

function checkWorkers(name: string, { ranks, host, devices }: WorkerOptions, hosts: Hosts): void {
  const where = host === undefined ? '' : ` on host ${escapeControls(host)}`;
  if (host !== undefined && !isHere(host) && !Object.hasOwn(hosts ?? {}, host))
    throw new UsageError(`instance ${name} has workers${where}, which the option hosts does not have`);
  if (ranks === undefined && devices === undefined)
    throw new UsageError(`instance ${name} has neither ranks nor devices${where}: how many are its workers?`);
  if (ranks !== undefined && devices !== undefined && devices.length !== ranks.length)
    throw new UsageError(`instance ${name} has ${devices.length} devices for ${ranks.length} ranks${where}`);
}

function labelOf(instance: unknown): string {
  const { name } = (instance ?? {}) as { name?: unknown };
  return typeof name === 'string' ? `instance ${escapeControls(name)}` : 'an instance';
}

/** The instances of a cluster, of which no two have a rank or a device. */
export class Workers {
  readonly #instances = new Set<Instance>();

  /**
   * Instances that come together, with numbers for the ranks that have none: the lowest that are free. Throws a `UsageError`
   * for a name, rank or device that another has already; then nothing is taken.
   */
  take(added: readonly InstanceOptions[]): Instance[] {
    const present = [...this.#instances];
    const taken = new Set(present.flatMap(ranksOf));
    const given = new Map<number, string>();
    for (const options of added) {
      const { name } = options;
      if (present.some((other) => other.name === name))
        throw new UsageError(`the cluster has an instance ${name} already`);
      for (const rank of workersOf(options).flatMap(({ ranks = [] }) => ranks)) {
        if (taken.has(rank))
          throw new UsageError(
            `rank ${rank} is in the cluster already: give this instance other ranks, and say which devices they are on`,
          );
        const other = given.get(rank);
        if (other !== undefined)
          throw new UsageError(`rank ${rank} belongs to both instance ${other} and instance ${name}`);
        given.set(rank, name);
      }
    }
    for (const rank of given.keys()) taken.add(rank);
    let next = 0;
    const number = () => {
      while (taken.has(next)) next += 1;
      taken.add(next);
      return next;
    };
    const instances = added.map((options): Instance => {
      const { ranks: _ranks, host: _host, devices: _devices, ...rest } = options;
      return { ...rest, workers: workersOf(options).flatMap((group) => numbered(group, number)) };
    });
    checkDevices([...present, ...instances]);
    for (const instance of instances) this.#instances.add(instance);
    return instances;
  }

  release(instance: Instance): void {
    this.#instances.delete(instance);
  }
}

function numbered({ ranks, host, devices = [] }: WorkerOptions, number: () => number): Worker[] {
  const elsewhere = host === undefined || isHere(host) ? {} : { host };
  return (ranks ?? devices.map(number)).map((rank, index) => {
    const device = devices[index];
    return { rank, ...elsewhere, ...(device !== undefined && { device }) };
  });
}

function checkDevices(instances: readonly Instance[]): void {
  const takenBy = new Map<string, string>();
  for (const { name, workers } of instances)
    for (const { host, device } of workers) {
      if (device === undefined) continue;
      const key = JSON.stringify([host, device]);
      const other = takenBy.get(key);
      const what = `device ${device} of ${host === undefined ? 'this host' : `host ${host}`}`;
      if (other === name) throw new UsageError(`instance ${name} has ${what} twice`);
      if (other !== undefined)
        throw new UsageError(`instances ${other} and ${name} both have a worker on ${what}`);
      takenBy.set(key, name);
    }
}
