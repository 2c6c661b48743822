// The engine at full load for minutes: every kind of request, all the time, over the real socket. Owns the load, the
// samples and the judgement; building and starting is scripts/soak-engine.ts.
//
// Memory may grow while pools fill and allocators find their size: that is the warm-up, the first half. The most resident
// memory of the last quarter is then compared with the most of the second quarter, so that a leak of one request in a
// thousand shows, and a single peak does not.
import { setTimeout as sleep } from 'node:timers/promises'
import type { SequenceParameters } from '../../backends/engine/client.ts'
import { greedy, type Server } from './server.ts'

export type SoakOptions = {
  server: Server
  durationMs: number
  seed: number
  /** Called every ten seconds or so. */
  onProgress: (line: string) => void
}
export type SoakResult = {
  ended: Record<string, number>
  samples: { atMs: number; residentBytes: number }[]
  growthBytes: number | undefined
  /** What is wrong, in sentences; empty: passed. */
  problems: string[]
}

export const GROWTH_BYTES_MAX = 8 * 2 ** 20
/** Open at once: more than run at once, so that the queue is never empty. */
const OPEN_SEQUENCES = 48
const SAMPLE_INTERVAL_MS = 500
const PROGRESS_INTERVAL_MS = 10_000
/** How long the engine may take to end what is open and free its blocks. */
const DRAIN_TIMEOUT_MS = 120_000
const PROMPT_TOKENS_MAX = 600
const OUTPUT_TOKENS_MAX = 96
const PREFIXES = 4
const PREFIX_TOKENS = 160
/** A single sequence without an end for this long is stuck, not slow. */
const SEQUENCE_TIMEOUT_MS = 300_000

export async function soak({ server, durationMs, seed, onProgress }: SoakOptions): Promise<SoakResult> {
  const { connection } = server
  const random = generator(seed)
  const startMs = performance.now()
  const elapsedMs = () => performance.now() - startMs
  const samples: SoakResult['samples'] = []
  const ended: Record<string, number> = {}
  const problems: string[] = []
  const note = (kind: string) => {
    ended[kind] = (ended[kind] ?? 0) + 1
  }
  const sample = () => {
    const residentBytes = server.residentBytes()
    if (residentBytes !== undefined) samples.push({ atMs: elapsedMs(), residentBytes })
  }
  let tokens = 0
  const client = async () => {
    while (elapsedMs() < durationMs && problems.length === 0 && !connection.closed) {
      const kind = await one(server, random, () => tokens++).catch((error: Error) => {
        problems.push(error.message)
        return 'error'
      })
      note(kind)
      // A refusal comes at once; the next attempt of a real caller does not.
      if (kind.startsWith('rejected')) await sleep(random.below(20))
    }
  }
  const clients = Array.from({ length: OPEN_SEQUENCES }, client)
  let nextProgressMs = PROGRESS_INTERVAL_MS
  while (elapsedMs() < durationMs && problems.length === 0 && !connection.closed) {
    sample()
    if (elapsedMs() > nextProgressMs) {
      nextProgressMs += PROGRESS_INTERVAL_MS
      const mib = ((samples.at(-1)?.residentBytes ?? 0) / 2 ** 20).toFixed(1)
      const sum = Object.values(ended).reduce((total, count) => total + count, 0)
      onProgress(`${(elapsedMs() / 1000).toFixed(0)} s: ${sum} sequences, ${tokens} tokens, ${mib} MiB resident`)
    }
    await sleep(SAMPLE_INTERVAL_MS)
  }
  await Promise.all(clients)
  sample()
  if (connection.closed) problems.push('the connection ended')
  else problems.push(...(await leaks(server)))
  const growthBytes = growth(samples)
  if (growthBytes !== undefined && growthBytes > GROWTH_BYTES_MAX) {
    problems.push(`resident memory grew by ${(growthBytes / 2 ** 20).toFixed(1)} MiB after the warm-up`)
  }
  return { ended, samples, growthBytes, problems }
}

