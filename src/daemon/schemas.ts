import * as z from 'zod';
import { name, rank } from './instance-schema.ts';

/**
 * What the daemon is asked and what it answers, in JSON. The bodies of requests are checked by these schemas, and the
 * OpenAPI document is made of them. Unknown fields are refused, so that a misspelt option is not one that does nothing.
 */

const path = z.string().min(1).max(4_096);
const bytes = z.int().nonnegative();
const seconds = z.number().positive().max(86_400);
const time = (what: string) => seconds.optional().describe(what);
const nullableText = z.string().nullable();

export const registerBody = z
  .strictObject({
    name: name.describe(
      'Name of the checkpoint. One of the same name is replaced once the new one is loaded.',
    ),
    path: path.optional().describe("A safetensors file or a model's directory."),
    files: z.array(path).min(1).max(10_000).optional().describe('In place of `path`: safetensors files.'),
    metas: path
      .optional()
      .describe('In place of `path`: a metas file, by which it is read from the memory of another cluster.'),
    version: name.optional().describe('What its client calls this content; it is told to who asks for it.'),
    hosts: z
      .array(z.string().min(1).max(256))
      .min(1)
      .max(1_024)
      .optional()
      .describe('Hosts whose ranks load the files. Default: all that see the same files.'),
    temporary: z
      .boolean()
      .optional()
      .describe(
        'Unregister it when another temporary one comes, unless an instance serves it, or when none serves it any more.',
      ),
  })
  .refine(
    ({ path, files, metas }) => [path, files, metas].filter((source) => source !== undefined).length === 1,
    'give one of path, files and metas',
  );

/** Of requests that have nothing to say. */
export const emptyBody = z.strictObject({});

const prompt = z.union([z.string().max(1 << 20), z.array(z.int().nonnegative()).max(1 << 18)]);
const tolerance = z.number().positive().optional();
export const proofs = z.strictObject({
  installed: z.boolean().optional(),
  baseline: path
    .optional()
    .describe('File below a root, of `weightcast baseline`: what the engine must hold afterwards.'),
  answers: z
    .union([
      z.array(z.strictObject({ prompt, logprobs: z.array(z.number()).max(1 << 18), tolerance })).max(1_024),
      z.strictObject({ agree_with: name, prompts: z.array(prompt).min(1).max(1_024), tolerance }),
    ])
    .optional()
    .describe(
      'How probable the engine finds the tokens of prompts: as the trainer says, or as another instance.',
    ),
});

export const updateBody = z.strictObject({
  checkpoint: name,
  instances: z.array(name).min(1).max(1_024).optional().describe('Default: all.'),
  wait: z
    .boolean()
    .default(true)
    .describe('False: answer at once with the job; its progress comes by its events.'),
  bucket_bytes: bytes.min(1).optional(),
  fused_modules: z
    .array(z.array(z.string().min(1)).min(2))
    .max(1_024)
    .optional(),
  memory_fraction: z.number().gt(0).lte(1).optional(),
  verify: z
    .union([z.boolean(), proofs])
    .optional()
    .describe('What to prove of each instance. Default: true, all that needs nothing else.'),
  atomic: z
    .boolean()
    .optional()
    .describe(
      'Fail when any instance fails. Default: only when all do; what became of each is in the report.',
    ),
  heal: z
    .boolean()
    .optional()
    .describe('Update instances that failed as soon as their ranks and engines are back.'),
  accept_unproven: z
    .boolean()
    .optional()
    .describe('Update also models that may answer wrongly after a reload.'),
  keep_copy: z.boolean().optional(),
  parts: z
    .boolean()
    .optional()
    .describe(
      'Send each rank only what its engine worker keeps, where that is known. False: whole tensors. Default: true.',
    ),
  timeout_seconds: time('Of the whole update. Default: 600.'),
  step_timeout_seconds: time('Of one answer of an engine worker.'),
  connect_timeout_seconds: time(
    'When one engine worker has connected to its rank, or their engine has answered, of the others. Default: 60.',
  ),
  ready_timeout_seconds: time('Of an engine that is down, or starts, when the update begins.'),
  resume_timeout_seconds: time('Of an engine that is to resume, as far as the update waits for it.'),
});

// ── checkpoint-engine ──────────────────────────────────────────────────────────────────────────────────────────────

/** Of checkpoint-engine 0.4 (`checkpoint_engine/api.py`), which ignores what it does not know. */
export const checkpointEngineFiles = z.object({ files: z.array(path).min(1).max(10_000) });
export const checkpointEngineUpdate = z.object({
  ranks: z.array(rank).max(1_024).default([]),
  update_url: z.string().min(1).max(2_048).nullable().default(null),
  inference_group_ranks: z.array(rank).max(1_024).default([]),
  timeout: seconds.default(300),
  uds: path.nullable().default(null),
});

// ── answers ────────────────────────────────────────────────────────────────────────────────────────────────────────

