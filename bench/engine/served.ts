// What only the whole server shows: the time to the first token when a prefix is cached, and resident memory under load.
// Owns the two measurements; the process is server.ts.
import { complete, greedy, type Server, startServer } from './server.ts'
import { Worker } from './worker.ts'

/** A prompt of a long conversation, and what a turn adds to it. */
export const PREFIX_TOKENS = 2048
const NEW_TOKENS = [16, 64, 256]
/** Sequences that fill the KV pool while memory is measured. */
const LOAD_SEQUENCES = 16
const KV_MIB = 256

export type FirstToken = {
  newTokens: number
  /** Without any cached prefix: the whole prompt, and the new tokens alone. */
  wholeMs: number
  aloneMs: number
  /** The new tokens computed at their place behind the prefix, by the model alone: no server, no sampling. */
  computeMs: number
  /** The same prompt behind a cached prefix, and how much of it the engine took from its cache. */
  cachedMs: number
  cachedTokens: number
}
export type Served = {
  firstTokens: FirstToken[]
  memory: { residentBytes: number; kvBytes: number } | undefined
}

export type ServedOptions = {
  benchPath: string
  enginePath: string
  modelPath: string
  threads: number
  vocabulary: number
  /** Each time is the least of so many. */
  rounds: number
}

export async function measureServed(options: ServedOptions): Promise<Served> {
  const { enginePath, modelPath, threads } = options
  const server = await startServer({ enginePath, modelPath, threads, kvMib: KV_MIB })
  try {
    const firstTokens: FirstToken[] = []
    for (const newTokens of NEW_TOKENS) firstTokens.push(await measureFirstToken(server, options, newTokens))
    for (const found of firstTokens) found.computeMs = await measureCompute(options, found.newTokens)
    return { firstTokens, memory: await measureMemory(server, options.vocabulary) }
  } finally {
    await server.stop()
  }
}

/** Prompts that nobody has sent before: every call of `fresh` begins differently. */
let salt = 0n

async function measureFirstToken(server: Server, options: ServedOptions, newTokens: number): Promise<FirstToken> {
  const prompt = ids(PREFIX_TOKENS + newTokens, 1, options.vocabulary)
  const prefix = prompt.slice(0, PREFIX_TOKENS)
  const found: FirstToken = {
    newTokens,
    wholeMs: Infinity,
    aloneMs: Infinity,
    computeMs: Infinity,
    cachedMs: Infinity,
    cachedTokens: 0,
  }
  for (let round = 0; round < options.rounds; round++) {
    found.wholeMs = Math.min(found.wholeMs, (await firstToken(server, prompt, ++salt)).ms)
    found.aloneMs = Math.min(found.aloneMs, (await firstToken(server, prompt.slice(-newTokens), ++salt)).ms)
    await firstToken(server, prefix, ++salt)
    const cached = await firstToken(server, prompt, salt)
    found.cachedMs = Math.min(found.cachedMs, cached.ms)
    found.cachedTokens = cached.cachedTokens
  }
  return found
}

/** What the new tokens cost where they stand: they attend to the whole prefix, which no cache can spare them. */
async function measureCompute(options: ServedOptions, newTokens: number): Promise<number> {
  const limits = `1,${PREFIX_TOKENS},${PREFIX_TOKENS + newTokens}`
  const { worker } = await Worker.start({
    name: 'engine-bench',
    command: options.benchPath,
    args: [options.modelPath, '--threads', String(options.threads), '--commands', limits],
  })
  try {
    let least = Infinity
    for (let round = 0; round < options.rounds + 1; round++) {
      least = Math.min(least, 1000 * (await worker.number(`extend ${PREFIX_TOKENS} ${newTokens}`, 'seconds')))
    }
    return least
  } finally {
    await worker.close()
  }
}

async function firstToken(server: Server, prompt: number[], ownSalt: bigint) {
  const { end, firstTokenMs } = await complete(server.connection, { ...greedy(prompt, 1), salt: ownSalt })
  if (end.kind !== 'finished' || firstTokenMs === undefined) throw new Error(`a sequence ended as ${end.kind}`)
  return { ms: firstTokenMs, cachedTokens: end.finished.cachedTokens }
}

/** Resident bytes after sequences have used the whole pool. */
async function measureMemory(server: Server, vocabulary: number): Promise<Served['memory']> {
  const { blocksTotal, blockTokens } = server.connection.ready
  const each = Math.floor((blocksTotal * blockTokens) / LOAD_SEQUENCES) - blockTokens
  const prompts = Array.from({ length: LOAD_SEQUENCES }, (_, index) => ids(each, index + 2, vocabulary))
  await Promise.all(prompts.map((prompt) => complete(server.connection, greedy(prompt, blockTokens))))
  const residentBytes = server.residentBytes()
  return residentBytes === undefined ? undefined : { residentBytes, kvBytes: KV_MIB * 2 ** 20 }
}

/** Ids spread over the vocabulary, others for each seed. */
function ids(count: number, seed: number, vocabulary: number): number[] {
  return Array.from({ length: count }, (_, position) => (position * 7919 + seed * 104_729) % vocabulary)
}
