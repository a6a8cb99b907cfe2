import { lookup } from 'node:dns/promises';
import { isIP } from 'node:net';
import { networkInterfaces } from 'node:os';
import { escapeControls } from '../checkpoint/printable.ts';
import { describe, UsageError } from '../errors.ts';
import { systemClock } from '../native-bridge/clock.ts';
import type { HostOptions } from '../processes/configuration.ts';
import { within } from '../within.ts';

/** Resolves the name of a host: its numeric addresses. */
export type Lookup = (name: string) => Promise<readonly string[]>;

/** The options that have addresses. */
interface Addresses {
  listen?: string;
  fabricAddresses?: readonly string[];
  hosts?: Readonly<Record<string, HostOptions>>;
}

const hostName = /^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252}[A-Za-z0-9])?$/;

/** A numeric address, of IPv6 with or without the interface that it belongs to, or what can be the name of a host. */
export function isAddress(text: string): boolean {
  // 1.2.3 or 10.0.0.256 is a mistake and not a name: a top-level domain is no number.
  return isIP(text) !== 0 || (hostName.test(text) && !/(?:^|\.)\d+$/.test(text));
}

/**
 * The options with numeric addresses in place of names of hosts, as this process resolves them: other hosts may know them by
 * other names. Throws a `UsageError` that names the option and the name.
 */
export async function withNumericAddresses<O extends Readonly<Addresses>>(
  options: O,
  timeoutMilliseconds: number,
  find: Lookup = lookUp,
): Promise<O> {
  const resolve = async (option: string, name: string): Promise<readonly string[]> => {
    if (isIP(name) !== 0) return [name];
    return withinReach(await found(option, name, find, timeoutMilliseconds));
  };
  const all = async (option: string, names: readonly string[]) => [
    ...new Set((await Promise.all(names.map((name) => resolve(option, name)))).flat()),
  ];
  const { listen, fabricAddresses, hosts } = options;
  const numeric: Addresses = {};
  if (listen !== undefined) {
    const { host, port } = /^tcp:\/\/(?<host>.+):(?<port>[^:]+)$/.exec(listen)?.groups ?? {};
    if (host !== undefined && isNameToBind(host)) {
      const [address] = await resolve('listen', host);
      numeric.listen = `tcp://${isIP(address!) === 6 ? `[${address}]` : address}:${port}`;
    }
  }
  if (fabricAddresses !== undefined) numeric.fabricAddresses = await all('fabricAddresses', fabricAddresses);
  if (hosts !== undefined) {
    const entries = Object.entries(hosts).map(async ([name, host]) => {
      if (host.fabricAddresses === undefined) return [name, host] as const;
      const addresses = await all(`hosts.${name}.fabricAddresses`, host.fabricAddresses);
      return [name, { ...host, fabricAddresses: addresses }] as const;
    });
    numeric.hosts = Object.fromEntries(await Promise.all(entries));
  }
  return { ...options, ...numeric };
}

/** ZeroMQ binds to addresses, to `*` and to interfaces by itself. */
function isNameToBind(host: string): boolean {
  return host !== '*' && !host.startsWith('[') && isIP(host) === 0 && networkInterfaces()[host] === undefined;
}

/** A host often knows itself by a loopback address too, at which no other host finds it. */
function withinReach(addresses: readonly string[]): readonly string[] {
  const others = addresses.filter((address) => !/^127\.|^::1$/.test(address));
  return others.length > 0 ? others : addresses;
}

async function found(
  option: string,
  name: string,
  find: Lookup,
  timeoutMilliseconds: number,
): Promise<readonly string[]> {
  let addresses: readonly string[] = [];
  let why = 'it has no address';
  const search = find(name).then(
    (answer) => {
      addresses = answer;
    },
    (error) => {
      why = describe(error);
    },
  );
  if (!(await within(systemClock, timeoutMilliseconds, search)))
    why = `no answer in ${timeoutMilliseconds / 1_000} s (startTimeoutMilliseconds)`;
  if (addresses.length > 0) return addresses;
  throw new UsageError(`${option}: the host ${escapeControls(name)} is not found: ${why}`);
}

async function lookUp(name: string): Promise<readonly string[]> {
  return (await lookup(name, { all: true })).map(({ address }) => address);
}
