// A thread that lives through histories. Owns the answer to one job at a time; jobs come from pool.ts.
import { parentPort } from 'node:worker_threads'
import { type Outcome, runHistory } from './history.ts'
import { MUTANTS } from './mutants.ts'
import { SimulatedStorage } from './sqlite.ts'

export type Job = {
  seed: number
  histories: number
  /** Stops at the first history that breaks a rule. */
  stopsAtFailure: boolean
  mutant: string | undefined
}

export type Failure = {
  seed: number
  invariant: string
  message: string
  /** What happened up to the break, with no more faults than it takes. */
  trace: string[]
  faults: number
}

export type JobResult = {
  histories: number
  steps: number
  faults: number
  /** In how many histories each situation was met. */
  reached: [string, number][]
  failures: Failure[]
}

/** A broken rule breaks in many histories: a few show it. */
const FAILURES_MAX = 3

if (parentPort === null) throw new Error('this file is started as a worker thread')
const port = parentPort
// The product logs each of the thousands of faults; stack traces of expected errors are as dear as a history.
console.log = () => {}
Error.stackTraceLimit = 0
const storage = new SimulatedStorage()
port.on('message', (job: Job) => {
  void work(job).then((result) => port.postMessage(result))
})

async function work({ seed: firstSeed, histories, stopsAtFailure, mutant: name }: Job): Promise<JobResult> {
  const result: JobResult = { histories: 0, steps: 0, faults: 0, reached: [], failures: [] }
  const reached = new Map<string, number>()
  const seeded = name === undefined ? undefined : MUTANTS.find((mutant) => mutant.name === name)
  if (name !== undefined && seeded === undefined) throw new Error(`there is no mutant ${name}`)
  const undo = seeded?.patch?.()
  try {
    for (let seed = firstSeed; seed < firstSeed + histories; seed++) {
      const outcome = await runHistory(seed, { storage, mutant: seeded?.mutant })
      result.histories++
      result.steps += outcome.steps
      result.faults += outcome.faults
      for (const situation of outcome.reached.keys()) reached.set(situation, (reached.get(situation) ?? 0) + 1)
      if (outcome.failure === undefined) continue
      result.failures.push(await shortest(seed, outcome, seeded?.mutant))
      if (stopsAtFailure || result.failures.length >= FAILURES_MAX) break
    }
  } finally {
    undo?.()
  }
  return { ...result, reached: [...reached] }
}

/** The same history with as few faults as still break the same rule. */
async function shortest(
  seed: number,
  found: Outcome,
  mutant: Parameters<typeof runHistory>[1]['mutant'],
): Promise<Failure> {
  for (let faultsMax = 0; ; faultsMax++) {
    const traced = await runHistory(seed, { storage, mutant, traced: true, faultsMax })
    const isEnough = faultsMax >= found.faults
    if (!isEnough && traced.failure?.invariant !== found.failure?.invariant) continue
    const failure = traced.failure ?? found.failure
    return {
      seed,
      invariant: failure?.invariant ?? 'deterministic',
      message: failure?.message ?? 'the history did not repeat itself',
      trace: traced.trace ?? [],
      faults: traced.faults,
    }
  }
}
