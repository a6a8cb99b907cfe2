import type { UpdateRequest } from '../actors/protocol/update-values.ts';
import { baselineOf, type ProofOptions, proofsAsked } from './proof-options.ts';

export interface UpdateOptions {
  /** Names of the instances to update. Default: all. */
  readonly instances?: readonly string[];
  /** Bucket size in bytes. Default: the smallest that keeps link and engine busy, 256 MiB on a GPU, and twice that for many ranks. */
  readonly bucketBytes?: number;
  /**
   * Names of modules whose tensors the engine fuses within one call, and which therefore share a bucket if they have the
   * same parent: `[['b_proj', 'a_proj']]`. Those of DeepSeek, Kimi and GLM are known. Default: none further.
   */
  readonly fusedModules?: readonly (readonly string[])[];
  /** Part of the free device memory that the update may use, above 0 and up to 1. Default: 0.9. */
  readonly memoryFraction?: number;
  /**
   * What to prove of each instance, as far as its engine workers say: `InstanceReport.proofs` tells what holds. True: all
   * that needs nothing else from you. An instance of which a proof fails is broken. Default: true.
   */
  readonly verify?: boolean | ProofOptions;
  /**
   * Update also models that are not known to answer rightly after their engine has reloaded them, as those with quantised
   * experts, although there is no baseline to compare them with, or one that leaves out parts of tensors. Default: false.
   */
  readonly acceptUnproven?: boolean;
  /**
   * Reject when any instance was not updated, or is still paused, with all outcomes in the error. The others are updated all
   * the same. Default: false, reject only if that goes for all of them.
   */
  readonly atomic?: boolean;
  /**
   * When this resolves, and some instances were not updated: update them too, later, as soon as their ranks and engines are
   * back and for as long as the checkpoint is registered. `Cluster.status` tells when that is done. The next update of such an
   * instance takes over from it. Default: false.
   */
  readonly heal?: boolean;
  /**
   * Keep what hosts receive from other hosts in their memory, for later updates and for further hosts to read.
   * Default: true.
   */
  readonly keepCopy?: boolean;
  /**
   * Send each rank only the parts of tensors that its engine worker keeps, from its own host's memory, where that is known from
   * an update before: `InstanceReport.fed` tells whether it was done, and `whyWhole` why not. Default: true.
   */
  readonly parts?: boolean;
  /**
   * The whole update fails when it takes longer. Cleanup may take another 30 s; paused engines that are updated get at least
   * 5 s to resume. Default: 600,000 (ten minutes).
   */
  readonly timeoutMilliseconds?: number;
  /**
   * How long one answer of an engine worker may take, which copies a bucket, or quantises and packs the weights at the end;
   * and at most an engine's answer to a pause, unless that is `wait`, to the resume, and to the update once its workers have
   * everything. Default: 120,000, and 1,000 more for each GB of the checkpoint, but where several instances are updated at most half of the
   * time that the update has, so that one which hangs leaves time for the others.
   */
  readonly stepTimeoutMilliseconds?: number;
  /**
   * When one worker of an engine has connected to its rank, how long the others may take to connect to theirs. Then the
   * instance fails, unchanged: no worker gets weights before all are there. Default: 60,000.
   */
  readonly connectTimeoutMilliseconds?: number;
  /**
   * How long an engine that is down, or does not answer, when the update begins is waited for: it may be starting. Others that
   * are ready are updated meanwhile, unless the checkpoint is in the memory of a device, which all read at once. Default: two
   * minutes, or a fifth of the update's time if that is longer, and at most half of it where several instances are updated.
   */
  readonly readyTimeoutMilliseconds?: number;
  /**
   * How long the update waits for an engine to resume. Then it answers that the engine is paused, and the cluster goes on
   * trying. Default: what the update has left of its time, at least 5,000, and at most `stepTimeoutMilliseconds`; 750 for an
   * instance that was not updated.
   */
  readonly resumeTimeoutMilliseconds?: number;
  /** Aborts the update: it rejects with `AbortedError`, and engines that are whole are resumed. */
  readonly signal?: AbortSignal;
}

/** The same as messages carry it, with the defaults. */
export function updateRequestOf(options: UpdateOptions, timeoutMilliseconds: number): UpdateRequest {
  return {
    instances: options.instances === undefined ? undefined : [...options.instances],
    bucketBytes: options.bucketBytes,
    fusedModules: options.fusedModules?.map((modules) => [...modules]),
    memoryFraction: options.memoryFraction ?? 0.9,
    verify: proofsAsked(options.verify ?? true),
    baseline: baselineOf(options.verify ?? true),
    acceptUnproven: options.acceptUnproven ?? false,
    atomic: options.atomic ?? false,
    heal: options.heal ?? false,
    keepCopy: options.keepCopy ?? true,
    parts: options.parts ?? true,
    timeoutMilliseconds,
    stepTimeoutMilliseconds: options.stepTimeoutMilliseconds,
    connectTimeoutMilliseconds: options.connectTimeoutMilliseconds,
    readyTimeoutMilliseconds: options.readyTimeoutMilliseconds,
    resumeTimeoutMilliseconds: options.resumeTimeoutMilliseconds,
  };
}
