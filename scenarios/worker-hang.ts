import { VerificationError } from '../src/errors.ts';
import type { Fleet } from './fleet.ts';
import { freeOf } from './host-devices.ts';
import { incidentCommand } from './incident.ts';
import { signalAll } from './signal-all.ts';

/** How long one answer of an engine worker may take here. */
const stepTimeoutMilliseconds = 3_000;

/** One worker of the first engine; the others of it are its siblings. */
function hanging({ engines }: Fleet): number[] {
  return [engines.get('a')!.workerPids[0]!];
}

/** Free bytes of each device but that of the worker that hangs. */
function freeBytes({ engines }: Fleet): Map<string, number> {
  const uuids = [...engines.values()].flatMap(({ deviceUuids }) => deviceUuids).slice(1);
  return new Map(uuids.map((uuid) => [uuid, freeOf(uuid)]));
}

let before = new Map<string, number>();

await incidentCommand({
  name: 'worker-hang',
  description:
    'One worker of one of two engines hangs in the middle of an update, and goes on after it. Neither its siblings nor the other engine hang with it.',
  ranks: 2,
  outcome: 'a broken, b updated',
  update: { stepTimeoutMilliseconds },
  prepare: ({ fleet }) => {
    before = freeBytes(fleet);
  },
  strike: ({ fleet }) => signalAll(hanging(fleet), 'SIGSTOP'),
  heal: ({ fleet }) => {
    // While it still hangs.
    for (const [uuid, free] of freeBytes(fleet))
      if (free < before.get(uuid)!)
        throw new VerificationError(`${before.get(uuid)! - free} bytes of ${uuid} were not given back`);
    signalAll(hanging(fleet), 'SIGCONT');
  },
});
