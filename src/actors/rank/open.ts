import { unpackDocument } from '../../checkpoint/document-codec.ts';
import type { Manifest } from '../../checkpoint/manifest.ts';
import { rankName } from '../../checkpoint/rank-name.ts';
import { unpackPaths } from '../../checkpoint/segment-paths.ts';
import { OutOfDeviceMemoryError, WeightcastError } from '../../errors.ts';
import { type Plan, slotMemory } from '../../plan/plan.ts';
import { Receiver } from '../join/receiver.ts';
import { swarmClient } from '../join/swarm-client.ts';
import type { Context } from '../kernel/index.ts';
import type { ReceptionRequest } from '../protocol/join-values.ts';
import type { Opened } from '../protocol/update-values.ts';
import type { RankInbox } from './inbox.ts';
import type { KeptParts } from './kept-parts.ts';
import type { LayoutCache } from './layout-cache.ts';
import type { Leases } from './leases.ts';
import type { RankPorts } from './ports.ts';
import type { RankCommunicator } from './rank-communicator.ts';
import { OutdatedDigestsError, RankTransfer } from './transfer.ts';

type OpenMessage = Extract<RankInbox, { type: 'open' }>;

interface Holdings {
  readonly ports: RankPorts;
  readonly layouts: LayoutCache;
  readonly kept: KeptParts;
  readonly communicator: RankCommunicator;
  readonly leases: Leases;
}

/**
 * Opens a rank's part in an update: joins the communicator, creates room for what comes from other hosts, allocates the
 * slots and binds the worker link. The transfer is null if device memory is short, or the cached manifest too old. On a throw nothing stays allocated.
 */
export async function openTransfer(
  message: OpenMessage,
  holdings: Holdings,
  context: Context<RankInbox>,
): Promise<{ readonly transfer: RankTransfer | null; readonly answer: Opened }> {
  const { ports, layouts, kept, communicator } = holdings;
  const { layout, planDigest } = message;
  const segments = unpackPaths(message.segments);
  const [sentPlan, sentManifest] = await Promise.all(
    [message.plan, message.manifest].map(async (sent) => {
      return sent && unpackDocument(await ports.documents.read(sent));
    }),
  );
  const sent = { plan: sentPlan!, manifest: sentManifest! };
  const { expected } = message;
  const { plan, manifest, hasDigests } = layouts.use({ layout, planDigest, segments, expected, ...sent });
  if (plan === undefined || manifest === undefined)
    throw new WeightcastError(`rank ${ports.rank} has no plan ${planDigest} in its cache`);
  const { epoch, version, exchanges, stepTimeoutMilliseconds, reception } = message;
  const { announcement, ...ofParts } = kept.order(plan, manifest, message.worker.parts, message.sparing);
  const worker = { ...message.worker, ...ofParts };
  let receiver: Receiver | null = null;
  try {
    const collective =
      message.communicator === null ? null : await communicator.join(message.communicator, plan.ranks);
    receiver = reception && (await openReceiver(reception, plan, manifest, holdings, context));
    const receiving = (await receiver?.source()) ?? null;
    const parts = {
      plan,
      manifest,
      hasDigests,
      expected,
      announcement,
      ports,
      clock: context.clock,
      collective,
      receiver,
      stepTimeoutMilliseconds,
    };
    const transfer = await RankTransfer.open({ epoch, version, worker, exchanges, ...parts });
    const { whyUndigested } = transfer;
    if (whyUndigested !== null)
      context.log.warn({ error: whyUndigested }, 'what arrives at the engine worker is not proved');
    return { transfer, answer: { outcome: 'open', linkAddress: transfer.linkAddress, receiving } };
  } catch (error) {
    await receiver?.discard('the epoch was not opened');
    if (error instanceof OutdatedDigestsError) {
      layouts.forget(layout);
      return { transfer: null, answer: { outcome: 'outdated' } };
    }
    if (!(error instanceof OutOfDeviceMemoryError)) throw error;
    const wantedBytes = slotMemory(plan);
    const freeBytes = ports.device.memory().free;
    return { transfer: null, answer: { outcome: 'pressure', wantedBytes, freeBytes } };
  }
}

function openReceiver(
  order: ReceptionRequest,
  plan: Plan,
  manifest: Manifest,
  { ports, leases }: Holdings,
  context: Context<RankInbox>,
): Promise<Receiver> {
  const { rank, segments } = ports;
  const fabric = (secret: string | null) => ports.fabric(secret);
  const swarm = swarmClient(order, rank, context);
  const { log } = context;
  const onTcp = (from: number, reason: string) => {
    // Where there is no RDMA nothing else was to be expected.
    const level = ports.nics.length > 0 ? 'warn' : 'info';
    log[level]({ peer: rankName(from), reason }, `rank ${rank} reads over TCP and not over RDMA`);
  };
  return Receiver.open({ order, rank, plan, manifest, segments, leases, fabric, swarm, onTcp });
}
