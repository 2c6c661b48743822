// Many histories on all cores. Owns the threads, who lives through which seeds, and the sum of it.
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import type { Failure, Job, JobResult } from './worker.ts'

export type Summary = {
  histories: number
  steps: number
  faults: number
  reached: Map<string, number>
  failures: Failure[]
}

/** A whole block of one edge in time: see plan.ts. */
const BLOCK = 256

/** Nearly everything a history makes is dead at its end: a large nursery saves copying it. */
const LIMITS = { resourceLimits: { maxYoungGenerationSizeMb: 128 } }

export class Pool {
  readonly #idle: Worker[]
  readonly #all: Worker[]
  readonly #waiting: ((worker: Worker) => void)[] = []

  constructor(threads = availableParallelism()) {
    this.#all = Array.from({ length: threads }, () => new Worker(join(import.meta.dirname, 'worker.ts'), LIMITS))
    this.#idle = [...this.#all]
  }

  async job(job: Job): Promise<JobResult> {
    const worker = this.#idle.pop() ?? (await new Promise<Worker>((resolve) => this.#waiting.push(resolve)))
    try {
      return await answerOf(worker, job)
    } finally {
      const next = this.#waiting.shift()
      if (next === undefined) this.#idle.push(worker)
      else next(worker)
    }
  }

  /**
   * Lives through seeds from `seed` on until `histories` are done or the time is over; ends early at a failure.
   * @param onProgress called after each block
   */
  async run(
    of: { seed: number; histories: number; untilMs: number; mutant?: string },
    onProgress: (summary: Summary) => void = () => {},
  ): Promise<Summary> {
    const summary: Summary = { histories: 0, steps: 0, faults: 0, reached: new Map(), failures: [] }
    const endSeed = of.seed + of.histories
    let nextSeed = of.seed
    const thread = async (): Promise<void> => {
      while (nextSeed < endSeed && summary.failures.length === 0 && performance.now() < of.untilMs) {
        const seed = nextSeed
        const histories = Math.min(BLOCK - (seed % BLOCK), endSeed - seed)
        nextSeed += histories
        add(summary, await this.job({ seed, histories, stopsAtFailure: true, mutant: of.mutant }))
        onProgress(summary)
      }
    }
    await Promise.all(this.#all.map(thread))
    return summary
  }

  async close(): Promise<void> {
    await Promise.all(this.#all.map((worker) => worker.terminate()))
  }
}

function answerOf(worker: Worker, job: Job): Promise<JobResult> {
  return new Promise((resolve, reject) => {
    const answered = (result: JobResult) => {
      worker.off('error', died)
      resolve(result)
    }
    const died = (error: unknown) => {
      worker.off('message', answered)
      reject(error)
    }
    worker.once('message', answered)
    worker.once('error', died)
    worker.postMessage(job)
  })
}

function add(summary: Summary, result: JobResult): void {
  summary.histories += result.histories
  summary.steps += result.steps
  summary.faults += result.faults
  summary.failures.push(...result.failures)
  for (const [situation, histories] of result.reached)
    summary.reached.set(situation, (summary.reached.get(situation) ?? 0) + histories)
}

/** A failure as a person wants to see it: what to type to see it again, what broke, and how it came to that. */
export function describeFailure({ seed, invariant, message, trace, faults }: Failure): string {
  return [
    `seed ${seed} breaks ${invariant} with ${faults} faults:`,
    ...trace.map((line) => `  ${line}`),
    message,
    `Again: node test/simulation/run.ts --seed ${seed} --histories 1`,
  ].join('\n')
}
