// `npm run bench:gateway`: what holds, settles and the outbox cost and can do, against the limits of the machine in the
// same minutes. Owns the options and where results go; measuring is bench/gateway, the Worker under test bench/account.
import { readFile, writeFile } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { commitName, machineName } from '../bench/engine/machine.ts'
import { Driver } from '../bench/gateway/driver.ts'
import { type AccountRound, measureAccounts, prepare } from '../bench/gateway/measure.ts'
import { PathBench, type PathRound } from '../bench/gateway/path.ts'
import { markdownOf, type Run } from '../bench/gateway/report.ts'
import { watchOthers } from '../bench/gateway/share.ts'

const ROOT = join(import.meta.dirname, '..')
const DOCS = join(ROOT, 'docs', 'benchmarks.md')
const BEGIN = '<!-- gateway: begin -->'
const END = '<!-- gateway: end -->'
const USAGE = 'Usage: npm run bench:gateway -- [--quick] [--rounds N] [--json FILE] [--write-docs]'

const { values } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    rounds: { type: 'string' },
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

const others = watchOthers(availableParallelism())
const accounts: AccountRound[] = []
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
const paths: PathRound[] = []
const path = await PathBench.start()
try {
  for (let round = 1; round <= rounds; round++) {
    paths.push(await path.measure(options))
    console.log(`whole path: round ${round} of ${rounds}`)
  }
} finally {
  await path.stop()
}
const run: Run = {
  machine: machineName(),
  commit: commitName(ROOT),
  date: new Date().toISOString().slice(0, 10),
  accounts,
  paths,
  foreignShare: others(),
}
const report = markdownOf(run)
console.log(`\n${report}`)
if (values.json !== undefined) await writeFile(values.json, `${JSON.stringify(run, undefined, 1)}\n`)
if (values['write-docs']) await writeDocs(report)

/** Replaces what stands between the two marks. @throws Error where the page has none */
async function writeDocs(text: string): Promise<void> {
  const page = await readFile(DOCS, 'utf8')
  const [from, to] = [page.indexOf(BEGIN), page.indexOf(END)]
  if (from < 0 || to < from) throw new Error(`docs/benchmarks.md has no place for it (${BEGIN} … ${END})`)
  await writeFile(DOCS, `${page.slice(0, from + BEGIN.length)}\n${text}${page.slice(to)}`)
}
