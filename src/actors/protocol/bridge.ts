import * as z from 'zod';
import { allPauseModes } from '../../engines/engine-client.ts';
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
  /** Of the worker link, in which this engine's workers and ranks understand each other. */
  linkProtocol: z.int().nullable(),
});
export type EngineState = z.infer<typeof engineState>;

export const toBridge = {
  awaitHealthy: request('await-healthy', { timeoutMilliseconds: milliseconds }, engineState),
  pause: request('pause', { mode: z.enum(allPauseModes), timeoutMilliseconds: milliseconds }, nothing),
  resume: request('resume', { timeoutMilliseconds: milliseconds }, nothing),
  trigger: request(
    'trigger',
    {
      epoch,
      links: z.record(z.string(), z.string()),
      /** `checkpoint@digest`. */
      version: z.string(),
      resetCache: z.boolean(),
      stepTimeoutMilliseconds: milliseconds,
      timeoutMilliseconds: milliseconds,
    },
    nothing,
  ),
  abandon: request('abandon', { reason: z.string() }, nothing),
};

export type BridgeMessage = MessageIn<typeof toBridge>;
