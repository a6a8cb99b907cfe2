import * as z from 'zod';
import { allPauseModes } from '../../engines/engine-client.ts';
import { type MessageIn, request } from './table.ts';
import { epoch, milliseconds, nothing } from './values.ts';

const pauseMode = z.enum(allPauseModes);

export const toBridge = {
  awaitHealthy: request('await-healthy', { timeoutMilliseconds: milliseconds }, nothing),
  pause: request('pause', { mode: pauseMode, timeoutMilliseconds: milliseconds }, nothing),
  resume: request('resume', { timeoutMilliseconds: milliseconds }, nothing),
  trigger: request(
    'trigger',
    {
      epoch,
      links: z.record(z.string(), z.string()),
      /** `checkpoint@digest`. */
      version: z.string(),
      resetCache: z.boolean(),
      timeoutMilliseconds: milliseconds,
    },
    nothing,
  ),
  abandon: request('abandon', { reason: z.string() }, nothing),
};

export type BridgeMessage = MessageIn<typeof toBridge>;
