import type { Command } from 'commander';
import type { InstanceOptions } from '../actors/protocol/instance-options.ts';
import type { ClusterOptions } from '../cluster/options.ts';
import { UsageError } from '../errors.ts';
import { parseCount } from '../units.ts';
import { devicesOf } from './device-arguments.ts';

/** Where the engine of an update without a daemon is: on this host, or on another one. */
export interface PlaceArguments {
  readonly devices?: string;
  readonly firstDevice: string;
  readonly host?: string;
  readonly launcher?: string;
  readonly clusterListen?: string;
}

export interface Place {
  readonly cluster: Pick<ClusterOptions, 'devices' | 'hosts' | 'listen'>;
  readonly instance: Pick<InstanceOptions, 'ranks' | 'host' | 'devices'>;
}

export function withPlaceOptions(command: Command): Command {
  return command
    .option(
      '--devices <kind>',
      'devices of the engine: cuda, host, or host:NAMESPACE (default: cuda if there are GPUs, otherwise host)',
    )
    .option('--first-device <n>', "number of the first worker's device; those of the others follow it", '0')
    .option(
      '--host <name>',
      'host of the engine, if it is another one, which has the files at the same paths; needs --cluster-listen',
    )
    .option(
      '--launcher <command>',
      'what runs a command on that host, with its standard input, in words separated by spaces (default: ssh NAME)',
    )
    .option(
      '--cluster-listen <address>',
      'where the ranks of that host connect, such as tcp://10.0.0.1:7000, or port * for any free one',
    );
}

/** Throws `UsageError`. */
export function placeOf(options: PlaceArguments, ranks: number): Place {
  const { host, launcher, clusterListen: listen } = options;
  const first = parseCount(options.firstDevice, '--first-device', 0);
  const indices = Array.from({ length: ranks }, (_, rank) => first + rank);
  const numbers = [...Array(ranks).keys()];
  if (host === undefined) {
    const [other] = Object.entries({ launcher, 'cluster-listen': listen }).find(([, value]) => value) ?? [];
    if (other !== undefined) throw new UsageError(`--${other} is for an engine on another host: give --host`);
    const kind = devicesOf(options.devices);
    const devices = kind.kind === 'host' ? { ...kind, first } : { ...kind, indices };
    return { cluster: { devices }, instance: { ranks: numbers } };
  }
  if (listen === undefined) throw new UsageError('--host needs --cluster-listen');
  const words = (launcher ?? `ssh ${host}`).split(/\s+/).filter((word) => word !== '');
  // What devices that host has it knows itself.
  const devices = options.devices === undefined ? {} : { devices: devicesOf(options.devices) };
  return {
    cluster: { hosts: { [host]: { launcher: words, ...devices } }, listen },
    instance: { host, ranks: numbers, devices: indices },
  };
}
