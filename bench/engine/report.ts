// The bench's figures as text. Owns targets, ratios and the tables; pure: measurements in, lines out.
import {
  BATCH_SEQUENCES,
  type Ceilings,
  type Cell,
  DECODE_STEPS,
  METRICS,
  type Metric,
  type Pair,
  SHORT_CONTEXT,
  workOf,
} from './measure.ts'
import type { Shape } from './requantize.ts'
import { type FirstToken, PREFIX_TOKENS, type Served } from './served.ts'

export type Run = {
  machine: string
  commit: string | undefined
  date: string
  peer: string
  rounds: number
  longTokens: number
  /** Times are of the cores, not of the clock. */
  cpuTime: boolean
  model: string
  shape: Shape
  cells: Cell[]
  served: Served | undefined
  /** Share of all cores that others used meanwhile, 0 to 1; undefined where the system does not tell. */
  foreignShare: number | undefined
}

/** Least ratio to the peer. */
const RATIO_MIN: Record<Metric, number> = {
  prefill512: 1.5,
  prefillLong: 1.5,
  decode1: 2,
  decodeLong: 1.5,
  decode16: 2,
}
const BANDWIDTH_SHARE_MIN = 0.6
/** Throughput of 16 sequences against our own single one. */
const BATCH_GAIN_MIN = 4
const MEMORY_OVERHEAD_MIB_MAX = 64
/** Perplexity may differ from the peer's on the same file by this share. */
const PERPLEXITY_SHARE_MAX = 0.005
/** A prompt behind a cached prefix may take this many times what the model needs for its new tokens at their place. */
const CACHED_COST_MAX = 1.25
/** Above it, two threads wait for each other more than they compute, on either side. */
const FOREIGN_SHARE_MAX = 0.1

export type Row = {
  format: string
  threads: number
  metric: Metric
  /** Tokens per second, the best round; lower rounds were disturbed. */
  ours: number
  peer: number
  /** Median of the ratios of the rounds, and their extremes. */
  ratio: number
  ratioMin: number
  ratioMax: number
  target: number
  /** Share of a measured ceiling, and which: `memory`, `int8`, `f32`. */
  ceiling: { name: string; share: number } | undefined
}

function rowsOf(run: Run): Row[] {
  return run.cells.flatMap((cell) =>
    METRICS.filter((metric) => cell.pairs[metric].length > 0).map((metric) => rowOf(run, cell, metric)),
  )
}

function rowOf(run: Run, cell: Cell, metric: Metric): Row {
  const pairs = cell.pairs[metric]
  const { tokens } = workOf(metric, run.longTokens)
  const best = (side: keyof Pair) => tokens / Math.min(...pairs.map((pair) => pair[side]))
  const ratios = pairs.map(({ ours, peer }) => peer / ours).sort((a, b) => a - b)
  const ours = best('ours')
  return {
    format: cell.format,
    threads: cell.threads,
    metric,
    ours,
    peer: best('peer'),
    ratio: median(ratios),
    ratioMin: ratios[0] ?? Number.NaN,
    ratioMax: ratios.at(-1) ?? Number.NaN,
    target: RATIO_MIN[metric],
    ceiling: ceilingShare(run, cell, metric, ours),
  }
}

/** What the best round reached of what the machine reached in the same minutes. */
function ceilingShare(run: Run, cell: Cell, metric: Metric, tokensPerSecond: number): Row['ceiling'] {
  const { shape, longTokens } = run
  const attend = (context: number) => 2 * shape.layers * shape.heads * shape.headDim * context
  if (metric === 'decode1' || metric === 'decodeLong') {
    const context = (metric === 'decode1' ? SHORT_CONTEXT : longTokens) + DECODE_STEPS / 2
    const bytes = cell.weightBytes + cell.kvBytesPerToken * context
    return { name: 'memory', share: (bytes * tokensPerSecond) / bestCeiling(cell, 'read') }
  }
  const { tokens } = workOf(metric, longTokens)
  const macs =
    metric === 'decode16'
      ? shape.matrixMacs + shape.headDim * shape.heads * shape.vocabulary + attend(SHORT_CONTEXT)
      : shape.matrixMacs + attend(tokens / 2)
  const name = cell.format === 'F16' ? 'f32' : 'int8'
  const ceiling = bestCeiling(cell, name)
  return ceiling > 0 ? { name, share: (macs * tokensPerSecond) / ceiling } : undefined
}

