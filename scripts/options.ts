// The launcher's options. Owns their names, defaults, limits and help text. Pure: arguments and environment come in.
import { isIP } from 'node:net'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'

export type StartOptions = {
  /** The gateway's port. */
  port: number
  /** IP address that it listens on; with 0.0.0.0 or :: agents of other hosts reach it. */
  host: string
  /** Everything of this installation: database, secrets, logs. Absolute. */
  dataDir: string
  /** Downloaded models, shared by all installations of this user. Absolute. */
  cacheDir: string
  /** A name of scripts/models.json, or the path of a .gguf file or a Hugging Face folder. */
  model: string
  /** A file to take the catalogue model from, before any download. */
  modelPath?: string
  /** One engine process per role, e.g. `prefill,decode`. Default: what the machine has room for, see engine-roles.ts. */
  engines?: string
  /** Threads of each engine. Default: the agent's. */
  threads?: number
  /** Context window in tokens. Default: the model's own. */
  contextTokens?: number
  /** KV cache in MiB. Default: the agent's. */
  kvMib?: number
  /** How keys and values are stored: `f16`, `q8_0`, `f32` or, on a GPU, `bf16`. Default: the engine's, f16. */
  kvType?: string
  /** What weights in F32, F16 and BF16 are turned into: `none`, `q8_0` or `q4_0`. Default: none. */
  quantize?: string
  /** Where engines compute: `cpu`, `cuda` or `cuda:N`. Default: the agent's, cpu. */
  device?: string
  /** Who multiplies large f16 and bf16 matrices on a GPU: `own`, `cublaslt` or `auto`. Default: the agent's, own. */
  gemm?: string
  /** A Postgres of the user's instead of the embedded one. */
  databaseUrl?: string
  /** How long streams and background responses that are open at a restart of the gateway may go on. */
  drainSeconds: number
  /** One prompt, then stop. */
  once?: string
  /** Most tokens of the answer to `once`. */
  maxTokens: number
  /** Machine-readable standard output. */
  json: boolean
  /** Children's log lines on standard error. */
  verbose: boolean
}

export type ParsedOptions =
  | { kind: 'start'; options: StartOptions }
  | { kind: 'help'; text: string }
  | { kind: 'error'; text: string }

/** What parsing depends on besides the arguments. */
export type OptionsContext = { env: Record<string, string | undefined>; homeDir: string; cwd: string }

export const DEFAULT_PORT = 8787
export const LOOPBACK = '127.0.0.1'
export const DEFAULT_MODEL = 'smollm2-135m-instruct'
const DEFAULT_MAX_TOKENS = 256
/** Few answers are longer; whoever restarts for a new version has the next one at once. */
const DEFAULT_DRAIN_SECONDS = 600

/** Bounds: beyond them a number is a mistake, and the process that gets it would fail later and less clearly. */
const LIMITS = {
  port: [1, 65_535],
  threads: [1, 1_024],
  context: [64, 1_048_576],
  'kv-mib': [8, 4_194_304],
  'max-tokens': [1, 131_072],
  'drain-seconds': [0, 86_400],
} as const

/** A prefill engine finishes no request: one that does is needed beside it. */
const ENGINES = /^(?=.*(?:both|decode))(?:both|prefill|decode)(?:,(?:both|prefill|decode)){0,15}$/

const DEVICE = /^(?:cpu|cuda(?::\d{1,3})?)$/

const CHOICES: Record<'kv-type' | 'quantize' | 'gemm', readonly string[]> = {
  'kv-type': ['f16', 'q8_0', 'f32', 'bf16'],
  quantize: ['none', 'q8_0', 'q4_0'],
  gemm: ['own', 'cublaslt', 'auto'],
}

