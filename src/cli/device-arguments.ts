import { UsageError } from '../errors.ts';
import { defaultDevices } from '../processes/devices.ts';

type Devices = { readonly kind: 'cuda' } | { readonly kind: 'host'; readonly namespace?: string };

/** The devices that `--devices` names. Throws `UsageError`. */
export function devicesOf(option: string | undefined): Devices {
  const kind = option ?? defaultDevices().kind;
  const namespace = /^host(?::(.+))?$/.exec(kind)?.[1];
  if (kind === 'cuda') return { kind };
  if (kind === 'host') return { kind };
  if (namespace !== undefined) return { kind: 'host', namespace };
  throw new UsageError(`--devices must be cuda, host or host:NAMESPACE, not "${kind}"`);
}
