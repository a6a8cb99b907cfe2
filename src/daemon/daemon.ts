import { createServer as createHttpServer, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { FastifyInstance } from 'fastify';
import { describe, UsageError } from '../errors.ts';
import { createLog } from '../observe/log.ts';
import { checkpointEngineRoutes } from './checkpoint-engine-routes.ts';
import { ConnectionLimit } from './connection-limit.ts';
import { EventStreams } from './event-stream.ts';
import { Linger } from './linger.ts';
import { operatorRoutes } from './operator-routes.ts';
import { refuseMalformed } from './raw-answers.ts';
import { serviceRoutes } from './routes.ts';
import { arrivalLimits, createServer } from './server.ts';
import { Service, type ServiceOptions } from './service.ts';
import { Sessions } from './sessions.ts';
import { SocketLock } from './socket-lock.ts';

export interface DaemonOptions extends ServiceOptions {
  /** Path of the socket, which only this user may use. */
  readonly socket: string;
  /** Where to listen on TCP too; whoever comes there needs the token. */
  readonly listen?: { readonly host: string; readonly port: number; readonly token: string };
  /** Seconds after its last client that it asks to be stopped. Default: it stays. */
  readonly linger?: number;
  /** Seconds that complete versions in shared memory stay for the next daemon if this one is killed. Default: 600. */
  readonly keepVersions?: number;
}

const defaultKeepSeconds = 600;

/** A cluster that outlives its clients, and is asked over HTTP. */
export class Daemon {
  readonly socket: string;
  /** `http://host:port`; null if it does not listen on TCP. */
  readonly url: string | null;
  /** Resolves when a client has asked it to stop, or none is left to stay for. */
  readonly stopRequested: Promise<void>;
  readonly #end: () => Promise<void>;
  #stopped: Promise<void> | null = null;

  private constructor(
    socket: string,
    url: string | null,
    stopRequested: Promise<void>,
    end: () => Promise<void>,
  ) {
    this.socket = socket;
    this.url = url;
    this.stopRequested = stopRequested;
    this.#end = end;
  }

  /** Rejects with `UsageError`, and with what makes the cluster not start; then nothing is left running. */
  static async start(options: DaemonOptions): Promise<Daemon> {
    const log = createLog('daemon');
    const lock = await SocketLock.take(options.socket);
    const ends: (() => unknown)[] = [];
    const end = async () => {
      for (const one of ends.splice(0)) await one();
      lock.release();
    };
    try {
      const keep = { socket: lock.path, seconds: options.keepVersions ?? defaultKeepSeconds };
      const service = await Service.start({ ...options, keep }, log);
      // First: who waits for an update is told what became of it.
      ends.push(() => service.stop());
      const { stopRequested, requestStop } = stopRequest();
      const streams = new EventStreams(service.events);
      const sessions = new Sessions(service.shared, (id) => void service.sessionEnded(id));
      const facts = { version: options.version, startedAt: new Date().toISOString() };
      const overTcp = new WeakSet<IncomingMessage>();
      const limit = new ConnectionLimit();
      const app = createServer({
        routes: [
          ...serviceRoutes(service, facts),
          ...operatorRoutes(service, facts, streams, sessions, requestStop),
          ...checkpointEngineRoutes(service),
        ],
        version: options.version,
        tokenFor: (request) => (overTcp.has(request) ? options.listen!.token : null),
        onWork: (request, response) => limit.works(request.socket, response),
        log,
      });
      ends.push(
        () => streams.close(),
        () => sessions.close(),
        () => app.close(),
      );
      limit.watch(app.server);
      await listenOnSocket(app, lock.path);
      const linger =
        options.linger === undefined
          ? null
          : new Linger(options.linger, () => service.updates.areRunning, requestStop);
      linger?.watch(app.server);
      ends.unshift(() => linger?.close());
      if (options.listen === undefined) return new Daemon(lock.path, null, stopRequested, end);
      const onServer = (server: Server) => {
        linger?.watch(server);
        limit.watch(server);
      };
      const tcp = await listenOnTcp(app, options.listen, overTcp, onServer);
      ends.push(() => closed(tcp));
      return new Daemon(lock.path, urlOf(tcp), stopRequested, end);
    } catch (error) {
      await end();
      throw error;
    }
  }

  /** Aborts what runs, resumes engines that are whole, ends all processes, and removes what they had. May be called twice. */
  stop(): Promise<void> {
    this.#stopped ??= this.#end();
    return this.#stopped;
  }
}

/** Only this user may use the socket, from its first moment on; it is removed as the server closes. */
async function listenOnSocket(app: FastifyInstance, path: string): Promise<void> {
  const mask = process.umask(0o177);
  try {
    await app.listen({ path });
  } catch (error) {
    throw new UsageError(`cannot listen on ${path}: ${describe(error)}`);
  } finally {
    process.umask(mask);
  }
}

async function listenOnTcp(
  app: FastifyInstance,
  { host, port }: { readonly host: string; readonly port: number },
  overTcp: WeakSet<IncomingMessage>,
  onServer: (server: Server) => void,
): Promise<Server> {
  const server = createHttpServer(arrivalLimits, (request, response) => {
    overTcp.add(request);
    app.routing(request, response);
  });
  server.on('clientError', refuseMalformed);
  onServer(server);
  await new Promise<void>((resolve, reject) => {
    const refuse = (error: Error) =>
      reject(new UsageError(`cannot listen on ${host}, port ${port}: ${error.message}`));
    server.once('error', refuse);
    server.listen({ host, port }, resolve);
  });
  return server;
}

function urlOf(server: Server): string {
  const { address, family, port } = server.address() as AddressInfo;
  return `http://${family === 'IPv6' ? `[${address}]` : address}:${port}`;
}

function closed(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve());
    server.closeAllConnections();
  });
}

function stopRequest() {
  let requestStop = () => {};
  const stopRequested = new Promise<void>((resolve) => {
    requestStop = resolve;
  });
  return { stopRequested, requestStop };
}
