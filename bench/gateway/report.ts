// What a run of the gateway's benchmark says, as Markdown. Owns the tables and the one target; figures come from
// measure.ts and path.ts. Pure.
import { type AccountRound, type Added, CONTEXTS, LOAD_CONTEXTS, MANY } from './measure.ts'
import { ANSWER_TOKENS, PATH_CLIENTS, type PathRound } from './path.ts'
import { FOREIGN_SHARE_MAX } from './share.ts'
import type { Startup } from './startup.ts'
import { figure, quantile, type Spread, spreadOf, spreadText } from './statistics.ts'
import { CONNECTIONS, type Memory, type VersusRound, WHO, type Who } from './versus.ts'

export type Run = {
  machine: string
  commit: string | undefined
  date: string
  accounts: AccountRound[]
  paths: PathRound[]
  /** Beside a peer and a bare proxy; absent: not measured. */
  versus?: { peerName: string; rounds: VersusRound[]; memory: Memory }
  /** Absent: not measured. */
  startup?: Startup
  foreignShare: number | undefined
}

/** Rows that a busy gateway has to get rid of: more would only fill the outbox. */
const OUTBOX_ROWS_TARGET = 5_000

/** The tables of accounts and of the whole path; `undefined` where those were not measured. */
export function markdownOf(run: Run): string | undefined {
  if (run.accounts.length === 0) return undefined
  const { accounts, paths } = run
  const of = (field: RateField): Spread => spreadOf(accounts.map((round) => round[field]))
  const ratio = (field: RateField, other: RateField): Spread =>
    spreadOf(accounts.map((round) => round[field] / round[other]))
  const times = (field: RateField, other: RateField) => {
    const { median, least, most } = ratio(field, other)
    return `${median.toFixed(2)}x (${least.toFixed(2)} to ${most.toFixed(2)})`
  }
  const outbox = of('outboxMany')
  const lines = [
    headText(run, accounts.length),
    ...foreignText(run.foreignShare),
    '',
    ...table(
      ['holds and settles, pairs per second', 'lane', 'one call each', 'lane against one call each'],
      [
        ['one organisation', spreadText(of('oneByLane')), spreadText(of('oneDirect')), times('oneByLane', 'oneDirect')],
        [
          `${MANY} organisations`,
          spreadText(of('manyByLane')),
          spreadText(of('manyDirect')),
          times('manyByLane', 'manyDirect'),
        ],
      ],
    ),
    '',
    `${CONTEXTS} requests at a time; ${figure(of('callsPerBatch').median)} calls travelled together with one organisation.`,
    '',
    ...table(
      ['rows into Postgres, per second', 'outbox', 'against COPY of attempts'],
      [
        ['one organisation', spreadText(of('outboxOne')), times('outboxOne', 'copiedRows')],
        [`${MANY} organisations`, spreadText(outbox), times('outboxMany', 'copiedRows')],
      ],
    ),
    '',
    `Target ${figure(OUTBOX_ROWS_TARGET)}: ${outbox.median >= OUTBOX_ROWS_TARGET ? 'met' : 'missed'}.`,
    '',
    ...table(
      ['added to a request, ms', 'p50, hold', 'p99, hold', 'p50, hold and settle', 'p99, hold and settle'],
      [
        ['idle', ...addedCells(accounts.map(({ idle }) => idle))],
        [`${LOAD_CONTEXTS} others, lane`, ...addedCells(accounts.map(({ busyByLane }) => busyByLane))],
        [`${LOAD_CONTEXTS} others, one call each`, ...addedCells(accounts.map(({ busyDirect }) => busyDirect))],
      ],
    ),
    '',
    ...table(
      ['the machine itself, per second', ''],
      [
        ['durable writes of 4 KiB (write, fdatasync)', spreadText(of('durableWrites'))],
        ['calls to an object that does nothing', spreadText(of('pings'))],
        ['calls to an object that writes one row', spreadText(of('writes'))],
        ['rows by COPY into the attempts with their indexes', spreadText(of('copiedRows'))],
      ],
    ),
    ...pathLines(paths),
  ]
  return `${lines.join('\n')}\n`
}

