// One model file at one number of threads: this engine and the peer in turn, round by round. Owns the order of the work and
// what belongs to a pair; the table is report.ts.
import { Worker } from './worker.ts'

export const METRICS = ['prefill512', 'prefillLong', 'decode1', 'decodeLong', 'decode16'] as const
export type Metric = (typeof METRICS)[number]

/** Seconds of one piece of work on both sides, measured within moments of each other. */
export type Pair = { ours: number; peer: number }
export type Ceilings = { read: number; int8?: number; f32?: number }
export type Cell = {
  format: string
  threads: number
  kernels: string
  weightBytes: number
  kvBytesPerToken: number
  pairs: Record<Metric, Pair[]>
  ceilings: Ceilings[]
  perplexity: { ours: number; peer: number } | undefined
  cpuSeconds: number
}

/** Context of the short decodes: little enough that the figure is about weights. */
export const SHORT_CONTEXT = 128
export const BATCH_SEQUENCES = 16
/** Steps of a timed decode: at the slowest rate seen, 20 steps a second, one is long against the clock. */
export const DECODE_STEPS = 32
const BATCH_STEPS = 16
const PREFILL_TOKENS = 512

export type CellOptions = {
  format: string
  modelPath: string
  threads: number
  rounds: number
  /** Rounds of the long prompt, which take most of the time. */
  longRounds: number
  /** Tokens of the long prompt, and the context of the long decode. */
  longTokens: number
  /** Compare the time of the cores instead of the clock's: for a machine with other work, and one thread. */
  cpuTime: boolean
  vocabulary: number
  benchPath: string
  peerDir: string
  /** Golden file whose windows are predicted; absent: no perplexity. */
  windowsPath?: string
  onPair: (metric: Metric, tokens: number, pair: Pair) => void
}

/** What a piece of work is called on both sides, and how many tokens it computes. */
export function workOf(metric: Metric, longTokens: number): { command: string; tokens: number } {
  switch (metric) {
    case 'prefill512':
      return { command: `prefill ${PREFILL_TOKENS}`, tokens: PREFILL_TOKENS }
    case 'prefillLong':
      return { command: `prefill ${longTokens}`, tokens: longTokens }
    case 'decode1':
      return { command: `decode ${SHORT_CONTEXT} ${DECODE_STEPS} 1`, tokens: DECODE_STEPS }
    case 'decodeLong':
      return { command: `decode ${longTokens} ${DECODE_STEPS} 1`, tokens: DECODE_STEPS }
    case 'decode16':
      return {
        command: `decode ${SHORT_CONTEXT} ${BATCH_STEPS} ${BATCH_SEQUENCES}`,
        tokens: BATCH_STEPS * BATCH_SEQUENCES,
      }
    default:
      return metric satisfies never
  }
}

/** The long decode follows the long prefill, whose context it uses. */
const ORDER: Metric[] = ['prefill512', 'decode1', 'decode16', 'prefillLong', 'decodeLong']

export async function measureCell(options: CellOptions): Promise<Cell> {
  const { format, modelPath, threads, longTokens } = options
  const limits = `${BATCH_SEQUENCES},${SHORT_CONTEXT + 2 * BATCH_STEPS},${longTokens + 2 * DECODE_STEPS}`
  const { worker: ours, greeting } = await Worker.start({
    name: 'engine-bench',
    command: options.benchPath,
    args: [modelPath, '--threads', String(threads), '--commands', limits],
  })
  const workers = [ours]
  try {
    const { worker: peer } = await Worker.start({
      name: 'peer',
      command: process.execPath,
      args: [
        'peer.ts',
        modelPath,
        '--threads',
        `${threads}`,
        '--limits',
        limits,
        '--vocabulary',
        `${options.vocabulary}`,
      ],
      cwd: options.peerDir,
    })
    workers.push(peer)
    const model = greeting.model as { kernels: string; weightBytes: number; kvBytesPerToken: number }
    const pairs: Record<Metric, Pair[]> = { prefill512: [], prefillLong: [], decode1: [], decodeLong: [], decode16: [] }
    const ceilings: Ceilings[] = []
    // The first step of a process takes its memory from the system; that is not what a rate is about.
    for (const worker of [ours, peer]) await worker.ask(workOf('decode16', longTokens).command)
    for (const worker of [ours, peer]) await worker.ask(workOf('decode1', longTokens).command)
    for (let round = 0; round < options.rounds; round++) {
      ceilings.push((await ours.ask('ceilings')) as Ceilings)
      for (const metric of ORDER) {
        if (metric.endsWith('Long') && round >= options.longRounds) continue
        const { command, tokens } = workOf(metric, longTokens)
        const pair: Pair = { ours: 0, peer: 0 }
        // Who goes first changes, so that a drift of the machine favours nobody.
        for (const side of round % 2 === 0 ? (['ours', 'peer'] as const) : (['peer', 'ours'] as const)) {
          pair[side] = await (side === 'ours' ? ours : peer).number(command, options.cpuTime ? 'cpuSeconds' : 'seconds')
        }
        pairs[metric].push(pair)
        options.onPair(metric, tokens, pair)
      }
    }
    const command = `perplexity ${options.windowsPath}`
    const perplexity =
      options.windowsPath === undefined
        ? undefined
        : { ours: await ours.number(command, 'perplexity'), peer: await peer.number(command, 'perplexity') }
    const { kernels, weightBytes, kvBytesPerToken } = model
    const cell = { format, threads, kernels, weightBytes, kvBytesPerToken, pairs, ceilings, perplexity }
    return { ...cell, cpuSeconds: await closeAll(workers) }
  } catch (error) {
    await closeAll(workers)
    throw error
  }
}

async function closeAll(workers: Worker[]): Promise<number> {
  const seconds = await Promise.all(workers.map((worker) => worker.close()))
  return seconds.reduce<number>((sum, part) => sum + (part ?? 0), 0)
}
