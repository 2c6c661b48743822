// `npm run bench:gateway`: what holds, settles and the outbox cost and can do, against the limits of the machine in the
// same minutes. Owns the options and where results go; measuring is bench/gateway, the Worker under test bench/account.
import { writeFile } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { commitName, machineName } from '../bench/engine/machine.ts'
import { Driver } from '../bench/gateway/driver.ts'
import { type AccountRound, measureAccounts, prepare } from '../bench/gateway/measure.ts'
import { PathBench, type PathRound } from '../bench/gateway/path.ts'
import { markdownOf, type Run, startupMarkdownOf, versusMarkdownOf } from '../bench/gateway/report.ts'
import { watchOthers } from '../bench/gateway/share.ts'
import { measureStartup } from '../bench/gateway/startup.ts'
import { type Memory, Versus, type VersusRound } from '../bench/gateway/versus.ts'
import { writeDocsTable } from './docs-table.ts'

const ROOT = join(import.meta.dirname, '..')
/** Of the Worker and of an empty one, each: a start takes a second. */
const STARTS = 15
const PARTS = ['gateway', 'gateway-peer', 'gateway-start'] as const
const USAGE =
  'Usage: npm run bench:gateway -- [--quick] [--rounds N] [--only account|versus|startup] [--json FILE] [--write-docs]'

const { values } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    rounds: { type: 'string' },
    only: { type: 'string' },
    json: { type: 'string' },
    'write-docs': { type: 'boolean', default: false },
    help: { type: 'boolean', short: 'h', default: false },
  },
})
if (values.help) {
  console.log(USAGE)
  process.exit(0)
}
const rounds = Number(values.rounds ?? (values.quick ? 2 : 5))
if (!Number.isInteger(rounds) || rounds < 1) throw new Error(USAGE)
const options = values.quick ? { workMs: 2_000, samples: 100 } : { workMs: 5_000, samples: 400 }
if (![undefined, 'account', 'versus', 'startup'].includes(values.only)) throw new Error(USAGE)
const wants = (part: 'account' | 'versus' | 'startup') => values.only === undefined || values.only === part
/** Each of eighteen loads of a round beside the peer. */
const versusSeconds = values.quick ? 2 : 5
/** Where memory grows with each request, so many show it. */
const memoryRequests = values.quick ? 5_000 : 100_000

const others = watchOthers(availableParallelism())
const accounts: AccountRound[] = []
if (wants('account')) {
  const driver = await Driver.start()
  try {
    await prepare(driver)
    for (let round = 1; round <= rounds; round++) {
      accounts.push(await measureAccounts(driver, options))
      console.log(`accounts: round ${round} of ${rounds}`)
    }
  } finally {
    await driver.stop()
  }
}
const paths: PathRound[] = []
let versus: { peerName: string; rounds: VersusRound[]; memory: Memory } | undefined
if (wants('account') || wants('versus')) {
  const path = await PathBench.start()
  try {
    for (let round = 1; wants('account') && round <= rounds; round++) {
      paths.push(await path.measure(options))
      console.log(`whole path: round ${round} of ${rounds}`)
    }
    if (wants('versus')) versus = await measureVersus(path)
  } finally {
    await path.stop()
  }
}
const startup = wants('startup') ? await measureStartup(STARTS) : undefined
const run: Run = {
  machine: machineName(),
  commit: commitName(ROOT),
  date: new Date().toISOString().slice(0, 10),
  accounts,
  paths,
  ...(versus !== undefined && { versus }),
  ...(startup !== undefined && { startup }),
  foreignShare: others(),
}
const reports = {
  gateway: markdownOf(run),
  'gateway-peer': versusMarkdownOf(run),
  'gateway-start': startupMarkdownOf(run),
}
for (const part of PARTS) if (reports[part] !== undefined) console.log(`\n${reports[part]}`)
if (values.json !== undefined) await writeFile(values.json, `${JSON.stringify(run, undefined, 1)}\n`)
for (const part of PARTS)
  if (values['write-docs'] && reports[part] !== undefined) await writeDocsTable(part, reports[part])

async function measureVersus(stack: PathBench): Promise<NonNullable<Run['versus']>> {
  const bench = await Versus.start(stack)
  try {
    const all: VersusRound[] = []
    for (let round = 1; round <= rounds; round++) {
      all.push(await bench.round(versusSeconds))
      console.log(`beside ${bench.peerName}: round ${round} of ${rounds}`)
    }
    return { peerName: bench.peerName, rounds: all, memory: await bench.memory(memoryRequests) }
  } finally {
    await bench.stop()
  }
}
