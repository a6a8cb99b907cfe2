import type * as z from 'zod';
import type { UpdateOptions } from '../cluster/cluster.ts';
import { type DaemonFacts, statusAnswerOf, updateAnswerOf } from './answers.ts';
import { instanceBody } from './instance-schema.ts';
import type { NewInstance } from './kept-instances.ts';
import { type Route, route } from './route.ts';
import * as schemas from './schemas.ts';
import type { Service } from './service.ts';
import { fromWireNames, toWireNames, withMilliseconds } from './wire-names.ts';

/** The daemon's own routes to what it keeps: checkpoints, instances, updates. */
export function serviceRoutes(service: Service, facts: DaemonFacts): Route[] {
  const status = () => statusAnswerOf(service, facts);
  return [
    route({
      method: 'GET',
      path: '/v1/status',
      summary: 'Instances and what they serve, checkpoints, ranks, updates that run.',
      answer: schemas.statusAnswer,
      handle: status,
    }),
    route({
      method: 'POST',
      path: '/v1/checkpoints',
      summary:
        'Register a checkpoint: load its files into host memory, or use those in /dev/shm where they are.',
      body: schemas.registerBody,
      answer: schemas.checkpointAnswer,
      handle: async ({ body }) => toWireNames(await service.register(registrationOf(body))),
    }),
    route({
      method: 'GET',
      path: '/v1/checkpoints/{name}',
      summary: 'One checkpoint, with its files.',
      answer: schemas.checkpointFilesAnswer,
      handle: async ({ params }) => toWireNames(service.checkpoints.view(params.name!)),
    }),
    route({
      method: 'DELETE',
      path: '/v1/checkpoints/{name}',
      summary: 'Unregister a checkpoint. Also a route of checkpoint-engine.',
      answer: schemas.doneAnswer,
      handle: async ({ params }) => {
        await service.checkpoints.unregister(params.name!);
        return {};
      },
    }),
    route({
      method: 'GET',
      path: '/v1/checkpoints/{name}/metas',
      summary:
        'With what other clusters read a checkpoint from the memory of this one, as long as it stays registered here.',
      answer: schemas.metasAnswer,
      handle: async ({ params }) => ({ metas: await service.checkpoints.metas(params.name!) }),
    }),
    ...instanceRoutes(service, status),
    ...updateRoutes(service),
  ];
}

function instanceRoutes(service: Service, status: () => Promise<unknown>): Route[] {
  return [
    route({
      method: 'POST',
      path: '/v1/instances',
      summary: 'Add an instance: start a rank for each of its workers.',
      body: instanceBody,
      answer: schemas.statusAnswer,
      handle: async ({ body }) => {
        await service.add(instanceOf(body));
        return status();
      },
    }),
    route({
      method: 'DELETE',
      path: '/v1/instances/{name}',
      summary: 'Remove an instance: end its ranks. Its engine keeps running.',
      answer: schemas.doneAnswer,
      handle: async ({ params }) => {
        await service.remove(params.name!);
        return {};
      },
    }),
    route({
      method: 'POST',
      path: '/v1/instances/{name}/resume',
      summary: 'Resume an engine that an update has left paused, whatever weights it holds.',
      body: schemas.emptyBody,
      answer: schemas.doneAnswer,
      handle: async ({ params }) => {
        await service.instances.resume(params.name!);
        return {};
      },
    }),
  ];
}

function updateRoutes(service: Service): Route[] {
  return [
    route({
      method: 'POST',
      path: '/v1/updates',
      summary:
        'Install a registered checkpoint in instances. Answers when all have ended, with what became of each and what is proved; or, without `wait`, at once.',
      body: schemas.updateBody,
      answer: schemas.updateAnswer,
      handle: async ({ body, reply }) => {
        const { checkpoint, wait } = body;
        const { id, ended } = service.updates.start(checkpoint, await updateOptionsOf(body, service));
        if (wait) await ended;
        else reply.code(202);
        return updateAnswerOf(service.updates.view(id));
      },
    }),
    route({
      method: 'GET',
      path: '/v1/updates',
      summary: 'Updates that run, and the last ones that have ended.',
      answer: schemas.updatesAnswer,
      handle: async () => ({ updates: service.updates.views().map(updateAnswerOf) }),
    }),
    route({
      method: 'GET',
      path: '/v1/updates/{id}',
      summary: 'One update.',
      answer: schemas.updateAnswer,
      handle: async ({ params }) => updateAnswerOf(service.updates.view(params.id!)),
    }),
    route({
      method: 'DELETE',
      path: '/v1/updates/{id}',
      summary: 'Cancel an update that runs. Answers when it has ended; engines that are whole are resumed.',
      answer: schemas.updateAnswer,
      handle: async ({ params }) => updateAnswerOf(await service.updates.cancel(params.id!)),
    }),
  ];
}

function registrationOf(body: z.infer<typeof schemas.registerBody>) {
  const { name, path, files, metas, hosts, version, temporary = false } = body;
  return {
    name,
    source: path ?? files ?? { metas: metas! },
    temporary,
    ...(hosts !== undefined && { hosts }),
    ...(version !== undefined && { version }),
  };
}

function instanceOf(body: z.infer<typeof instanceBody>): NewInstance {
  return fromWireNames(body) as NewInstance;
}

async function updateOptionsOf(
  body: z.infer<typeof schemas.updateBody>,
  { roots }: Service,
): Promise<UpdateOptions> {
  const { checkpoint: _, wait: __, ...options } = body;
  const { verify } = options;
  if (typeof verify === 'object' && verify.baseline !== undefined)
    options.verify = { ...verify, baseline: await roots.file(verify.baseline) };
  return withMilliseconds(fromWireNames(options) as object) as UpdateOptions;
}
