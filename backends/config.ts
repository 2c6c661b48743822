// Options of the agent: command line first, then environment, then defaults. Owns names, bounds and help;
// reading the join token file is the only I/O.
import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { z } from 'zod'
import { ENGINE_ROLES, type EngineRole } from '../protocol/capacity.ts'
import { POOLINGS, type Pooling } from '../protocol/engine-frames.ts'

export class ConfigError extends Error {
  override name = 'ConfigError'
}

const KV_TYPES = ['f16', 'q8_0', 'f32', 'bf16'] as const
const QUANTIZATIONS = ['none', 'q8_0', 'q4_0'] as const
const GEMMS = ['own', 'cublaslt', 'auto'] as const
/** More would not fit a report, and no machine has use for them. */
const ENGINES_MAX = 16

type Address = { host: string; port: number }

export type Config = {
  enginePath: string
  modelPath: string
  modelName: string
  gatewayUrl: string
  stateDir: string
  listenHost: string
  /** 0 = any free port. */
  listenPort: number
  /** Absent: derived from the address that was bound. */
  publicUrl?: string
  joinToken?: string
  /** One process each. */
  engines: EngineRole[]
  /** Where engines of other hosts hand over K and V, each engine a port further; port 0 = any free ones. Absent: nowhere. */
  kvListen?: Address
  /** How they reach it; absent: as `kvListen` says. */
  kvPublic?: Address
  /** Absent: the engine chooses; engines of one role share the cores. */
  threads?: number
  prefillThreads?: number
  decodeThreads?: number
  kvMib?: number
  prefillKvMib?: number
  decodeKvMib?: number
  /** `cpu`, `cuda` or `cuda:N`: where the engines compute. Absent: on the processor. */
  device?: string
  deviceMemoryMib?: number
  /** Who multiplies large f16 and bf16 matrices on a GPU. Absent: the engine's own kernels. */
  gemm?: (typeof GEMMS)[number]
  kvType?: (typeof KV_TYPES)[number]
  quantize?: (typeof QUANTIZATIONS)[number]
  prefillTokens?: number
  contextTokens?: number
  sequencesMax?: number
  /** Of embeddings. Absent: as the model's file says, else `last`. */
  pooling?: Pooling
  queueRequestsMax: number
  drainGraceMs: number
  /** Of an engine, before its answers are checked; 0: never. Default: half a minute. */
  canaryIdleMs?: number
}

type Option = { flag: string; env: string; value: string; help: string; fallback?: string }

