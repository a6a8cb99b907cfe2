import { type DaemonFacts, updateAnswerOf } from './answers.ts';
import { apiVersion } from './api-version.ts';
import type { EventStreams } from './event-stream.ts';
import { type Route, route } from './route.ts';
import * as schemas from './schemas.ts';
import type { Service } from './service.ts';
import type { Sessions } from './sessions.ts';

const eventStream = 'text/event-stream';

/** Routes for who operates the daemon: health, metrics, events, its end. `stop`: ends it, after the answer. */
export function operatorRoutes(
  service: Service,
  facts: DaemonFacts,
  streams: EventStreams,
  sessions: Sessions,
  stop: () => void,
): Route[] {
  const health = async () => ({ status: 'ok', version: facts.version, api: apiVersion });
  return [
    ...['/healthz', '/v1/healthz'].map((path) =>
      route({
        method: 'GET',
        path,
        summary: 'The daemon answers, also while updates run.',
        answer: schemas.healthAnswer,
        open: true,
        handle: health,
      }),
    ),
    route({
      method: 'GET',
      path: '/readyz',
      summary:
        'Every instance serves the same version, none is broken or paused; 503 with reasons otherwise.',
      answer: schemas.readyAnswer,
      open: true,
      handle: async ({ reply }) => {
        const { reasons } = await service.status();
        if (reasons.length > 0) reply.code(503);
        return { ready: reasons.length === 0, reasons };
      },
    }),
    route({
      method: 'GET',
      path: '/metrics',
      summary: 'Metrics for Prometheus.',
      answer: 'text/plain',
      handle: async ({ reply }) => {
        reply.header('content-type', service.metrics.contentType);
        return service.metrics.text();
      },
    }),
    ...eventRoutes(service, streams, sessions),
    joinFileRoute(service),
    route({
      method: 'POST',
      path: '/v1/stop',
      summary:
        'End the daemon, its ranks, and everything that it has in shared memory. Engines keep running.',
      body: schemas.emptyBody,
      answer: schemas.doneAnswer,
      status: 202,
      handle: ({ reply }) => {
        reply.raw.once('close', stop);
        return {};
      },
    }),
  ];
}

function joinFileRoute(service: Service): Route {
  return route({
    method: 'GET',
    path: '/v1/hosts/{name}/join-file',
    summary: 'The join file of a host that joins: with it `weightcast agent` starts ranks there.',
    answer: schemas.joinFileAnswer,
    handle: async ({ params }) => ({ join_file: await service.joinFile(params.name!) }),
  });
}

function eventRoutes(service: Service, streams: EventStreams, sessions: Sessions): Route[] {
  return [
    route({
      method: 'GET',
      path: '/v1/session',
      summary:
        'Held open by a client that writes the same files in shared memory again and again: their names begin with `session-ID-`, and they go with it unless they are registered.',
      answer: eventStream,
      handle: ({ reply }) => sessions.serve(reply.raw),
    }),
    route({
      method: 'GET',
      path: '/v1/events',
      summary: 'Server-sent events: progress, update, checkpoint, instance, cluster.',
      answer: eventStream,
      handle: ({ reply }) => streams.serve(reply.raw),
    }),
    route({
      method: 'GET',
      path: '/v1/updates/{id}/events',
      summary: 'Server-sent events of one update; the last one says how it ended.',
      answer: eventStream,
      handle: ({ reply, params }) => {
        const view = service.updates.view(params.id!);
        const first =
          view.state === 'running' ? null : { type: 'update', ...(updateAnswerOf(view) as object) };
        streams.serve(reply.raw, { update: view.id, first });
      },
    }),
  ];
}
