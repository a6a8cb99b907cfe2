import type { SimulatedHost } from './host.ts';

/** Where a fabric is: on a host, behind one of its network cards. */
export interface Place {
  readonly host: SimulatedHost;
  readonly nic: string;
}

/** Names of both directions of a network card, for `SharedLinks`. */
export function linksOf({ host, nic }: Place): { readonly in: string; readonly out: string } {
  return { in: `${host.name}/${nic} in`, out: `${host.name}/${nic} out` };
}

/** The links that bytes use from one place to another. */
export function linksBetween(source: Place, destination: Place): string[] {
  if (source.host === destination.host) return [`memory of ${source.host.name}`];
  return [linksOf(source).out, linksOf(destination).in];
}
