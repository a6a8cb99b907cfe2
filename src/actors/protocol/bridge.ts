import * as z from 'zod';
import { allPauseModes } from '../../engines/engine-client.ts';
import { workersSaid } from '../../engines/workers-said.ts';
import { askedPrompts, rankAnswers } from './answers.ts';
import { type MessageIn, request } from './table.ts';
import { epoch, milliseconds, nothing } from './values.ts';

export const engineState = z.object({
  /** It was down when it was asked first: what runs now was started after that. */
  wasDown: z.boolean(),
  /** These three are null where the engine cannot be asked. */
  isPaused: z.boolean().nullable(),
  isSleeping: z.boolean().nullable(),
  /** The version of its weights that it was given last. */
  version: z.string().nullable(),
  /** What its workers say; null where they cannot be asked. */
  workers: workersSaid.nullable(),
  /** How many workers it has: in one data-parallel replica, and in all. Null where it does not say. */
  worldSize: z.object({ replica: z.int().positive(), total: z.int().positive() }).nullable(),
});
export type EngineState = z.infer<typeof engineState>;

/** What each data-parallel rank of an engine answered to prompts. */
const questioned = z.object({ ranks: z.array(rankAnswers).min(1) });
export type Questioned = z.infer<typeof questioned>;

export const toBridge = {
  /** `workersMilliseconds`: what the workers of an engine that is healthy get to say which link they speak. */
  awaitHealthy: request(
    'await-healthy',
    { timeoutMilliseconds: milliseconds, workersMilliseconds: milliseconds },
    engineState,
  ),
  pause: request('pause', { mode: z.enum(allPauseModes), timeoutMilliseconds: milliseconds }, nothing),
  resume: request('resume', { timeoutMilliseconds: milliseconds }, nothing),
  trigger: request(
    'trigger',
    {
      epoch,
      links: z.record(z.string(), z.string()),
      resetCache: z.boolean(),
      timeoutMilliseconds: milliseconds,
    },
    nothing,
  ),
  /** Drops the caches that the old weights computed, if the update itself has not. */
  resetCaches: request('reset-caches', { timeoutMilliseconds: milliseconds }, nothing),
  /**
   * `checkpoint@digest`. Answered with what the engine calls its weights then; null if it does not say. It may be told beside
   * the other calls.
   */
  label: request(
    'label',
    { version: z.string(), timeoutMilliseconds: milliseconds },
    z.object({ said: z.string().nullable() }),
  ),
  /** What the engine and its workers say of their weights. It may be asked beside the other calls. */
  identify: request(
    'identify',
    { timeoutMilliseconds: milliseconds },
    z.object({ version: z.string().nullable(), held: workersSaid.shape.held }),
  ),
  /** How probable the engine finds the tokens of the prompts. It may be asked beside the other calls. */
  answers: request('answers', { prompts: askedPrompts, timeoutMilliseconds: milliseconds }, questioned),
  abandon: request('abandon', { reason: z.string() }, nothing),
};

export type BridgeMessage = MessageIn<typeof toBridge>;
