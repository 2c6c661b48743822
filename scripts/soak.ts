// `npm run soak`: the proofs about money, for as long as wanted: simulated histories first, then the real system with its
// parts killed and stopped. Owns the options, the order and the one verdict; the simulation is test/simulation, the money
// run bench/gateway.
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { audit } from '../bench/gateway/audit.ts'
import {
  admits,
  type Budget,
  type Fault,
  type MoneyRun,
  openBudget,
  openTenant,
  round,
  roundBudget,
  storm,
  stormBudget,
} from '../bench/gateway/money.ts'
import { GatewayStack } from '../bench/gateway/stack.ts'
import { Upstream } from '../bench/gateway/upstream.ts'

const ROOT = join(import.meta.dirname, '..')
const USAGE =
  'Usage: npm run soak -- [--minutes 10] [--only simulation|system] [--clients 200] [--room 50] [--outage-s 60] [--seed 1]'
const EXIT_USAGE = 2
/** Rounds while Postgres is away: they keep the clients busy over the whole outage. */
const OUTAGE_ROUNDS = 8

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '10' },
    only: { type: 'string' },
    clients: { type: 'string', default: '200' },
    room: { type: 'string', default: '50' },
    'outage-s': { type: 'string', default: '60' },
    seed: { type: 'string', default: '1' },
    help: { type: 'boolean', short: 'h', default: false },
  },
})
if (values.help) {
  console.log(USAGE)
  process.exit(0)
}
const [minutes, clients, room, outageS, seed] = [
  values.minutes,
  values.clients,
  values.room,
  values['outage-s'],
  values.seed,
].map(Number) as [number, number, number, number, number]
const sane = minutes > 0 && outageS > 0 && [clients, room, seed].every((count) => Number.isInteger(count) && count > 0)
if (!sane || ![undefined, 'simulation', 'system'].includes(values.only)) {
  console.error(USAGE)
  process.exit(EXIT_USAGE)
}

const shares = values.only === undefined ? 2 : 1
const problems: string[] = []
if (values.only !== 'system') problems.push(...(await simulate(minutes / shares)))
if (values.only !== 'simulation') problems.push(...(await systemRuns(performance.now() + (minutes / shares) * 60_000)))
for (const problem of problems) console.error(`✗ ${problem}`)
console.log(problems.length === 0 ? '✓ every nano-dollar is accounted for' : `${problems.length} problems`)
process.exitCode = problems.length === 0 ? 0 : 1

async function simulate(forMinutes: number): Promise<string[]> {
  console.log('── simulated histories')
  const args = ['test/simulation/run.ts', '--minutes', String(forMinutes), '--seed', String(seed)]
  const child = spawn(process.execPath, args, { cwd: ROOT, stdio: 'inherit' })
  const code = await new Promise<number | null>((resolve, reject) => {
    child.on('error', reject)
    child.on('exit', resolve)
  })
  return code === 0 ? [] : [`the simulation ended with code ${code}; its output says which seed`]
}

/** Whole runs, each on a system of its own, until the time is over. The last one is not cut short. */
async function systemRuns(untilMs: number): Promise<string[]> {
  console.log('── the real system')
  const found: string[] = []
  for (let number = 0; found.length === 0 && (number === 0 || performance.now() < untilMs); number++) {
    found.push(...(await systemRun(seed + number)))
    console.log(`run ${number + 1} (seed ${seed + number}): ${found.length === 0 ? 'the books agree' : 'PROBLEMS'}`)
  }
  return found
}

async function systemRun(runSeed: number): Promise<string[]> {
  const upstream = await Upstream.start({ chunkMs: 0 })
  const stack = await GatewayStack.start()
  try {
    const run: MoneyRun = { stack, upstream, clients, room, seed: runSeed, onProgress: (line) => console.log(line) }
    const tenant = await openTenant(run)
    // All of them first: an administrator has to wait where Postgres is away or just coming back.
    const open = (nanoUsd: bigint) => openBudget(run, tenant, nanoUsd)
    const forRounds = async (count: number) => Promise.all(Array.from({ length: count }, () => open(roundBudget(room))))
    const faults: Fault[] = [
      { kind: 'kill_gateway' },
      { kind: 'kill_gateway_without_postgres', downMs: 5_000 },
      { kind: 'none' },
      { kind: 'stop_postgres', downMs: 5_000 },
      { kind: 'kill_gateway' },
    ]
    const [ofFaults, ofOutage, ofStorm] = [
      await forRounds(faults.length),
      await forRounds(OUTAGE_ROUNDS),
      await open(stormBudget(room)),
    ]
    for (const [index, budget] of ofFaults.entries())
      await round({ ...run, seed: runSeed * 100 + index }, budget, faults[index] ?? { kind: 'none' })
    await storm(run, ofStorm)
    await longOutage(run, ofOutage)
    return await audit(run, tenant, [...ofFaults, ofStorm, ...ofOutage])
  } finally {
    await stack.stop()
    await upstream.stop()
  }
}

/** Postgres stays away while budget after budget is spent; what is owed to it waits in the accounts. */
async function longOutage(run: MoneyRun, budgets: Budget[]): Promise<void> {
  // A key that nobody has seen yet cannot be looked up without Postgres.
  for (const budget of budgets) await admits(run, budget, 1n)
  const untilMs = performance.now() + outageS * 1000
  await run.stack.stopPostgres()
  try {
    for (const [index, budget] of budgets.entries()) {
      const onProgress = (line: string) => run.onProgress?.(`Postgres away, ${line}`)
      await round({ ...run, seed: run.seed * 1000 + index, onProgress }, budget, { kind: 'none' })
      const leftMs = untilMs - performance.now()
      await sleep(Math.max(0, leftMs / (budgets.length - index)))
    }
  } finally {
    await run.stack.startPostgres()
  }
}