const headText = (run: Run, rounds: number): string =>
  `Machine: ${run.machine}. Commit: ${run.commit ?? 'none'}. Date: ${run.date}. ${rounds} rounds: median (least to most).`

type RateField = { [Name in keyof AccountRound]: AccountRound[Name] extends number ? Name : never }[keyof AccountRound]

function addedCells(rounds: Added[]): string[] {
  const cell = (values: number[]) => spreadText(spreadOf(values))
  return [
    cell(rounds.map(({ held }) => held.p50Ms)),
    cell(rounds.map(({ held }) => held.p99Ms)),
    cell(rounds.map(({ pair }) => pair.p50Ms)),
    cell(rounds.map(({ pair }) => pair.p99Ms)),
  ]
}

function pathLines(paths: PathRound[]): string[] {
  if (paths.length === 0) return []
  const row = (title: string, of: (round: PathRound) => { p50Ms: number; p99Ms: number }) => [
    title,
    spreadText(spreadOf(paths.map((round) => of(round).p50Ms))),
    spreadText(spreadOf(paths.map((round) => of(round).p99Ms))),
  ]
  const requests = spreadOf(paths.map((round) => round.requests))
  const added = quantile(
    paths.map(({ withLimits, upstream }) => withLimits.p50Ms - upstream.p50Ms),
    0.5,
  )
  return [
    '',
    ...table(
      [`a streamed answer of ${ANSWER_TOKENS} tokens, one at a time, ms`, 'p50', 'p99'],
      [
        row('the upstream alone', ({ upstream }) => upstream),
        row('through the gateway, no limits', ({ withoutLimits }) => withoutLimits),
        row('through the gateway, usual limits', ({ withLimits }) => withLimits),
      ],
    ),
    '',
    `The gateway adds ${figure(added)} ms at the median, of which the account's share is above. With ${PATH_CLIENTS} clients it`,
    `answers ${spreadText(requests)} requests per second, while load, upstream and Postgres use the same cores.`,
  ]
}

/** What a gateway should reach: of the peer's throughput and of a bare proxy's, and added by it to one request. */
const PEER_RATIO_TARGET = 4
const PROXY_RATIO_TARGET = 0.6
const ADDED_MS_TARGET = 1

