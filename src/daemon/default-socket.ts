import { isAbsolute, join } from 'node:path';

/**
 * Where a daemon of this user serves, and its clients look, unless told otherwise: WEIGHTCAST_SOCKET, else in
 * XDG_RUNTIME_DIR, which systemd makes for each user, else in a directory of this user in /tmp. The Python client has the
 * same rule.
 */
export function defaultSocket(environment: NodeJS.ProcessEnv = process.env): string {
  const { WEIGHTCAST_SOCKET: chosen, XDG_RUNTIME_DIR: runtime } = environment;
  if (chosen) return chosen;
  if (runtime && isAbsolute(runtime)) return join(runtime, 'weightcast.sock');
  return `/tmp/weightcast-${process.getuid!()}/weightcast.sock`;
}
