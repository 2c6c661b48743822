// The backend agent as a process, with its engines below it. Owns its command line and knowing when it is ready; its
// options are backends/config.ts.
import { join } from 'node:path'
import { type Children, describeExit, type Running } from './children.ts'

export type AgentOptions = {
  /** The checkout. */
  root: string
  enginePath: string
  modelPath: string
  modelName: string
  gatewayUrl: string
  stateDir: string
  /** One-time enrolment token; needed at the first start on a state folder. */
  joinToken?: string
  /** Roles, one engine process each. Default: the agent's, one that does both. */
  engines?: string
  threads?: number
  contextTokens?: number
  kvMib?: number
  kvType?: string
  quantize?: string
  device?: string
  gemm?: string
}

export type AgentRunning = Running & {
  /** Process id of the engine that answers requests now. */
  enginePid(): number | undefined
  /** Process ids of all engines that are up now. */
  enginePids(): number[]
  /** Context window that the engine serves, in tokens. */
  contextTokens: number
}

/** Loading the default model takes well under a second; a large one from a cold disk takes minutes. */
const READY_TIMEOUT_MS = 5 * 60_000
/** Open answers may end within this after a stop. */
const DRAIN_GRACE_MS = 5_000
/** On top of the drain: leaving the fleet, ending the engine. */
const STOP_GRACE_MS = DRAIN_GRACE_MS + 4_000

/** Starts the agent and resolves when its engines are ready. @throws Error with its own words, or its last log lines */
export async function startAgent(
  options: AgentOptions,
  children: Children,
  signal: AbortSignal,
): Promise<AgentRunning> {
  let enginePid: number | undefined
  let enginePids: number[] = []
  let onReady = (_: number) => {}
  let onFailed = (_: Error) => {}
  const ready = new Promise<number>((resolve, reject) => {
    onReady = resolve
    onFailed = reject
  })
  const running = children.start({
    name: 'agent',
    command: process.execPath,
    args: [join(options.root, 'backends', 'main.ts'), ...argumentsOf(options)],
    // In the environment, not on the command line, which every user of the machine can read.
    // It has no business with the database.
    env: { ...process.env, PENSTOCK_JOIN_TOKEN: options.joinToken, DATABASE_URL: undefined },
    cwd: options.root,
    stopGraceMs: STOP_GRACE_MS,
    onLine: (line) => {
      const event = parseEvent(line)
      if (event?.event === 'ready') {
        enginePid = event.pid
        enginePids = (event.engines ?? []).flatMap(({ pid }) => pid ?? [])
        onReady(event.contextTokens ?? 0)
      }
      if (event?.event === 'failed') onFailed(new Error(`the backend agent: ${event.message ?? 'failed'}`))
    },
  })
  const timer = setTimeout(
    () => onFailed(new Error(`the backend agent was not ready within ${READY_TIMEOUT_MS / 1000} s`)),
    READY_TIMEOUT_MS,
  )
  const abort = () => onFailed(signal.reason as Error)
  signal.addEventListener('abort', abort)
  void running.exited.then((exit) => onFailed(new Error(describeExit('the backend agent', exit, running.recent()))))
  try {
    signal.throwIfAborted()
    const contextTokens = await ready
    return { ...running, contextTokens, enginePid: () => enginePid, enginePids: () => enginePids }
  } catch (error) {
    await running.stop()
    throw error
  } finally {
    clearTimeout(timer)
    signal.removeEventListener('abort', abort)
  }
}

function argumentsOf(options: AgentOptions): string[] {
  const pairs: [string, string | number | undefined][] = [
    ['--engine', options.enginePath],
    ['--model', options.modelPath],
    ['--model-name', options.modelName],
    ['--gateway', options.gatewayUrl],
    ['--state-dir', options.stateDir],
    ['--listen', '127.0.0.1:0'],
    ['--drain-grace-ms', DRAIN_GRACE_MS],
    ['--engines', options.engines],
    ['--threads', options.threads],
    ['--context', options.contextTokens],
    ['--kv-mib', options.kvMib],
    ['--kv-type', options.kvType],
    ['--quantize', options.quantize],
    ['--device', options.device],
    ['--gemm', options.gemm],
  ]
  return pairs.flatMap(([flag, value]) => (value === undefined ? [] : [flag, String(value)]))
}

type AgentEvent = {
  event?: string
  pid?: number
  engines?: { pid?: number }[]
  contextTokens?: number
  message?: string
}

/** One JSON line of the agent's standard output; undefined for anything else. */
function parseEvent(line: string): AgentEvent | undefined {
  try {
    return JSON.parse(line) as AgentEvent
  } catch {
    return undefined
  }
}
