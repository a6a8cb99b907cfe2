import { curveKeyPair } from 'zeromq';
import { UsageError } from '../errors.ts';

/** A CURVE key pair, each key 40 characters of Z85. */
export interface KeyPair {
  readonly publicKey: string;
  readonly secretKey: string;
}

/**
 * The keys of one cluster. All spokes share one pair: holding it is what makes a process a member, and members trust
 * each other. The hub keeps its secret key to itself.
 */
export interface ClusterKeys {
  readonly hub: KeyPair;
  readonly spoke: KeyPair;
}

/** What a hub has to know of {@link ClusterKeys}. */
export interface HubKeys {
  readonly hub: KeyPair;
  readonly spoke: Pick<KeyPair, 'publicKey'>;
}

/** What a spoke has to know of {@link ClusterKeys}. */
export interface SpokeKeys {
  readonly hub: Pick<KeyPair, 'publicKey'>;
  readonly spoke: KeyPair;
}

export function createClusterKeys(): ClusterKeys {
  return { hub: curveKeyPair(), spoke: curveKeyPair() };
}

/** The part to hand to a process that joins: everything but the hub's secret. */
export function spokeKeys(keys: ClusterKeys): SpokeKeys {
  return { hub: { publicKey: keys.hub.publicKey }, spoke: keys.spoke };
}

/** Options of a socket that only talks to clients which {@link admit} of zap.ts lets into this domain. */
export function curveServerOptions(keys: HubKeys, domain: string) {
  keyBytes(keys.hub.secretKey);
  // Enforced: a client is refused, not let in, when there is no handler that could answer for the domain.
  return { curveServer: true, curveSecretKey: keys.hub.secretKey, zapDomain: domain, zapEnforceDomain: true };
}

/** Options of a socket that only talks to the owner of the hub's key. */
export function curveClientOptions(keys: SpokeKeys) {
  for (const key of [keys.hub.publicKey, keys.spoke.publicKey, keys.spoke.secretKey]) keyBytes(key);
  return {
    curveServerKey: keys.hub.publicKey,
    curvePublicKey: keys.spoke.publicKey,
    curveSecretKey: keys.spoke.secretKey,
  };
}

const alphabet = '0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#';

/** The 32 bytes of a key. Throws `UsageError` for what is no key, without repeating it: it may be a secret. */
export function keyBytes(key: string): Uint8Array {
  const bytes = new Uint8Array(32);
  const view = new DataView(bytes.buffer);
  const digits = Array.from(key, (letter) => alphabet.indexOf(letter));
  if (digits.length !== 40 || digits.includes(-1))
    throw new UsageError('a CURVE key is not 40 characters of Z85');
  for (let word = 0; word < 8; word += 1) {
    const value = digits.slice(5 * word, 5 * word + 5).reduce((sum, digit) => 85 * sum + digit, 0);
    if (value > 0xffff_ffff) throw new UsageError('a CURVE key is not valid Z85');
    view.setUint32(4 * word, value);
  }
  return bytes;
}
