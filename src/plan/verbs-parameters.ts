import { UsageError } from '../errors.ts';
import { type Environment, gidIndexOf } from './nic-selection.ts';

/** How RDMA connections are set up. Null is weightcast's own default. */
export interface VerbsParameters {
  /** `WEIGHTCAST_RDMA_GID_INDEX`, else `NCCL_IB_GID_INDEX`. */
  readonly gidIndex: number | null;
  /** `NCCL_IB_TC`: the traffic class of all packets, of which the upper six bits are the DSCP. */
  readonly trafficClass: number | null;
  /** `NCCL_IB_SL`. */
  readonly serviceLevel: number | null;
  /** `NCCL_IB_PKEY`: index in the port's table of partition keys. */
  readonly pkeyIndex: number | null;
  /** `NCCL_IB_TIMEOUT`: a packet is sent again after 4.096 µs times two to the power of it. */
  readonly timeout: number | null;
  /** `NCCL_IB_RETRY_CNT`: how often it is sent again. */
  readonly retries: number | null;
  /** `NCCL_IB_PCI_RELAXED_ORDERING`: 0, 1, or 2 for where the device has it. */
  readonly relaxedOrdering: boolean | null;
}

interface Variable {
  readonly name: string;
  readonly field: Exclude<keyof VerbsParameters, 'gidIndex' | 'relaxedOrdering'>;
  readonly least: number;
  readonly most: number;
}

/** With the ranges of the InfiniBand specification. A timeout of 0 would wait for ever. */
const variables: readonly Variable[] = [
  { name: 'NCCL_IB_TC', field: 'trafficClass', least: 0, most: 255 },
  { name: 'NCCL_IB_SL', field: 'serviceLevel', least: 0, most: 15 },
  { name: 'NCCL_IB_PKEY', field: 'pkeyIndex', least: 0, most: 65_535 },
  { name: 'NCCL_IB_TIMEOUT', field: 'timeout', least: 1, most: 31 },
  { name: 'NCCL_IB_RETRY_CNT', field: 'retries', least: 0, most: 7 },
];

/** All variables of {@link verbsParametersOf}, for those who show them. */
export const verbsVariables = [
  'WEIGHTCAST_RDMA_GID_INDEX',
  'NCCL_IB_GID_INDEX',
  ...variables.map(({ name }) => name),
  'NCCL_IB_PCI_RELAXED_ORDERING',
] as const;

/** As the variables that NCCL reads say for its own connections. Throws a `UsageError` that names the variable. */
export function verbsParametersOf(environment: Environment): VerbsParameters {
  const numbers = Object.fromEntries(
    variables.map((variable) => [variable.field, numberOf(environment, variable)]),
  ) as Record<Variable['field'], number | null>;
  const relaxed = numberOf(environment, { name: 'NCCL_IB_PCI_RELAXED_ORDERING', least: 0, most: 2 });
  return {
    gidIndex: gidIndexOf(environment),
    ...numbers,
    relaxedOrdering: relaxed === null ? null : relaxed > 0,
  };
}

function numberOf(
  environment: Environment,
  { name, least, most }: Pick<Variable, 'name' | 'least' | 'most'>,
): number | null {
  const text = environment[name]?.trim() ?? '';
  // NCCL's way to say "as if it were not set".
  if (text === '' || text === '-1') return null;
  // NCCL takes hexadecimal and octal too.
  const number = /^(0x[0-9a-f]+|\d+)$/i.test(text)
    ? Number.parseInt(text, /^0x/i.test(text) ? 16 : /^0\d/.test(text) ? 8 : 10)
    : Number.NaN;
  if (number >= least && number <= most) return number;
  throw new UsageError(`${name} must be a whole number from ${least} to ${most}, not ${text}`);
}