export function helpText(): string {
  return `Starts the whole of Penstock on this machine: database, engine, backend agent, gateway.

  npm start                                   serve until Ctrl-C
  npm start -- --once "PROMPT"                answer one prompt, show its cost, stop

Options (after \`npm start --\`; an environment variable in brackets sets the same):
  --port N          the gateway's port                        default ${DEFAULT_PORT}  [PENSTOCK_PORT]
  --host ADDRESS    the IP address that it listens on         default ${LOOPBACK}  [PENSTOCK_HOST]
                    0.0.0.0 or :: for all: then put TLS in front, keys travel in the clear
  --data DIR        database, keys, logs of this installation default ~/.local/share/penstock  [PENSTOCK_DATA]
  --model NAME|PATH a model of scripts/models.json, a .gguf file or a Hugging Face folder (with a / in its path)
                                                              default ${DEFAULT_MODEL}  [PENSTOCK_MODEL]
  --engines ROLES   engine processes by role: both, or prefill and decode, e.g. prefill,decode,decode
                                                              default prefill,decode; both on one core or in little
                                                              memory  [PENSTOCK_ENGINES]
  --threads N       threads of each engine                    default: the cores  [PENSTOCK_THREADS]
  --context N       context window, in tokens                 default: the model's own  [PENSTOCK_CONTEXT]
  --kv-mib N        memory for each engine's KV cache, in MiB default: fits one full context or more  [PENSTOCK_KV_MIB]
  --kv-type TYPE    keys and values as f16, q8_0, f32 or, on a GPU, bf16
                                                              default f16  [PENSTOCK_KV_TYPE]
  --quantize TYPE   F32, F16, BF16 weights to q8_0 or q4_0    default none  [PENSTOCK_QUANTIZE]
  --device DEVICE   cpu, or cuda or cuda:N for a GPU          default cpu  [PENSTOCK_DEVICE]
  --gemm WHO        multiplies large f16 and bf16 matrices on a GPU: own, cublaslt or auto
                                                              default own  [PENSTOCK_GEMM]
  --drain-seconds N what is open at a restart of the gateway (SIGUSR2) may go on for so long
                                                              default ${DEFAULT_DRAIN_SECONDS}  [PENSTOCK_DRAIN_SECONDS]
  --once PROMPT     answer PROMPT at temperature 0, print tokens, cost and speed, stop
  --max-tokens N    longest answer to --once, in tokens       default ${DEFAULT_MAX_TOKENS}
  --json            standard output is JSON, one object per line
  --verbose         show the log lines of all parts           [PENSTOCK_VERBOSE=1]
  --help            this text

Environment:
  DATABASE_URL         postgres:// address of a database to use instead of the embedded one
  PENSTOCK_MODEL_PATH  a copy of the default model on this machine (size and SHA-256 are checked)
  PENSTOCK_CACHE       where models are kept                  default ~/.cache/penstock`
}