const OPTIONS: readonly Option[] = [
  { flag: 'engine', env: 'PENSTOCK_AGENT_ENGINE', value: 'PATH', help: 'engine executable (required)' },
  {
    flag: 'model',
    env: 'PENSTOCK_AGENT_MODEL',
    value: 'PATH',
    help: 'model: a GGUF file, or a Hugging Face folder (required)',
  },
  {
    flag: 'model-name',
    env: 'PENSTOCK_AGENT_MODEL_NAME',
    value: 'NAME',
    help: 'name requests are routed by (required)',
  },
  { flag: 'gateway', env: 'PENSTOCK_AGENT_GATEWAY', value: 'URL', help: 'base URL of the gateway (required)' },
  { flag: 'state-dir', env: 'PENSTOCK_AGENT_STATE_DIR', value: 'DIR', help: 'keeps key and identity (required)' },
  {
    flag: 'listen',
    env: 'PENSTOCK_AGENT_LISTEN',
    value: 'HOST:PORT',
    help: 'address to serve on, port 0 = any free one',
    fallback: '127.0.0.1:0',
  },
  {
    flag: 'public-url',
    env: 'PENSTOCK_AGENT_PUBLIC_URL',
    value: 'URL',
    help: 'where the gateway reaches this agent (default: the bound address)',
  },
  {
    flag: 'join-token-file',
    env: 'PENSTOCK_AGENT_JOIN_TOKEN_FILE',
    value: 'FILE',
    help: 'one-time enrolment token; or PENSTOCK_JOIN_TOKEN in the environment',
  },
  {
    flag: 'engines',
    env: 'PENSTOCK_AGENT_ENGINES',
    value: 'ROLES',
    help: 'one process per role: both, prefill, decode; e.g. prefill,decode,decode',
    fallback: 'both',
  },
  {
    flag: 'kv-listen',
    env: 'PENSTOCK_AGENT_KV_LISTEN',
    value: 'HOST:PORT',
    help: 'take keys and values from engines of other hosts; each engine a port further (default: nowhere)',
  },
  {
    flag: 'kv-public',
    env: 'PENSTOCK_AGENT_KV_PUBLIC',
    value: 'HOST:PORT',
    help: 'how those reach it, an IP address (default: as --kv-listen)',
  },
  {
    flag: 'threads',
    env: 'PENSTOCK_AGENT_THREADS',
    value: 'N',
    help: 'threads of each engine (default: all cores, shared by engines of one role)',
  },
  {
    flag: 'prefill-threads',
    env: 'PENSTOCK_AGENT_PREFILL_THREADS',
    value: 'N',
    help: 'of prefill engines (default: --threads)',
  },
  {
    flag: 'decode-threads',
    env: 'PENSTOCK_AGENT_DECODE_THREADS',
    value: 'N',
    help: 'of decode engines (default: --threads)',
  },
  {
    flag: 'kv-mib',
    env: 'PENSTOCK_AGENT_KV_MIB',
    value: 'N',
    help: 'KV cache of each engine, MiB (default: the engine chooses)',
  },
  {
    flag: 'prefill-kv-mib',
    env: 'PENSTOCK_AGENT_PREFILL_KV_MIB',
    value: 'N',
    help: 'of prefill engines (default: --kv-mib)',
  },
  {
    flag: 'decode-kv-mib',
    env: 'PENSTOCK_AGENT_DECODE_KV_MIB',
    value: 'N',
    help: 'of decode engines (default: --kv-mib)',
  },
  {
    flag: 'device',
    env: 'PENSTOCK_AGENT_DEVICE',
    value: 'DEVICE',
    help: 'where engines compute: cpu, cuda or cuda:N (default: cpu)',
  },
  {
    flag: 'device-memory-mib',
    env: 'PENSTOCK_AGENT_DEVICE_MEMORY_MIB',
    value: 'N',
    help: "of the GPU's memory, for each engine (default: most of what is free)",
  },
  {
    flag: 'gemm',
    env: 'PENSTOCK_AGENT_GEMM',
    value: 'WHO',
    help: 'on a GPU, who multiplies large f16 and bf16 matrices: own, cublaslt or auto (default: own)',
  },
  {
    flag: 'kv-type',
    env: 'PENSTOCK_AGENT_KV_TYPE',
    value: 'TYPE',
    help: 'keys and values as f16, q8_0 (half the memory), f32 or, on a GPU, bf16 (default: f16)',
  },
  {
    flag: 'quantize',
    env: 'PENSTOCK_AGENT_QUANTIZE',
    value: 'TYPE',
    help: 'turn F32, F16 and BF16 weights into q8_0 or q4_0 (default: none)',
  },
  {
    flag: 'prefill-tokens',
    env: 'PENSTOCK_AGENT_PREFILL_TOKENS',
    value: 'N',
    help: 'prompt tokens in a step that also decodes (default: the engine chooses)',
  },
  { flag: 'context', env: 'PENSTOCK_AGENT_CONTEXT', value: 'N', help: 'context window, tokens (default: the model)' },
  {
    flag: 'sequences',
    env: 'PENSTOCK_AGENT_SEQUENCES',
    value: 'N',
    help: 'sequences computed at once (default: the engine chooses)',
  },
  {
    flag: 'pooling',
    env: 'PENSTOCK_AGENT_POOLING',
    value: 'KIND',
    help: 'embeddings: last or mean token state (default: the model, else last)',
  },
  { flag: 'queue', env: 'PENSTOCK_AGENT_QUEUE', value: 'N', help: 'requests that may wait', fallback: '256' },
  {
    flag: 'drain-grace-ms',
    env: 'PENSTOCK_AGENT_DRAIN_GRACE_MS',
    value: 'MS',
    help: 'time for open streams to end after SIGTERM',
    fallback: '30000',
  },
  {
    flag: 'canary-idle-ms',
    env: 'PENSTOCK_AGENT_CANARY_IDLE_MS',
    value: 'MS',
    help: 'an engine that is idle for so long is asked what it was asked before; 0: never',
    fallback: '30000',
  },
]

