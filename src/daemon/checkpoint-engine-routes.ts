import type * as z from 'zod';
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
  const metas = new Metas(service);
  return [
    ...metasRoutes(metas),
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
      summary:
        'The daemon knows its checkpoints: it notes which one `GET /v1/metas` is about. 404 for others.',
      answer: schemas.doneAnswer,
      handle: async ({ params }) => {
        service.checkpoints.check(params.name!);
        metas.gathered(params.name!);
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
        await metas.register(params.name!);
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

type MetasBody = z.infer<typeof schemas.checkpointEngineMetas>;

function metasRoutes(metas: Metas): Route[] {
  return [
    route({
      method: 'GET',
      path: '/v1/metas',
      summary:
        "checkpoint-engine's: with what others read the checkpoint that was gathered last from this daemon's memory. It grants access to it. {} without one.",
      answer: schemas.checkpointEngineMetas,
      handle: () => metas.get(),
    }),
    route({
      method: 'POST',
      path: '/v1/metas',
      summary:
        "checkpoint-engine's: what another daemon's `GET /v1/metas` has answered. The next update registers it by its name, and reads it from the memory of that one.",
      body: schemas.checkpointEngineMetas,
      answer: schemas.doneAnswer,
      handle: ({ body }) => {
        metas.load(body);
        return {};
      },
    }),
  ];
}

/** The metas of one checkpoint at a time, as checkpoint-engine's server has them. */
class Metas {
  readonly #service: Service;
  #gathered: string | null = null;
  #loaded: string | null = null;

  constructor(service: Service) {
    this.#service = service;
  }

  /** The metas are those of this checkpoint, and none that were loaded. */
  gathered(name: string): void {
    this.#gathered = name;
    this.#loaded = null;
  }

  async get(): Promise<MetasBody> {
    const { checkpoints } = this.#service;
    if (!checkpoints.views().some(({ name }) => name === this.#gathered)) return {};
    const content = await checkpoints.metas(this.#gathered!);
    return { 0: { p2p_store_addr: content, memory_buffer_metas_list: [], rdma_device: 'weightcast' } };
  }

  /** Throws `UsageError` for metas of others: their memory cannot be read from here. */
  load(metas: MetasBody): void {
    const [one, ...others] = Object.values(metas);
    const content = one?.rdma_device === 'weightcast' ? one.p2p_store_addr : null;
    if (content === null || others.length > 0)
      throw new UsageError(
        'these are no metas of weightcast; a group of checkpoint-engine cannot be read from',
      );
    this.#loaded = content;
  }

  /** Registers what was loaded, once. Rejects as `Service.register`. */
  async register(name: string): Promise<void> {
    if (this.#loaded === null) return;
    const metas = await this.#service.shared.write('metas.json', this.#loaded);
    await this.#service.register({ name, source: { metas } });
    this.#loaded = null;
  }
}

/** The instances that a body means; null for all. */
async function instancesOf(service: Service, body: UpdateBody): Promise<string[] | null> {
  if (body.update_url !== null || body.uds !== null) return [await engineOf(service, body)];
  if (body.ranks.length === 0) return null;
  const names = service.instances.within(body.ranks);
  if (names.length === 0) throw new UsageError(`ranks ${body.ranks.join(', ')} hold no whole instance`);
  return names;
}

/** Of the route that updates it, the last part of the path. */
function endpointOf({ origin, pathname }: URL): string {
  return origin + pathname.replace(/\/[^/]*\/?$/, '');
}

/** The instance with the engine that a body names; added if there is none. */
async function engineOf(
  service: Service,
  { update_url, uds, ranks: chosen, inference_group_ranks }: UpdateBody,
): Promise<string> {
  if (update_url !== null && !URL.canParse(update_url)) throw new UsageError('update_url is no URL');
  const endpoint = uds === null ? endpointOf(new URL(update_url!)) : `unix:${uds}`;
  const known = service.instances.withEndpoint(endpoint);
  if (known !== null) return known;
  const engine = { name: endpoint, endpoint, link: 'checkpoint-engine' } as const;
  // In its own server those that are not named are all ranks of the group.
  const [ranks = null] = [inference_group_ranks, chosen].filter(({ length }) => length > 0);
  const count = ranks === null ? await service.instances.workersAt(engine) : 0;
  if (count === null)
    throw new UsageError(
      `no instance has the engine ${endpoint}, which does not say how many workers it has; add it first, or give its ranks as inference_group_ranks`,
    );
  await service.add({ ...engine, ...(ranks === null ? { workerCount: count } : { ranks }) });
  return endpoint;
}
