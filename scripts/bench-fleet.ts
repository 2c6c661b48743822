// `npm run bench:fleet`: what the Fleet object takes and answers: signed reports, changes of K and V, and look-ups of prompts.
// Owns the loads and the figures; the Worker under test is bench/fleet.
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { commitName, cpuSecondsOf, machineName, memoryOf } from '../bench/engine/machine.ts'
import { Driver } from '../bench/gateway/driver.ts'
import { FOREIGN_SHARE_MAX, watchOthers } from '../bench/gateway/share.ts'
import { figure, spreadOf, spreadText } from '../bench/gateway/statistics.ts'
import { KV_CHUNKS_PER_REPORT_MAX } from '../protocol/report.ts'

const ROOT = join(import.meta.dirname, '..')
const USAGE = 'Usage: npm run bench:fleet -- [--quick]'
/** The least that the object must take, as architecture and docs promise. */
const REPORTS_PER_SECOND_MIN = 1000
const BACKENDS = 64
const CHUNKS = 1_000_000
const MANY_BACKENDS = 4096

const { values } = parseArgs({
  options: { quick: { type: 'boolean', default: false }, help: { type: 'boolean', short: 'h' } },
})
if (values.help === true) {
  console.log(USAGE)
  process.exit(0)
}
const rounds = values.quick ? 2 : 5
const reports = values.quick ? 2000 : 5000
const times = values.quick ? 2000 : 10_000

const others = watchOthers(availableParallelism())
const driver = await Driver.start(join(ROOT, 'bench', 'fleet'))
const pid = driver.stack.gatewayPid
const mebibytes = () => (memoryOf(pid) ?? Number.NaN) / 2 ** 20

/** Of `count` of something: per second, and the processor's microseconds for one. */
async function timed(count: number, work: () => Promise<unknown>): Promise<{ perSecond: number; cpuUs: number }> {
  const cpuBefore = cpuSecondsOf(pid) ?? Number.NaN
  const startMs = performance.now()
  await work()
  const seconds = (performance.now() - startMs) / 1000
  return { perSecond: count / seconds, cpuUs: (((cpuSecondsOf(pid) ?? Number.NaN) - cpuBefore) / count) * 1e6 }
}

type Figures = { perSecond: number[]; cpuUs: number[] }
async function repeated(
  count: number,
  prepare: () => Promise<unknown>,
  work: () => Promise<unknown>,
): Promise<Figures> {
  const figures: Figures = { perSecond: [], cpuUs: [] }
  for (let round = 0; round < rounds; round++) {
    await prepare()
    const { perSecond, cpuUs } = await timed(count, work)
    figures.perSecond.push(perSecond)
    figures.cpuUs.push(cpuUs)
  }
  return figures
}

async function send(): Promise<void> {
  const { reason } = await driver.command<{ reason?: string }>('/send')
  if (reason !== undefined) throw new Error(`a report was not taken: ${reason}`)
}

const say = (name: string, value: string) => console.log(`${name.padEnd(62)} ${value}`)
const rate = ({ perSecond, cpuUs }: Figures) =>
  `${spreadText(spreadOf(perSecond))} per second, ${spreadText(spreadOf(cpuUs))} µs of processor each`

try {
  console.log(`${machineName()}, commit ${commitName(ROOT) ?? 'unknown'}`)
  await driver.command('/join', { backends: BACKENDS })
  let bytes = 0
  const sign = async (count: number, chunks: number) => {
    bytes = (await driver.command<{ bytes: number }>('/sign', { reports: count, chunks })).bytes
  }
  const plain = await repeated(reports, () => sign(reports, 0), send)
  say(`signed reports of ${bytes} bytes, ${BACKENDS} backends`, rate(plain))
  const ofOneCore = 1e6 / spreadOf(plain.cpuUs).median
  const verdict = ofOneCore >= REPORTS_PER_SECOND_MIN ? 'met' : 'missed'
  say('  so one core takes', `${figure(ofOneCore)} per second; promised ${REPORTS_PER_SECOND_MIN}: ${verdict}`)

  for (const [name, text] of [
    ['signature', 'signature, digest and claims'],
    ['body', 'reading the body'],
  ]) {
    const part = await timed(reports, () => driver.command('/part', { name: name ?? '', times: reports }))
    say(`  of that: ${text}`, `${figure(part.cpuUs)} µs`)
  }

  const emptyMib = mebibytes()
  const portions = Math.ceil(CHUNKS / rounds / KV_CHUNKS_PER_REPORT_MAX)
  const full = await repeated(portions, () => sign(portions, KV_CHUNKS_PER_REPORT_MAX), send)
  say(`reports with ${KV_CHUNKS_PER_REPORT_MAX} chunks (${bytes} bytes), until ${CHUNKS} are held`, rate(full))
  // The bodies that were signed ahead are in the same process, and are more than what the object keeps of them.
  say('  memory of the whole process, before and after', `${figure(emptyMib)} and ${figure(mebibytes())} MiB`)
  const small = await repeated(reports, () => sign(reports, 8), send)
  say(`reports with 8 chunks (${bytes} bytes)`, rate(small))
  const view = await repeated(
    times,
    async () => {},
    () => driver.command('/view', { times, loops: 8 }),
  )
  say('matches of a prompt of 32 chunks, asked by an isolate', rate(view))

  for (const backends of [BACKENDS, MANY_BACKENDS]) {
    const beforeMib = mebibytes()
    const built = await timed(CHUNKS, () => driver.command('/index', { backends, chunks: CHUNKS }))
    say(`an index of ${CHUNKS} chunks over ${backends} backends, per chunk`, `${figure(built.cpuUs)} µs`)
    say('  memory of the process', `${figure(mebibytes() - beforeMib)} MiB more`)
    const match = await repeated(
      times,
      async () => {},
      () => driver.command('/match', { times, limit: 256 }),
    )
    say('  match() of 32 chunks, 8 of them held by all', `${spreadText(spreadOf(match.cpuUs))} µs`)
    const dropped = await timed(64, () => driver.command('/drop', { times: 64 }))
    say('  a backend dropped and begun again', `${figure(dropped.cpuUs)} µs`)
  }
  const foreign = others() ?? Number.NaN
  const trust = foreign > FOREIGN_SHARE_MAX ? ': rates per second are too low, and processor times too high' : ''
  say('share of the machine that others took meanwhile', `${figure(foreign * 100)} %${trust}`)
} finally {
  await driver.stop()
}