/** Reads arguments over environment over defaults; the first mistake is told in one sentence. */
export function parseOptions(argv: string[], context: OptionsContext): ParsedOptions {
  const { env } = context
  let values: ReturnType<typeof readArguments>
  try {
    values = readArguments(argv)
  } catch (error) {
    return { kind: 'error', text: `${(error as Error).message.split(/\. |\n/)[0]}. See npm start -- --help` }
  }
  if (values.help === true) return { kind: 'help', text: helpText() }
  const wrong: string[] = []
  const integer = (name: keyof typeof LIMITS, fallback: string | undefined): number | undefined => {
    const text = values[name] ?? fallback
    if (text === undefined || text === '') return undefined
    const [min, max] = LIMITS[name]
    const number = /^\d{1,9}$/.test(text) ? Number(text) : Number.NaN
    if (number >= min && number <= max) return number
    wrong.push(`--${name} must be a whole number from ${min} to ${max}, not ${JSON.stringify(text)}`)
    return undefined
  }
  const threads = integer('threads', env.PENSTOCK_THREADS)
  const contextTokens = integer('context', env.PENSTOCK_CONTEXT)
  const engines = values.engines ?? (env.PENSTOCK_ENGINES || undefined)
  if (engines !== undefined && !ENGINES.test(engines))
    wrong.push(`--engines must be roles like prefill,decode or both, not ${JSON.stringify(engines)}`)
  const kvMib = integer('kv-mib', env.PENSTOCK_KV_MIB)
  const choice = (name: keyof typeof CHOICES, fromEnv: string | undefined): string | undefined => {
    const text = values[name] ?? (fromEnv === '' ? undefined : fromEnv)
    if (text === undefined || CHOICES[name].includes(text)) return text
    wrong.push(`--${name} must be ${CHOICES[name].join(', ')}, not ${JSON.stringify(text)}`)
    return undefined
  }
  const kvType = choice('kv-type', env.PENSTOCK_KV_TYPE)
  const quantize = choice('quantize', env.PENSTOCK_QUANTIZE)
  const device = values.device ?? (env.PENSTOCK_DEVICE || undefined)
  if (device !== undefined && !DEVICE.test(device))
    wrong.push(`--device must be cpu, cuda or cuda:N, not ${JSON.stringify(device)}`)
  const gemm = choice('gemm', env.PENSTOCK_GEMM)
  const port = integer('port', env.PENSTOCK_PORT) ?? DEFAULT_PORT
  const host = values.host ?? (env.PENSTOCK_HOST || LOOPBACK)
  if (isIP(host) === 0) wrong.push(`--host must be an IP address, not ${JSON.stringify(host)}`)
  const maxTokens = integer('max-tokens', undefined) ?? DEFAULT_MAX_TOKENS
  const drainSeconds = integer('drain-seconds', env.PENSTOCK_DRAIN_SECONDS) ?? DEFAULT_DRAIN_SECONDS
  if (values.once !== undefined && values.once.trim() === '') wrong.push('--once needs a prompt that is not empty')
  const databaseUrl = env.DATABASE_URL === '' ? undefined : env.DATABASE_URL
  if (databaseUrl !== undefined && !/^postgres(ql)?:\/\//.test(databaseUrl)) {
    wrong.push('DATABASE_URL must begin with postgres://')
  }
  if (wrong[0] !== undefined) return { kind: 'error', text: `${wrong[0]}. See npm start -- --help` }

  const folder = (given: string | undefined, base: string | undefined, ...fallback: string[]): string => {
    if (given !== undefined && given !== '') return resolve(context.cwd, given)
    // XDG: a relative base is invalid and ignored.
    if (base?.startsWith('/')) return join(base, 'penstock')
    return join(context.homeDir, ...fallback, 'penstock')
  }
  const model = values.model ?? env.PENSTOCK_MODEL ?? DEFAULT_MODEL
  return {
    kind: 'start',
    options: {
      port,
      host,
      dataDir: folder(values.data ?? env.PENSTOCK_DATA, env.XDG_DATA_HOME, '.local', 'share'),
      cacheDir: folder(env.PENSTOCK_CACHE, env.XDG_CACHE_HOME, '.cache'),
      model: isModelPath(model) ? resolve(context.cwd, model) : model,
      ...(env.PENSTOCK_MODEL_PATH && { modelPath: resolve(context.cwd, env.PENSTOCK_MODEL_PATH) }),
      ...(engines !== undefined && { engines }),
      ...(threads !== undefined && { threads }),
      ...(contextTokens !== undefined && { contextTokens }),
      ...(kvMib !== undefined && { kvMib }),
      ...(kvType !== undefined && { kvType }),
      ...(quantize !== undefined && { quantize }),
      ...(device !== undefined && { device }),
      ...(gemm !== undefined && { gemm }),
      ...(databaseUrl !== undefined && { databaseUrl }),
      ...(values.once !== undefined && { once: values.once }),
      drainSeconds,
      maxTokens,
      json: values.json === true,
      verbose: values.verbose === true || env.PENSTOCK_VERBOSE === '1',
    },
  }
}

/** A path has a folder or the file ending in it; everything else is a catalogue name. */
export function isModelPath(model: string): boolean {
  return model.includes('/') || model.endsWith('.gguf')
}

function readArguments(argv: string[]) {
  return parseArgs({
    args: argv,
    strict: true,
    allowPositionals: false,
    options: {
      port: { type: 'string' },
      host: { type: 'string' },
      data: { type: 'string' },
      model: { type: 'string' },
      engines: { type: 'string' },
      threads: { type: 'string' },
      context: { type: 'string' },
      'kv-mib': { type: 'string' },
      'kv-type': { type: 'string' },
      quantize: { type: 'string' },
      device: { type: 'string' },
      gemm: { type: 'string' },
      'drain-seconds': { type: 'string' },
      once: { type: 'string' },
      'max-tokens': { type: 'string' },
      json: { type: 'boolean' },
      verbose: { type: 'boolean' },
      help: { type: 'boolean', short: 'h' },
    },
  }).values
}
