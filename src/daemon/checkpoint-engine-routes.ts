import type * as z from 'zod';
import type { InstanceOptions } from '../actors/protocol/instance-options.ts';
import { UsageError } from '../errors.ts';
import { type Route, route } from './route.ts';
import * as schemas from './schemas.ts';
import type { Service } from './service.ts';

type UpdateBody = z.infer<typeof schemas.checkpointEngineUpdate>;

/**
 * The routes of checkpoint-engine's own server (`python -m checkpoint_engine --uds PATH`, 0.4) that the daemon does not
 * have anyway, with its bodies, so that what calls them calls these. Failures have the daemon's own statuses and bodies.
 */
export function checkpointEngineRoutes(service: Service): Route[] {
  return [
    route({
      method: 'POST',
      path: '/v1/checkpoints/{name}/files',
      summary: "checkpoint-engine's registration of files.",
      body: schemas.checkpointEngineFiles,
      answer: schemas.doneAnswer,
      handle: async ({ params, body }) => {
        await service.register({ name: params.name!, source: body.files });
        return {};
      },
    }),
    route({
      method: 'POST',
      path: '/v1/checkpoints/{name}/gather-metas',
      summary: 'Nothing is left to do for it: the daemon knows its checkpoints. 404 for others.',
      answer: schemas.doneAnswer,
      handle: async ({ params }) => {
        service.checkpoints.check(params.name!);
        return {};
      },
    }),
    route({
      method: 'POST',
      path: '/v1/checkpoints/{name}/update',
      summary:
        "checkpoint-engine's update. An engine that is no instance yet is added, with `inference_group_ranks` as its ranks and checkpoint-engine's worker link.",
      body: schemas.checkpointEngineUpdate,
      answer: schemas.doneAnswer,
      handle: async ({ params, body }) => {
        service.checkpoints.check(params.name!);
        const instances = await instancesOf(service, body);
        const options = {
          timeoutMilliseconds: body.timeout * 1_000,
          ...(instances !== null && { instances }),
        };
        await service.updates.start(params.name!, options).ended;
        return {};
      },
    }),
  ];
}

/** The instances that a body means; null for all. */
async function instancesOf(service: Service, body: UpdateBody): Promise<string[] | null> {
  if (body.update_url !== null || body.uds !== null) return [await engineOf(service, body)];
  if (body.ranks.length === 0) return null;
  const names = service.instances.within(body.ranks);
  if (names.length === 0) throw new UsageError(`ranks ${body.ranks.join(', ')} hold no whole instance`);
  return names;
}

/** The instance with the engine that a body names; added if there is none. */
async function engineOf(
  service: Service,
  { update_url, uds, inference_group_ranks }: UpdateBody,
): Promise<string> {
  if (update_url !== null && !URL.canParse(update_url)) throw new UsageError('update_url is no URL');
  const endpoint = uds === null ? new URL(update_url!).origin : `unix:${uds}`;
  const known = service.instances.withEndpoint(endpoint);
  if (known !== null) return known;
  if (inference_group_ranks.length === 0)
    throw new UsageError(
      `no instance has the engine ${endpoint}; add it first, or give its ranks as inference_group_ranks`,
    );
  const instance: InstanceOptions = {
    name: endpoint,
    endpoint,
    ranks: inference_group_ranks,
    link: 'checkpoint-engine',
  };
  await service.add(instance);
  return endpoint;
}
