import type { HostDevice, HostDeviceBuffer } from '../src/native-bridge/host-device.ts';
import { openHostDevice } from './host-devices.ts';
import { incidentCommand } from './incident.ts';

/** What another process of the GPU leaves free: less than a slot. */
const leftBytes = 2 ** 19;

let device: HostDevice | null = null;
let taken: HostDeviceBuffer | null = null;

await incidentCommand({
  name: 'memory-pressure',
  description:
    'Another process takes the free memory of the device of one instance in the middle of an update.',
  strike: ({ fleet }) => {
    const [uuid] = fleet.engines.get('a')!.deviceUuids;
    device = openHostDevice(uuid!);
    taken = device.allocate(device.memory().free - leftBytes);
  },
  heal: () => {
    taken?.free();
    device?.close();
  },
  figures: (report) => ({
    mode: report?.mode ?? 'none',
    serialFrom:
      report?.serialFrom.map(({ rank, bucket }) => `rank ${rank}: bucket ${bucket}`).join(', ') || 'never',
  }),
});