/** The text of `--help`. */
export function helpText(): string {
  const rows = OPTIONS.map((option) => {
    const left = `  --${option.flag} ${option.value}`.padEnd(28)
    const fallback = option.fallback === undefined ? '' : ` (default: ${option.fallback})`
    return `${left}${option.help}${fallback}\n${''.padEnd(28)}env ${option.env}`
  })
  return [
    'Usage: node backends/main.ts --engine PATH --model FILE --model-name NAME --gateway URL --state-dir DIR [options]',
    '',
    'Serves one model file through one or more engine processes and joins them to the fleet of a gateway.',
    'Prints one JSON line per life event on stdout (listening, ready, failed), logs as JSON lines on stderr.',
    'Exit codes: 0 drained, 1 failure, 2 bad options or a model that the engine cannot serve.',
    '',
    ...rows,
    `${'  --help'.padEnd(28)}this text`,
    '',
  ].join('\n')
}

const wholeNumber = (max: number) => z.coerce.number().int().min(1).max(max)
const TOKEN_BYTES_MAX = 4096
const HostPort = z.string().regex(/^(\[[0-9a-fA-F:]+\]|[^:]+):\d{1,5}$/, 'must be HOST:PORT')

const Values = z.object({
  engine: z.string().min(1),
  model: z.string().min(1),
  'model-name': z.string().min(1).max(200),
  gateway: z.url({ protocol: /^https?$/ }),
  'state-dir': z.string().min(1),
  listen: HostPort,
  'public-url': z
    .url({ protocol: /^https?$/ })
    .max(500)
    .optional(),
  'join-token-file': z.string().min(1).optional(),
  engines: z
    .string()
    .transform((text) => text.split(',').map((role) => role.trim()))
    .pipe(z.array(z.enum(ENGINE_ROLES, `each must be one of ${ENGINE_ROLES.join(', ')}`)).max(ENGINES_MAX)),
  'kv-listen': HostPort.optional(),
  'kv-public': HostPort.optional(),
  threads: wholeNumber(1024).optional(),
  'prefill-threads': wholeNumber(1024).optional(),
  'decode-threads': wholeNumber(1024).optional(),
  'kv-mib': wholeNumber(16 * 1024 * 1024).optional(),
  'prefill-kv-mib': wholeNumber(16 * 1024 * 1024).optional(),
  'decode-kv-mib': wholeNumber(16 * 1024 * 1024).optional(),
  device: z
    .string()
    .regex(/^(?:cpu|cuda(?::\d{1,3})?)$/, 'must be cpu, cuda or cuda:N')
    .optional(),
  'device-memory-mib': wholeNumber(1024 * 1024).optional(),
  gemm: z.enum(GEMMS).optional(),
  'kv-type': z.enum(KV_TYPES).optional(),
  quantize: z.enum(QUANTIZATIONS).optional(),
  'prefill-tokens': wholeNumber(16 * 1024).optional(),
  context: wholeNumber(16 * 1024 * 1024).optional(),
  sequences: wholeNumber(65536).optional(),
  pooling: z.enum(POOLINGS).optional(),
  queue: wholeNumber(65536),
  'drain-grace-ms': z.coerce.number().int().min(0).max(3_600_000),
  'canary-idle-ms': z.coerce.number().int().min(0).max(3_600_000),
})

function readJoinToken(file: string | undefined, env: NodeJS.ProcessEnv): string | undefined {
  if (file === undefined) return env.PENSTOCK_JOIN_TOKEN?.trim() || undefined
  try {
    const text = readFileSync(file, 'utf8')
    if (text.length > TOKEN_BYTES_MAX) throw new Error(`longer than ${TOKEN_BYTES_MAX} bytes`)
    return text.trim() || undefined
  } catch (thrown) {
    throw new ConfigError(`--join-token-file ${file}: ${thrown instanceof Error ? thrown.message : String(thrown)}`)
  }
}