function bestCeiling(cell: Cell, name: keyof Ceilings): number {
  return Math.max(...cell.ceilings.map((ceiling) => ceiling[name] ?? 0))
}

/** What is aimed for, with how far it is. */
export type Verdict = { name: string; met: boolean; text: string }

export function verdictsOf(run: Run): Verdict[] {
  const verdicts: Verdict[] = []
  const add = (name: string, value: number, target: number, atLeast: boolean, show: (value: number) => string) => {
    const met = atLeast ? value >= target : value <= target
    const aim = `${atLeast ? 'at least' : 'at most'} ${show(target)}`
    const gap = met ? '' : `, off by ${Math.abs(100 * (value / target - 1)).toFixed(0)} %`
    verdicts.push({ name, met, text: `${show(value)} (${aim}${gap})` })
  }
  const times = (value: number) => `${value.toFixed(2)}x`
  const percent = (value: number) => `${(100 * value).toFixed(value < 0.02 ? 2 : 0)} %`
  const rows = rowsOf(run)
  for (const row of rows) {
    const where = `${row.format}, ${threadsText(row.threads)}`
    add(`${where}: ${titleOf(row.metric, run.longTokens)} against llama.cpp`, row.ratio, row.target, true, times)
    if (row.metric === 'decode1' && row.ceiling !== undefined) {
      add(`${where}: share of the memory ceiling`, row.ceiling.share, BANDWIDTH_SHARE_MIN, true, percent)
    }
    if (row.metric !== 'decode16') continue
    const single = rows.find((other) => other.metric === 'decode1' && sameCell(other, row))
    if (single !== undefined) {
      add(`${where}: ${BATCH_SEQUENCES} sequences against one`, row.ours / single.ours, BATCH_GAIN_MIN, true, times)
    }
  }
  for (const { format, perplexity } of run.cells) {
    if (perplexity === undefined) continue
    const share = Math.abs(perplexity.ours / perplexity.peer - 1)
    add(`${format}: perplexity away from llama.cpp's`, share, PERPLEXITY_SHARE_MAX, false, percent)
  }
  for (const first of run.served?.firstTokens ?? []) {
    const name = `first token, ${first.newTokens} new behind ${PREFIX_TOKENS} cached, against computing the new ones there`
    add(name, first.cachedMs / first.computeMs, CACHED_COST_MAX, false, times)
  }
  const memory = run.served?.memory
  if (memory !== undefined) {
    const weightBytes = run.cells[0]?.weightBytes ?? 0
    const overheadMib = (memory.residentBytes - memory.kvBytes - weightBytes) / 2 ** 20
    const show = (mib: number) => `${mib.toFixed(0)} MiB`
    add('resident memory beyond weights and configured KV', overheadMib, MEMORY_OVERHEAD_MIB_MAX, false, show)
  }
  return verdicts
}

function sameCell(a: Row, b: Row): boolean {
  return a.format === b.format && a.threads === b.threads
}

export function titleOf(metric: Metric, longTokens: number): string {
  switch (metric) {
    case 'prefill512':
      return 'prefill, 512 tokens'
    case 'prefillLong':
      return `prefill, ${longTokens.toLocaleString('en')} tokens`
    case 'decode1':
      return 'decode, 1 sequence'
    case 'decodeLong':
      return `decode, context ${longTokens.toLocaleString('en')}`
    case 'decode16':
      return `decode, ${BATCH_SEQUENCES} sequences`
    default:
      return metric satisfies never
  }
}

export function threadsText(threads: number): string {
  return threads === 1 ? '1 thread' : `${threads} threads`
}

