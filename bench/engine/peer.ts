// llama.cpp as a worker: one command per line on standard input, one line of JSON per answer, the language of
// native-engine/bench/commands.h. Owns how the peer is driven; what is measured when is scripts/bench-engine.ts.
//
//   node peer.ts MODEL.gguf --threads N --limits SEQUENCES,BATCH_TOKENS,CONTEXT_TOKENS --flash on|off --vocabulary N
//
// The peer is called at its binding (initBatch, addToBatch, decodeBatch), below the JavaScript that queues, samples and
// detokenises: what is compared is computing the logits of given tokens, as on our side.
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { readWindows } from './fixture.ts'
import { type Binding, loadPeer, perplexity } from './llama.ts'

/** Tokens of one call: the package's default, and what its own queue hands over at once. */
const BATCH_TOKENS_MAX = 512

/** On the clock, and summed over the cores. */
type Taken = { seconds: number; cpuSeconds: number }

/** Sequences of known length, as in native-engine/bench/workload.h. */
class Workload {
  readonly #binding: Binding
  readonly #vocabulary: number
  readonly #computed: number[]

  constructor(binding: Binding, sequences: number, vocabulary: number) {
    this.#binding = binding
    this.#vocabulary = vocabulary
    this.#computed = Array.from({ length: sequences }, () => 0)
  }

  /** Computes `tokens` tokens of the first sequence from nothing, with logits at the last. */
  async prefill(tokens: number): Promise<Taken> {
    this.#truncate(1, 0)
    const taken = stopwatch()
    for (let done = 0; done < tokens; done += BATCH_TOKENS_MAX) {
      const rows = Math.min(BATCH_TOKENS_MAX, tokens - done)
      await this.#step(1, done, rows, done + rows === tokens)
    }
    return taken()
  }

  /** `steps` steps of the first `count` sequences from `context` tokens each, logits for every row. */
  async decode(context: number, steps: number, count: number): Promise<Taken> {
    const have = Math.min(context, ...this.#computed.slice(0, count))
    this.#truncate(count, have)
    const rowsMax = Math.max(1, Math.floor(BATCH_TOKENS_MAX / count))
    for (let done = have; done < context; done += rowsMax) {
      await this.#step(count, done, Math.min(rowsMax, context - done), false)
    }
    const taken = stopwatch()
    for (let step = 0; step < steps; step++) await this.#step(count, context + step, 1, true)
    return taken()
  }

  #truncate(count: number, tokens: number): void {
    for (let sequence = 0; sequence < count; sequence++) {
      this.#binding.removeTokenCellsFromSequence(sequence, tokens, -1)
      this.#computed[sequence] = Math.min(tokens, this.#computed[sequence] ?? 0)
    }
  }

  async #step(count: number, computed: number, rows: number, wantsLogits: boolean): Promise<void> {
    const ids = Uint32Array.from({ length: rows }, (_, row) => tokenAt(computed + row, this.#vocabulary))
    const logitIndexes = Uint32Array.from(wantsLogits ? [rows - 1] : [])
    this.#binding.initBatch(count * rows)
    for (let sequence = 0; sequence < count; sequence++) {
      this.#binding.addToBatch(sequence, computed, ids, logitIndexes)
      this.#computed[sequence] = computed + rows
    }
    await this.#binding.decodeBatch()
  }
}

function stopwatch(): () => Taken {
  const startMs = performance.now()
  const start = process.cpuUsage()
  return () => {
    const { user, system } = process.cpuUsage(start)
    return { seconds: (performance.now() - startMs) / 1000, cpuSeconds: (user + system) / 1e6 }
  }
}

/** The id at a position; native-engine/bench/workload.h has the same function. */
function tokenAt(position: number, vocabulary: number): number {
  return (position * 7919 + 13) % vocabulary
}

/** A field of /proc/self/status in bytes; undefined where the system has no such file. */
function statusBytes(field: string): number | undefined {
  try {
    const match = new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(readFileSync('/proc/self/status', 'utf8'))
    return match === null ? undefined : Number(match[1]) * 1024
  } catch {
    return undefined
  }
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    threads: { type: 'string', default: '1' },
    limits: { type: 'string', default: '1,1024,1024' },
    flash: { type: 'string', default: 'on' },
    vocabulary: { type: 'string', default: '2' },
  },
})
const threads = Number(values.threads)
const [sequences = 1, batchTokens = 0, contextTokens = 0] = values.limits.split(',').map(Number)
const model = await loadPeer(positionals[0] ?? '', threads)
const common = { threads, flashAttention: values.flash === 'on', batchSize: BATCH_TOKENS_MAX }
const open = async (count: number, contextSize: number): Promise<Workload> => {
  const { _ctx } = await model.createContext({ ...common, sequences: count, contextSize })
  _ctx.setThreads(threads)
  return new Workload(_ctx, count, Number(values.vocabulary))
}
const single = await open(1, contextTokens)
const batch = await open(sequences, batchTokens)
console.log('{}')

for await (const line of createInterface({ input: process.stdin })) {
  try {
    console.log(JSON.stringify(await answer(line)))
  } catch (error) {
    console.log(JSON.stringify({ error: (error as Error).message }))
  }
}
process.exit(0)

async function answer(line: string): Promise<Record<string, number | undefined>> {
  const [command, ...words] = line.split(' ')
  const [first = 0, second = 0, third = 0] = words.map(Number)
  switch (command) {
    case 'prefill':
      return single.prefill(first)
    case 'decode':
      return (third === 1 ? single : batch).decode(first, second, third)
    case 'perplexity': {
      const windows = readWindows(words.join(' '))
      const contextSize = Math.max(...windows.map((window) => window.length))
      return {
        perplexity: await perplexity(await model.createContext({ ...common, sequences: 1, contextSize }), windows),
      }
    }
    case 'memory':
      return { rss: statusBytes('VmRSS'), peak: statusBytes('VmHWM') }
    default:
      throw new Error('there is no such command')
  }
}