/** The table beside the peer; `undefined` where that was not measured. */
export function versusMarkdownOf(run: Run): string | undefined {
  if (run.versus === undefined) return undefined
  const { peerName, rounds, memory } = run.versus
  const names: Record<Who, string> = {
    proxy: 'bare proxy',
    durable: 'two durable rows',
    peer: peerName,
    gateway: 'Penstock',
  }
  const lines = [headText(run, rounds.length), ...foreignText(run.foreignShare), '']
  for (const stream of [true, false]) {
    const cellsAt = (connections: number) =>
      rounds.map((round) => {
        const found = round.find((cell) => cell.stream === stream && cell.connections === connections)
        if (found === undefined) throw new Error(`a round without ${connections} connections`)
        return found.results
      })
    const rows = CONNECTIONS.map((connections) => {
      const cells = cellsAt(connections)
      const rate = (who: Who) => spreadText(spreadOf(cells.map((cell) => cell[who].requestsPerSecond)))
      const against = (who: Who) => {
        const ratio = spreadOf(cells.map((cell) => cell.gateway.requestsPerSecond / cell[who].requestsPerSecond))
        return `${ratio.median.toFixed(2)}x (${ratio.least.toFixed(2)} to ${ratio.most.toFixed(2)})`
      }
      return [String(connections), ...WHO.map(rate), against('peer'), against('proxy'), against('durable')]
    })
    const title = stream ? 'streamed answers per second, connections' : 'whole answers per second, connections'
    const ratios = ['against the peer', 'against the proxy', 'against two rows']
    lines.push(...table([title, ...WHO.map((who) => names[who]), ...ratios], rows), '')
    const added = (connections: number, who: Who, part: 'p50Ms' | 'p99Ms') =>
      spreadText(spreadOf(cellsAt(connections).map((cell) => cell[who][part] - cell.upstream[part])))
    const latency = WHO.map((who) => [names[who], added(1, who, 'p50Ms'), added(1, who, 'p99Ms')])
    lines.push(...table([`added at one connection, ms${stream ? ', streamed' : ', whole'}`, 'p50', 'p99'], latency), '')
  }
  const all = rounds.flat()
  const ratioOf = (who: Who) =>
    quantile(
      all.map(({ results }) => results.gateway.requestsPerSecond / results[who].requestsPerSecond),
      0.5,
    )
  const addedBy = (who: Who) =>
    quantile(
      all
        .filter(({ connections }) => connections === 1)
        .map(({ results }) => results[who].p50Ms - results.upstream.p50Ms),
      0.5,
    )
  const addedMs = addedBy('gateway')
  const durableAddedMs = addedBy('durable')
  const verdict = (is: boolean) => (is ? 'met' : 'missed')
  lines.push(
    `Over all cells: ${ratioOf('peer').toFixed(2)}x the peer (target ${PEER_RATIO_TARGET}: ${verdict(ratioOf('peer') >= PEER_RATIO_TARGET)}), ` +
      `${ratioOf('proxy').toFixed(2)}x the proxy (target ${PROXY_RATIO_TARGET}: ${verdict(ratioOf('proxy') >= PROXY_RATIO_TARGET)}), ` +
      `${figure(addedMs)} ms added at one connection (target ${ADDED_MS_TARGET}: ${verdict(addedMs <= ADDED_MS_TARGET)}).`,
    `Against a proxy that writes two rows durably for each call, one object call each, and does nothing else: ` +
      `${ratioOf('durable').toFixed(2)}x its throughput, and ${figure(durableAddedMs)} ms are what those two rows add at one connection.`,
    `The peer checks no key, holds no limit and writes no usage; the gateway does all three, durably, for each request.`,
    `Resident memory of the gateway: ${figure(memory.beforeMiB)} MiB before, ${figure(memory.midMiB)} in the middle of and ` +
      `${figure(memory.afterMiB)} after ${memory.requests.toLocaleString('en')} requests.`,
  )
  return `${lines.join('\n')}\n`
}

/** Compressed size of the Worker, and what it may take to start. */
const GZIP_BYTES_TARGET = 1_000_000
const START_MS_TARGET = 100

/** What the Worker weighs and takes to start; `undefined` where that was not measured. */
export function startupMarkdownOf(run: Run): string | undefined {
  if (run.startup === undefined) return undefined
  const { bundleBytes, gzipBytes, cpuMs } = run.startup
  const kb = (bytes: number) => `${figure(bytes / 1000)} kB`
  const verdict = (is: boolean) => (is ? 'met' : 'missed')
  const lines = [
    `Machine: ${run.machine}. Commit: ${run.commit ?? 'none'}. Date: ${run.date}.`,
    ...foreignText(run.foreignShare),
    '',
    `The Worker is ${kb(bundleBytes)}, ${kb(gzipBytes)} with gzip (target ${kb(GZIP_BYTES_TARGET)}: ${verdict(gzipBytes <= GZIP_BYTES_TARGET)}). To its first answer it`,
    `takes ${figure(cpuMs.median)} ms of processor time beyond an empty Worker, least ${figure(cpuMs.least)} (target ${START_MS_TARGET} ms: ${verdict(cpuMs.median <= START_MS_TARGET)}).`,
  ]
  return `${lines.join('\n')}\n`
}

function foreignText(share: number | undefined): string[] {
  if (share === undefined) return []
  const text = `Other processes used ${(100 * share).toFixed(0)} % of the machine meanwhile`
  return [share > FOREIGN_SHARE_MAX ? `**${text}: the figures are not to be trusted.**` : `${text}.`]
}

function table(titles: string[], rows: string[][]): string[] {
  const widths = titles.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)))
  const line = (cells: string[]) => `| ${cells.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join(' | ')} |`
  return [line(titles), line(widths.map((width) => '-'.repeat(Math.max(3, width)))), ...rows.map(line)]
}