/** One request of some kind, to its end. Returns what it was and how it ended. */
async function one(server: Server, random: Random, onToken: () => void): Promise<string> {
  const { connection } = server
  const parameters = randomParameters(server, random)
  const allowed = Math.min(parameters.creditTokens, parameters.maxNewTokens)
  // Never, before anything is computed, or somewhere in the output.
  const cancelAfter = random.below(4) === 0 ? random.below(OUTPUT_TOKENS_MAX) : undefined
  const slowReader = random.below(6) === 0
  let received = 0
  let granted = allowed
  let timer: NodeJS.Timeout | undefined
  try {
    return await new Promise<string>((resolve, reject) => {
      timer = setTimeout(() => reject(new Error('a sequence did not end')), SEQUENCE_TIMEOUT_MS)
      const sequence = connection.submit(parameters, {
        token: () => {
          onToken()
          received++
          if (received === cancelAfter) sequence.cancel()
          if (received < granted) return
          const more = 1 + random.below(16)
          granted += more
          setTimeout(() => sequence.grant(more), slowReader ? random.below(400) : 0)
        },
        end: (end) => {
          if (end.kind === 'finished') resolve(end.finished.reason)
          else if (end.kind === 'rejected') resolve(`rejected: ${end.code}`)
          else reject(new Error(end.message))
        },
      })
      if (cancelAfter === 0) setTimeout(() => sequence.cancel(), random.below(50))
    })
  } finally {
    clearTimeout(timer)
  }
}

function randomParameters({ connection }: Server, random: Random): SequenceParameters {
  const { vocabSize, contextTokens } = connection.ready
  const oversized = random.below(50) === 0
  const length = oversized ? contextTokens + 1 : 1 + random.below(random.below(4) === 0 ? PROMPT_TOKENS_MAX : 64)
  const prompt = Array.from({ length }, () => random.below(vocabSize))
  // Half share a beginning with others, so that blocks are found in the cache, shared and evicted.
  const prefix = random.below(2) === 0 ? sharedPrefix(random.below(PREFIXES), vocabSize) : []
  const sampled = random.below(2) === 0
  return {
    ...greedy([...prefix, ...prompt], 1 + random.below(OUTPUT_TOKENS_MAX)),
    creditTokens: random.below(3) === 0 ? 1 + random.below(8) : OUTPUT_TOKENS_MAX,
    ...(sampled && {
      temperature: 0.5 + random.below(100) / 100,
      topP: 0.9,
      topK: 40,
      repetitionPenalty: 1.1,
      presencePenalty: 0.2,
      frequencyPenalty: 0.1,
      seed: BigInt(random.below(2 ** 30)),
      bias: [{ id: random.below(vocabSize), bias: 2 }],
    }),
    ...(random.below(4) === 0 && { logprobsTop: random.below(6) }),
    stopIds: random.below(2) === 0 ? [random.below(vocabSize), 2] : [],
    priority: random.below(5) - 2,
    deadlineMs: random.below(8) === 0 ? 1 + random.below(4000) : 0,
    tenant: BigInt(random.below(4)),
    salt: BigInt(random.below(2)),
  }
}

function sharedPrefix(which: number, vocabulary: number): number[] {
  return Array.from({ length: PREFIX_TOKENS }, (_, position) => (position * 7919 + which * 104_729) % vocabulary)
}

/** Waits until the engine has nothing left to do, and says what it still holds. */
async function leaks({ connection }: Server): Promise<string[]> {
  const deadlineMs = performance.now() + DRAIN_TIMEOUT_MS
  for (;;) {
    const { stats } = connection
    const held = stats === undefined ? undefined : { ...stats, open: connection.openSequences }
    if (held !== undefined && held.open + held.running + held.waiting + held.blocksUsed === 0) return []
    if (performance.now() > deadlineMs) {
      if (held === undefined) return ['the engine sent no statistics']
      const { open, running, waiting, blocksUsed } = held
      return [`left when idle: ${open} open, ${running} running, ${waiting} waiting, ${blocksUsed} blocks used`]
    }
    await sleep(SAMPLE_INTERVAL_MS)
  }
}

/** Most of the last quarter less most of the second; undefined where there are too few samples to tell. */
function growth(samples: SoakResult['samples']): number | undefined {
  const endMs = samples.at(-1)?.atMs ?? 0
  const most = (from: number, to: number) => {
    const within = samples.filter(({ atMs }) => atMs >= from * endMs && atMs <= to * endMs)
    return within.length === 0 ? undefined : Math.max(...within.map(({ residentBytes }) => residentBytes))
  }
  const [before, after] = [most(0.25, 0.5), most(0.75, 1)]
  return before === undefined || after === undefined ? undefined : after - before
}

type Random = { below: (limit: number) => number }

/** Mulberry32, so that a seed gives the same requests again. */
function generator(seed: number): Random {
  let state = seed | 0
  return {
    below: (limit) => {
      state = (state + 0x6d2b79f5) | 0
      let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
      mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
      return ((mixed ^ (mixed >>> 14)) >>> 0) % limit
    },
  }
}
