import { UsageError } from '../errors.ts';
import { defaultDevices } from '../processes/devices.ts';
import { parseBytes } from '../units.ts';

type Devices =
  | { readonly kind: 'cuda' }
  | { readonly kind: 'host'; readonly namespace?: string; readonly capacity?: number };

/** The devices that `--devices` names. Throws `UsageError`. */
export function devicesOf(option: string | undefined): Devices {
  const kind = option ?? defaultDevices().kind;
  if (kind === 'cuda') return { kind };
  const [isHost, namespace, size] = /^host(?::([^:]+)(?::(.+))?)?$/.exec(kind) ?? [];
  if (isHost === undefined)
    throw new UsageError(
      `--devices must be cuda, host, host:NAMESPACE or host:NAMESPACE:SIZE, not "${kind}"`,
    );
  return {
    kind: 'host',
    ...(namespace !== undefined && { namespace }),
    ...(size !== undefined && { capacity: parseBytes(size, '--devices') }),
  };
}
