import { UsageError } from '../errors.ts';

/** A port of an RDMA device of this host. */
export interface RdmaPort {
  /** As in /sys/class/infiniband: `mlx5_0`. */
  readonly device: string;
  /** From 1. */
  readonly port: number;
  readonly isActive: boolean;
}

export type Environment = Readonly<Record<string, string | undefined>>;

/** The ports that a host's ranks use, and which variable of the environment chose them, if one did. */
export interface NicSelection<Port extends RdmaPort = RdmaPort> {
  readonly ports: readonly Port[];
  readonly variable: string | null;
}

/** The first that is set, and not empty, counts. */
const variables = ['WEIGHTCAST_RDMA_DEVICES', 'PS_P2P_STORE_RDMA_DEVICES', 'NCCL_IB_HCA'] as const;
/** NCCL's own limit. */
const mostPorts = 32;

/**
 * Chooses among `ports`, of which the inactive are left out. A variable lists names with commas between; a name may
 * have a port, `mlx5_0:1`. By default a name stands for every device that begins with it; after `=` for that device
 * only; after `^` the list is of what is not to be used; `^=` is both. NCCL reads `NCCL_IB_HCA` the same way, and
 * ports stay in the order in which they are found. In `PS_P2P_STORE_RDMA_DEVICES`, as in checkpoint-engine, the name
 * of a device is that device only and the order of the list counts, because ranks are assigned by it.
 *
 * A name that fits no device is ignored, because hosts of one cluster differ. Throws `UsageError` if a list of what
 * to use leaves nothing.
 */
export function selectNics<Port extends RdmaPort>(
  ports: readonly Port[],
  environment: Environment,
): NicSelection<Port> {
  const variable = variables.find((name) => environment[name]?.trim()) ?? null;
  const active = ports.filter(({ isActive }) => isActive);
  if (variable === null) return { ports: active.slice(0, mostPorts), variable };
  const value = environment[variable]!.trim();
  const excludes = value.startsWith('^');
  const isExact = value.startsWith('=', excludes ? 1 : 0);
  const tokens = parseTokens(value.slice(Number(excludes) + Number(isExact)), variable);
  const fits = (port: Port, token: Token) => matches(port, token, isExact);
  if (excludes) {
    const left = active.filter((port) => !tokens.some((token) => fits(port, token)));
    return { ports: left.slice(0, mostPorts), variable };
  }
  const listed =
    variable === 'PS_P2P_STORE_RDMA_DEVICES'
      ? inOrderOf(tokens, ports, isExact)
      : ports.filter((port) => tokens.some((token) => fits(port, token)));
  const chosen = listed.filter(({ isActive }) => isActive).slice(0, mostPorts);
  if (chosen.length > 0) return { ports: chosen, variable };
  const found = ports.map(({ device, port }) => `${device}:${port}`).join(', ') || 'none';
  const reason =
    listed.length > 0 ? 'names only ports that are not active' : 'names no RDMA device of this host';
  throw new UsageError(`${variable}=${value} ${reason} (found: ${found})`);
}

/**
 * The ports of one rank, as checkpoint-engine assigns them where the numbers divide evenly: with fewer ports than ranks,
 * neighbouring ranks share one; with more, each rank has several of its own. Where they do not, some have one more.
 */
export function nicsOfRank<Port extends RdmaPort>(
  { ports }: NicSelection<Port>,
  localRank: number,
  localRanks: number,
): readonly Port[] {
  const first = Math.floor((localRank * ports.length) / localRanks);
  if (ports.length <= localRanks) return ports.slice(first, first + 1);
  return ports.slice(first, Math.floor(((localRank + 1) * ports.length) / localRanks));
}

/**
 * The index of the GID by which RoCE peers reach a port, if the environment sets one: `WEIGHTCAST_RDMA_GID_INDEX`,
 * else `NCCL_IB_GID_INDEX`, whose -1 means none. Throws `UsageError`.
 */
export function gidIndexOf(environment: Environment): number | null {
  const variable = ['WEIGHTCAST_RDMA_GID_INDEX', 'NCCL_IB_GID_INDEX'].find((name) =>
    environment[name]?.trim(),
  );
  if (variable === undefined) return null;
  const value = environment[variable]!.trim();
  if (value === '-1') return null;
  const index = Number(value);
  if (/^\d+$/.test(value) && index <= 255) return index;
  throw new UsageError(`${variable} must be a whole number from -1 to 255, not ${value}`);
}

interface Token {
  readonly name: string;
  /** Any if it is null. */
  readonly port: number | null;
}

function parseTokens(list: string, variable: string): Token[] {
  const texts = list.split(',').map((text) => text.trim());
  return texts
    .filter((text) => text !== '')
    .map((text) => {
      const match = /^([A-Za-z0-9_.-]+)(?::(\d{1,3}))?$/.exec(text);
      if (match === null) {
        throw new UsageError(`${variable} must list devices, as mlx5_0 or mlx5_0:1, and not ${text}`);
      }
      return { name: match[1]!, port: match[2] === undefined ? null : Number(match[2]) };
    });
}

function matches({ device, port }: RdmaPort, token: Token, isExact: boolean): boolean {
  const hasName = isExact ? device === token.name : device.startsWith(token.name);
  return hasName && (token.port === null || token.port === port);
}

/** Each port once, where its first token stands. A token that is a device's whole name is that device only. */
function inOrderOf<Port extends RdmaPort>(
  tokens: readonly Token[],
  ports: readonly Port[],
  isExact: boolean,
): Port[] {
  const isName = (token: Token) => ports.some(({ device }) => device === token.name);
  const found = tokens.flatMap((token) =>
    ports.filter((port) => matches(port, token, isExact || isName(token))),
  );
  return [...new Set(found)];
}
