import type { RankPorts } from '../actors/rank/ports.ts';
import type { SupervisorPorts } from '../actors/supervisor/ports.ts';
import type { LoadJob } from '../checkpoint/segment-store.ts';
import type { EngineClient } from '../engines/engine-client.ts';
import type { ArrivedDigests, WorkerLink } from '../engines/worker-link/worker-link.ts';
import {
  EngineError,
  NativeError,
  OutOfDeviceMemoryError,
  OutOfHostMemoryError,
  type WeightcastError,
  WorkerLinkError,
} from '../errors.ts';
import type { Collective } from '../native-bridge/collective.ts';
import type { Fabric, FabricPeer } from '../native-bridge/fabric.ts';
import type { Faults } from './faults.ts';
import { intercept, throwing } from './intercept.ts';

/** The ports of actors, with fault points at their calls. */

const ofDevice = (message: string, isRefusal: boolean) =>
  isRefusal ? new OutOfDeviceMemoryError(message) : new NativeError(message);
const ofHost = (message: string, isRefusal: boolean) =>
  isRefusal ? new OutOfHostMemoryError(message) : new NativeError(message);
const ofEngine = (message: string) => new EngineError(message);
const ofLink = (message: string) => new WorkerLinkError(message);

export function rankPortsWithFaults(ports: RankPorts, faults: Faults | null): RankPorts {
  if (faults === null) return ports;
  const device = intercept(ports.device, faults, {
    allocate: { point: 'device-allocate', failure: ofDevice, fail: throwing },
    upload: { point: 'device-upload', native: 'native-upload' },
  });
  const segments = intercept(ports.segments, faults, {
    create: { point: 'segments-create', failure: ofHost },
    load: { point: 'segments-load', failure: ofHost, fail: failedLoad },
    ready: { point: 'segments-ready', native: 'native-pin' },
  });
  const documents = intercept(ports.documents, faults, {
    write: { point: 'documents-write', failure: ofHost, fail: throwing },
  });
  return {
    ...ports,
    device,
    segments,
    documents,
    fabric: (secret) => fabricWithFaults(ports.fabric(secret), faults),
    openCollective: intercept(ports, faults, {
      openCollective: {
        point: 'collective-open',
        result: (collective: Collective) =>
          intercept(collective, faults, {
            broadcast: { point: 'collective-broadcast', native: 'native-broadcast' },
          }),
      },
    }).openCollective,
    bindWorkerLink: intercept(ports, faults, {
      bindWorkerLink: { point: 'link-bind', result: (link: WorkerLink) => linkWithFaults(link, faults) },
    }).bindWorkerLink,
  };
}

function failedLoad(error: WeightcastError): LoadJob {
  return { totalBytes: 0, doneBytes: () => 0, digests: Promise.reject(error) };
}

function fabricWithFaults(fabric: Fabric, faults: Faults): Fabric {
  return intercept(fabric, faults, {
    expose: { point: 'fabric-expose' },
    connect: {
      point: 'fabric-connect',
      result: (peer: FabricPeer) =>
        intercept(peer, faults, {
          read: { point: 'fabric-read', native: 'native-read' },
        }),
    },
  });
}

function linkWithFaults(link: WorkerLink, faults: Faults): WorkerLink {
  return intercept(link, faults, {
    open: { point: 'link-open', failure: ofLink },
    load: { point: 'link-load', failure: ofLink },
    release: { point: 'link-release', failure: ofLink },
    finish: {
      point: 'link-finish',
      failure: ofLink,
      result: (digests: ArrivedDigests | null, isCorrupt) => {
        if (isCorrupt && digests !== null) digests.digests[0]! ^= 1n;
        return digests;
      },
    },
  });
}

export function supervisorPortsWithFaults(ports: SupervisorPorts, faults: Faults | null): SupervisorPorts {
  if (faults === null) return ports;
  const memory = intercept(ports.memory, faults, {
    write: { point: 'memory-write', failure: ofHost, fail: throwing },
    writeLarge: { point: 'memory-write', failure: ofHost },
  });
  return {
    ...ports,
    memory,
    launchRank: intercept(ports, faults, { launchRank: { point: 'launch-rank', fail: throwing } }).launchRank,
    engineClient: (instance) => engineWithFaults(ports.engineClient(instance), faults),
  };
}

function engineWithFaults(engine: EngineClient, faults: Faults): EngineClient {
  return intercept(engine, faults, {
    state: { point: 'engine-state', failure: ofEngine },
    pause: { point: 'engine-pause', failure: ofEngine },
    resume: { point: 'engine-resume', failure: ofEngine },
    update: { point: 'engine-update', failure: ofEngine },
  });
}