/** @param ports that are taken, from this one on. */
function addressOf(flag: string, text: string, ports: number): Address {
  const colon = text.lastIndexOf(':')
  const port = Number(text.slice(colon + 1))
  const last = port === 0 ? 0 : port + ports - 1
  if (last > 65535) throw new ConfigError(`--${flag}: port ${last} is over 65535`)
  return { host: text.slice(0, colon), port }
}

/**
 * Reads the options.
 * @returns `help` where --help was asked for.
 * @throws ConfigError naming the option, for anything missing, unknown or out of bounds.
 */
export function readConfig(argv: readonly string[], env: NodeJS.ProcessEnv): Config | 'help' {
  let flags: Record<string, unknown>
  try {
    flags = parseArgs({
      args: [...argv],
      options: Object.fromEntries([
        ...OPTIONS.map((option) => [option.flag, { type: 'string' as const }]),
        ['help', { type: 'boolean' as const, short: 'h' }],
      ]),
    }).values
  } catch (thrown) {
    throw new ConfigError(thrown instanceof Error ? thrown.message : String(thrown))
  }
  if (flags.help === true) return 'help'
  const raw: Record<string, unknown> = {}
  for (const option of OPTIONS) {
    const value = flags[option.flag] ?? (env[option.env] || undefined) ?? option.fallback
    if (value !== undefined) raw[option.flag] = value
  }
  const parsed = Values.safeParse(raw)
  if (!parsed.success) {
    const issue = parsed.error.issues[0]
    const flag = String(issue?.path[0] ?? '')
    throw new ConfigError(raw[flag] === undefined ? `--${flag} is required` : `--${flag}: ${issue?.message}`)
  }
  const values = parsed.data
  const listen = addressOf('listen', values.listen, 1)
  const config: Config = {
    enginePath: resolve(values.engine),
    modelPath: resolve(values.model),
    modelName: values['model-name'],
    gatewayUrl: values.gateway.replace(/\/+$/, ''),
    stateDir: resolve(values['state-dir']),
    listenHost: listen.host.replace(/^\[|\]$/g, ''),
    listenPort: listen.port,
    engines: values.engines,
    queueRequestsMax: values.queue,
    drainGraceMs: values['drain-grace-ms'],
    canaryIdleMs: values['canary-idle-ms'],
  }
  if (values['public-url'] !== undefined) config.publicUrl = values['public-url'].replace(/\/+$/, '')
  if (values['kv-listen'] !== undefined)
    config.kvListen = addressOf('kv-listen', values['kv-listen'], values.engines.length)
  if (values['kv-public'] !== undefined) {
    if (config.kvListen === undefined) throw new ConfigError('--kv-public says how --kv-listen is reached: give both')
    config.kvPublic = addressOf('kv-public', values['kv-public'], values.engines.length)
  }
  if (values.threads !== undefined) config.threads = values.threads
  if (values['prefill-threads'] !== undefined) config.prefillThreads = values['prefill-threads']
  if (values['decode-threads'] !== undefined) config.decodeThreads = values['decode-threads']
  if (values['kv-mib'] !== undefined) config.kvMib = values['kv-mib']
  if (values['prefill-kv-mib'] !== undefined) config.prefillKvMib = values['prefill-kv-mib']
  if (values['decode-kv-mib'] !== undefined) config.decodeKvMib = values['decode-kv-mib']
  if (values.device !== undefined) config.device = values.device
  if (values['device-memory-mib'] !== undefined) config.deviceMemoryMib = values['device-memory-mib']
  if (values.gemm !== undefined) {
    if (config.device?.startsWith('cuda') !== true) throw new ConfigError('--gemm is for --device cuda: give both')
    config.gemm = values.gemm
  }
  if (values['kv-type'] !== undefined) config.kvType = values['kv-type']
  if (values.quantize !== undefined) config.quantize = values.quantize
  if (values['prefill-tokens'] !== undefined) config.prefillTokens = values['prefill-tokens']
  if (values.context !== undefined) config.contextTokens = values.context
  if (values.sequences !== undefined) config.sequencesMax = values.sequences
  if (values.pooling !== undefined) config.pooling = values.pooling
  const joinToken = readJoinToken(values['join-token-file'], env)
  if (joinToken !== undefined) config.joinToken = joinToken
  return config
}