const errorFields = {
  code: z.string().describe('Stable: WEIGHTCAST_USAGE, WEIGHTCAST_BUSY, …'),
  message: z.string().describe('One line.'),
};
const instanceReport = z.object({
  name: z.string(),
  outcome: z.string().describe('updated, unchanged or broken'),
  paused: z.boolean(),
  proofs: z.record(z.string(), z.string()).describe('arrived, installed, answering: what holds of it'),
  caches: nullableText.describe('dropped or kept: those of the old weights. Null unless it has new ones'),
  fed: nullableText.describe('parts: each rank only what its engine worker keeps; whole: whole tensors'),
  why_whole: nullableText.describe('Why not parts'),
  draft_kept: nullableText.describe('Why its draft model has kept its weights; null if it has not'),
  seconds: z.number(),
  error: z.object(errorFields).nullable(),
});
const outcomes = z
  .array(instanceReport)
  .optional()
  .describe('Of an update that has failed: what became of each instance.');
export const errorAnswer = z.object({
  error: z.object({
    ...errorFields,
    retry: z.boolean().describe('The same request may succeed a moment later.'),
    instances: outcomes,
  }),
});
const jobError = z.object({ ...errorFields, instances: outcomes }).nullable();
const version = z.object({ checkpoint: z.string(), digest: z.string() });

export const checkpointAnswer = z.object({
  name: z.string(),
  version: nullableText,
  state: z
    .enum(['waiting', 'loaded', 'failed'])
    .describe('waiting: no rank holds it yet; it is loaded when the first instance is added.'),
  digest: nullableText,
  tensors: z.int(),
  bytes,
  seconds: z.number().nullable().describe('Duration of the registration.'),
  problem: nullableText,
  on_device: z
    .boolean()
    .describe('In the memory of a device: only ranks there read it, and it ends with its trainer.'),
});

export const metasAnswer = z.object({
  metas: z
    .string()
    .describe('Content of a metas file, JSON, which grants access to the checkpoint: a secret.'),
});

export const joinFileAnswer = z.object({
  join_file: z
    .string()
    .describe(
      'Content of a join file, JSON. Who has it is a member of the cluster: keep it in a file of mode 0600.',
    ),
});

export const checkpointFilesAnswer = checkpointAnswer.extend({
  files: z.array(z.string()).describe('Paths, on the host of the daemon.'),
});

export const instanceAnswer = z.object({
  name: z.string(),
  endpoint: z.string(),
  ranks: z.array(rank),
  state: z.enum(['unknown', 'updating', 'verifying', 'serving', 'broken']),
  is_paused: z.boolean(),
  version: version.nullable(),
  problem: nullableText,
  draft_kept: nullableText.describe('Why its draft model has other weights than its target'),
});

const report = z.object({
  checkpoint: z.string(),
  digest: z.string(),
  epoch: z.int(),
  version: z.string().describe('`checkpoint@digest`'),
  instances: z.array(instanceReport),
  mode: z.enum(['pipelined', 'serial']),
  serial_from: z
    .array(z.object({ rank, bucket: z.int() }))
    .describe(
      'Ranks that went on serially from that bucket on, because device memory ran short in the middle of the update.',
    ),
  ranks: z.int(),
  tensors: z.int(),
  bytes,
  received_bytes: bytes,
  links: z.array(z.object({ rank, uploaded_bytes: bytes, broadcast_bytes: bytes })),
  buckets: z.int(),
  seconds: z.number(),
  gbps: z.number(),
  stages: z.record(z.string(), z.number()),
  overlap: z.number(),
});

export const updateAnswer = z.object({
  id: z.string(),
  checkpoint: z.string(),
  instances: z.array(z.string()),
  state: z.enum(['running', 'succeeded', 'failed']),
  started_at: z.string(),
  seconds: z.number(),
  progress: z.object({ activity: z.string(), done_bytes: bytes, total_bytes: bytes }).nullable(),
  report: report.nullable(),
  error: jobError,
});
export const updatesAnswer = z.object({ updates: z.array(updateAnswer) });

export const statusAnswer = z.object({
  daemon: z.object({
    version: z.string(),
    api: z.int(),
    pid: z.int(),
    started_at: z.string(),
    state: z.enum(['starting', 'ready', 'restarting', 'stopping']),
    restarts: z.int(),
    shared_directory: z
      .string()
      .describe(
        'Where clients of this host write safetensors files that are registered without a copy; the daemon removes them.',
      ),
  }),
  ready: z.boolean(),
  reasons: z.array(z.string()).describe('Why it is not ready.'),
  instances: z.array(instanceAnswer),
  checkpoints: z.array(checkpointAnswer),
  ranks: z.array(
    z.object({
      rank,
      state: z.enum(['starting', 'ready', 'down']),
      device_uuid: nullableText,
      host: nullableText,
      pid: z.int().nullable(),
    }),
  ),
  spare_bytes: bytes,
  updates: z.array(updateAnswer).describe('Those that run.'),
});

export const readyAnswer = z.object({ ready: z.boolean(), reasons: z.array(z.string()) });
export const healthAnswer = z.object({ status: z.literal('ok'), version: z.string(), api: z.int() });
/** checkpoint-engine's metas, by rank, as its package 0.4.2 reads and writes them. `p2p_store_addr` has weightcast's own. */
export const checkpointEngineMetas = z.record(
  z.string().regex(/^\d{1,4}$/),
  z.object({
    p2p_store_addr: z.string().nullable(),
    memory_buffer_metas_list: z.array(z.unknown()),
    rdma_device: z.string(),
  }),
);
export const doneAnswer = z.object({});
