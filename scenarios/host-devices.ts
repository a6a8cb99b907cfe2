import { HostDevice } from '../src/native-bridge/host-device.ts';

/** A device of an engine that runs on host devices, by its UUID. To be closed. */
export function openHostDevice(uuid: string): HostDevice {
  const [, namespace, index] = /^HOST-(.+)-(\d+)$/.exec(uuid)!;
  return HostDevice.open({ namespace: namespace!, index: Number(index), capacity: 0, uploadThreads: 1 });
}

/** What is free of it, in bytes. */
export function freeOf(uuid: string): number {
  const device = openHostDevice(uuid);
  try {
    return device.memory().free;
  } finally {
    device.close();
  }
}
