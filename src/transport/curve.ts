import { curveKeyPair } from 'zeromq';
import { UsageError } from '../errors.ts';

/** A CURVE key pair, each key 40 characters of Z85. */
export interface KeyPair {
  readonly publicKey: string;
  readonly secretKey: string;
}

/**
 * The keys of one cluster. All spokes of the host that it was started on share one pair, those of each other host another: a
 * process that has one is a member, and members trust each other. Only the hub has the hub's secret key.
 */
export interface ClusterKeys {
  readonly hub: KeyPair;
  readonly spoke: KeyPair;
}

/** The part of {@link ClusterKeys} that a hub needs. */
export interface HubKeys {
  readonly hub: KeyPair;
  readonly spoke: Pick<KeyPair, 'publicKey'>;
  /** Public keys of the pairs of other hosts. */
  readonly others?: readonly string[];
}

/** The public keys of all who may connect. */
export function memberKeys({ spoke, others = [] }: HubKeys): string[] {
  return [spoke.publicKey, ...others];
}

/** The part of {@link ClusterKeys} that a spoke needs. */
export interface SpokeKeys {
  readonly hub: Pick<KeyPair, 'publicKey'>;
  readonly spoke: KeyPair;
}

export function createKeyPair(): KeyPair {
  return curveKeyPair();
}

export function createClusterKeys(): ClusterKeys {
  return { hub: curveKeyPair(), spoke: curveKeyPair() };
}

/** The part for a process that joins: everything but the hub's secret. */
export function spokeKeys(keys: ClusterKeys): SpokeKeys {
  return { hub: { publicKey: keys.hub.publicKey }, spoke: keys.spoke };
}

/** Options of a socket that accepts only clients that {@link admit} of zap.ts admits to this domain. */
export function curveServerOptions(keys: HubKeys, domain: string) {
  keyBytes(keys.hub.secretKey);
  // Enforced: without a handler for the domain clients are refused and not admitted.
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

/** The 32 bytes of a key. Throws a `UsageError` for an invalid key, without quoting it: it may be a secret. */
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
