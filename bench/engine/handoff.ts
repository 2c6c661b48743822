// What `npm run bench:handoff` says, as Markdown. Owns the ratios and the tables; what is measured is
// native-engine/bench/kv_transfer_bench.cc. Pure: its lines in, text out.
import { figure, quantile, spreadOf, spreadText } from '../gateway/statistics.ts'

/** One line of the bench. */
export type Sample = {
  what: 'copy' | 'stream' | 'transfer' | 'beside' | 'zerocopy' | 'latency' | 'end'
  layout: string
  /** Of one block of one layer. */
  blockBytes: number
  way: string
  /** Of "end": groups of layers. */
  streams: number
  round: number
  bytes: number
  seconds: number
  /** Of both sides. */
  cpuSeconds: number
}

export type HandoffRun = {
  machine: string
  commit: string | undefined
  date: string
  rounds: number
  samples: Sample[]
  /** Share of all cores that others used meanwhile, 0 to 1; undefined where the system does not tell. */
  foreignShare: number | undefined
}

const WAYS: Record<string, string> = { memcpy: 'memcpy', shared: 'shared memory', unix: 'Unix socket', tcp: 'TCP' }
const SMALL_BYTES_MAX = 64 * 2 ** 20

export function markdownOf(run: HandoffRun): string {
  const share = run.foreignShare === undefined ? 'an unknown part' : `${Math.round(100 * run.foreignShare)} %`
  const lines = [
    `Machine: ${run.machine}. Commit: ${run.commit ?? 'unknown'}. Date: ${run.date}. ${run.rounds} rounds.`,
    `Other processes used ${share} of the machine meanwhile.`,
  ]
  for (const layout of unique(run.samples.map((sample) => sample.layout))) {
    const samples = run.samples.filter((sample) => sample.layout === layout)
    const first = samples[0]
    if (first === undefined) continue
    const kib = first.blockBytes / 1024
    lines.push('', `**${layout}**: blocks of a layer of ${kib} KiB, ${mib(first.bytes)} at a time.`, '')
    lines.push(...table(['', 'checksum', 'GB/s', 'of memcpy', 'CPU, ms per GB'], bandwidthRows(samples)))
    const small = latencyRows(samples)
    lines.push('', ...table(['ms from the first word to the last', 'shared memory', 'Unix socket', 'TCP'], small))
  }
  return `${lines.join('\n')}\n`
}

/** Rates are those of the best round, since a shared machine only ever slows one down; ratios are taken within a round. */
function bandwidthRows(samples: Sample[]): string[][] {
  const copies = new Map(samples.filter(({ what }) => what === 'copy').map((copy) => [copy.round, copy.seconds]))
  const moved = samples.filter(({ what }) => what !== 'latency' && what !== 'end')
  return groups(moved, ({ what, way, streams }) => `${way} ${streams} ${what}`).map((group) => {
    const { what, way, streams, bytes } = group[0] as Sample
    const least = Math.min(...group.map(({ seconds }) => seconds))
    const ratios = group.map(({ round, seconds }) => (copies.get(round) ?? Number.NaN) / seconds)
    const cpu = quantile(
      group.map(({ cpuSeconds }) => (1000 * cpuSeconds) / (bytes / 1e9)),
      0.5,
    )
    const several = what === 'beside' ? `, ${streams} transfers at once` : streams > 1 ? `, ${streams} connections` : ''
    const name = `${WAYS[way] ?? way}${several}${what === 'zerocopy' ? ', MSG_ZEROCOPY' : ''}`
    const sum = what === 'copy' ? '' : what === 'stream' ? 'no' : 'yes'
    return [name, sum, figure(bytes / least / 1e9), what === 'copy' ? '' : spreadText(spreadOf(ratios)), figure(cpu)]
  })
}

function latencyRows(samples: Sample[]): string[][] {
  const small = samples.filter(({ what, bytes }) => what === 'end' || (what === 'latency' && bytes <= SMALL_BYTES_MAX))
  return groups(small, ({ what, bytes, streams }) => `${what} ${bytes} ${streams}`).map((group) => {
    const { what, bytes, streams } = group[0] as Sample
    const parts = streams > 1 ? `, of ${streams} groups of layers the last one` : ''
    const name = what === 'end' ? `the last ${mib(bytes)} of a transfer under way${parts}` : mib(bytes)
    const of = (way: string) => quantile(waySeconds(group, way), 0.5) * 1000
    return [name, ...['shared', 'unix', 'tcp'].map((way) => of(way).toFixed(2))]
  })
}

const waySeconds = (group: Sample[], way: string) =>
  group.filter((sample) => sample.way === way).map(({ seconds }) => seconds)

const mib = (bytes: number) => `${figure(bytes / 2 ** 20)} MiB`

const unique = (values: string[]) => [...new Set(values)]

function groups(samples: Sample[], keyOf: (sample: Sample) => string): Sample[][] {
  return [...Map.groupBy(samples, keyOf).values()]
}

function table(head: string[], rows: string[][]): string[] {
  const line = (cells: string[]) => `| ${cells.join(' | ')} |`
  return [line(head), line(head.map(() => '---')), ...rows.map(line)]
}