/** The whole report as Markdown, which reads as plain text too. */
export function markdownOf(run: Run): string {
  const kernels = [...new Set(run.cells.map((cell) => cell.kernels))].join(', ')
  const lines = [
    `Machine: ${run.machine}. Kernels: ${kernels}. Commit: ${run.commit ?? 'none'}. Date: ${run.date}.`,
    `Model: ${run.model}. Peer: ${run.peer}. ${run.rounds} rounds.${run.cpuTime ? ' Times are CPU time.' : ''}`,
    ...foreignText(run.foreignShare),
    '',
    ...table(
      [
        'weights',
        'threads',
        'work',
        'ours, tok/s',
        'llama.cpp, tok/s',
        'ratio (least to most)',
        'target',
        'of the ceiling',
      ],
      rowsOf(run).map((row) => [
        row.format,
        String(row.threads),
        titleOf(row.metric, run.longTokens),
        row.ours.toFixed(1),
        row.peer.toFixed(1),
        `${row.ratio.toFixed(2)} (${row.ratioMin.toFixed(2)} to ${row.ratioMax.toFixed(2)})`,
        `${row.target.toFixed(1)} ${row.ratio >= row.target ? 'met' : 'missed'}`,
        row.ceiling === undefined ? '' : `${(100 * row.ceiling.share).toFixed(0)} % ${row.ceiling.name}`,
      ]),
    ),
    '',
    ...table(
      ['weights', 'threads', 'memory read, GB/s', 'int8, G MAC/s', 'f32, G MAC/s'],
      run.cells.map((cell) => [
        cell.format,
        String(cell.threads),
        ...(['read', 'int8', 'f32'] as const).map((name) => spreadText(cell.ceilings.map((ceiling) => ceiling[name]))),
      ]),
    ),
    ...perplexityLines(run.cells),
    ...servedLines(run.served),
    '',
    'Targets missed:',
    '',
  ]
  const missed = verdictsOf(run).filter(({ met }) => !met)
  lines.push(...(missed.length === 0 ? ['none.'] : missed.map(({ name, text }) => `- ${name}: ${text}`)))
  return `${lines.join('\n')}\n`
}

function perplexityLines(cells: Cell[]): string[] {
  const rows = cells.flatMap(({ format, perplexity }) =>
    perplexity === undefined
      ? []
      : [
          [
            format,
            perplexity.ours.toFixed(4),
            perplexity.peer.toFixed(4),
            `${(100 * (perplexity.ours / perplexity.peer - 1)).toFixed(3)} %`,
          ],
        ],
  )
  return rows.length === 0 ? [] : ['', ...table(['weights', 'perplexity, ours', 'llama.cpp', 'difference'], rows)]
}

function servedLines(served: Served | undefined): string[] {
  if (served === undefined) return []
  const row = ({ newTokens, wholeMs, aloneMs, computeMs, cachedMs, cachedTokens }: FirstToken) => [
    String(newTokens),
    wholeMs.toFixed(1),
    cachedMs.toFixed(1),
    String(cachedTokens),
    computeMs.toFixed(1),
    aloneMs.toFixed(1),
  ]
  const titles = [
    `new tokens behind ${PREFIX_TOKENS}`,
    'first token uncached, ms',
    'cached, ms',
    'tokens from the cache',
    'computing the new ones there, ms',
    'new tokens as a prompt of their own, ms',
  ]
  const lines = ['', ...table(titles, served.firstTokens.map(row))]
  if (served.memory !== undefined) {
    const mib = (bytes: number) => (bytes / 2 ** 20).toFixed(0)
    const { residentBytes, kvBytes } = served.memory
    lines.push(
      '',
      `Resident memory of the server under load: ${mib(residentBytes)} MiB, of which KV ${mib(kvBytes)} MiB.`,
    )
  }
  return lines
}

function foreignText(share: number | undefined): string[] {
  if (share === undefined) return []
  const text = `Other processes used ${(100 * share).toFixed(0)} % of the machine meanwhile`
  return [share > FOREIGN_SHARE_MAX ? `**${text}: the figures are not to be trusted.**` : `${text}.`]
}

function spreadText(rates: (number | undefined)[]): string {
  const known = rates.filter((rate) => rate !== undefined).map((rate) => rate / 1e9)
  if (known.length === 0) return 'not measured'
  return `${Math.max(...known).toFixed(1)} (least ${Math.min(...known).toFixed(1)})`
}

function table(titles: string[], rows: string[][]): string[] {
  const widths = titles.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)))
  const line = (cells: string[]) => `| ${cells.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join(' | ')} |`
  return [line(titles), line(widths.map((width) => '-'.repeat(width))), ...rows.map(line)]
}

function median(sorted: number[]): number {
  const middle = Math.floor(sorted.length / 2)
  const upper = sorted[middle] ?? Number.NaN
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? upper)) / 2
}
