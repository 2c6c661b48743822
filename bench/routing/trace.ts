// Requests to be routed in a simulation ○: a published trace's rows as they are read from its file, or made ones. Owns both and
// the random numbers that made ones are drawn with; replaying them is replay.ts.
import { z } from 'zod'

/** Tokens per block of a trace: its ids stand for the prompt up to a block's end. */
export const BLOCK_TOKENS = 512

export type TraceRow = {
  atMs: number
  inputTokens: number
  outputTokens: number
  /** Of whole blocks, each over all before it. What is left of the prompt is nobody else's. */
  blocks: number[]
}

const Row = z.object({
  timestamp: z.number(),
  input_length: z.number().int().positive(),
  output_length: z.number().int().nonnegative(),
  hash_ids: z.array(z.number().int().nonnegative()),
})

/**
 * Rows of a file of JSON lines (timestamp in ms, input_length, output_length, hash_ids of 512 tokens).
 * @param jitterMs Published timestamps are rounded to buckets: each row is put somewhere in the time after its own.
 */
export function readTrace(text: string, jitterMs: number, random: () => number): TraceRow[] {
  const rows = text
    .split('\n')
    .filter((line) => line.trim() !== '')
    .map((line) => Row.parse(JSON.parse(line)))
  return rows
    .map(({ timestamp, input_length: inputTokens, output_length: outputTokens, hash_ids: ids }) => ({
      atMs: timestamp + random() * jitterMs,
      inputTokens,
      outputTokens,
      blocks: ids.slice(0, Math.floor(inputTokens / BLOCK_TOKENS)),
    }))
    .toSorted((one, other) => one.atMs - other.atMs)
}

/**
 * Conversations that all begin with the same block, which is the trap: whoever follows the longest match alone sends them all to one
 * worker. Each turn repeats the conversation so far; turns of different conversations interleave, some come in bursts.
 */
export function madeTrace(conversations: number, seed: number, rowsPerSecond: number): TraceRow[] {
  const random = seeded(seed)
  let nextBlock = 1
  const fresh = (count: number) => Array.from({ length: count }, () => nextBlock++)
  const open = Array.from({ length: conversations }, () => ({
    atMs: random() * conversations * 500,
    blocks: [0, ...fresh(2 + Math.floor(random() * 20))],
    turns: 1 + Math.floor(random() * 5),
  }))
  const rows: TraceRow[] = []
  for (const { atMs, blocks, turns } of open) {
    const siblings = random() < 0.1 ? 3 : 1
    let turnMs = atMs
    for (let turn = 0; turn < turns; turn++) {
      for (let sibling = 0; sibling < siblings; sibling++) {
        const own = siblings === 1 ? [] : fresh(1)
        const inputTokens = (blocks.length + own.length) * BLOCK_TOKENS + 1 + Math.floor(random() * (BLOCK_TOKENS - 1))
        const outputTokens = 1 + Math.floor(random() * 500)
        rows.push({ atMs: turnMs + sibling * 20, inputTokens, outputTokens, blocks: [...blocks, ...own] })
      }
      blocks.push(...fresh(1 + Math.floor(random() * 4)))
      turnMs += 5000 + random() * 40_000
    }
  }
  rows.sort((one, other) => one.atMs - other.atMs)
  const lastMs = rows.at(-1)?.atMs ?? 1
  const scale = ((rows.length / rowsPerSecond) * 1000) / lastMs
  return rows.map((row) => ({ ...row, atMs: row.atMs * scale }))
}

/** Random numbers in [0, 1) that are the same for the same seed (mulberry32, Tommy Ettinger, public domain). */
export function seeded(seed: number): () => number {
  let state = seed | 0
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** Share of all prompt tokens that one cache without bounds would have had. */
export function ceiling(rows: readonly TraceRow[]): number {
  const known = new Set<number>()
  let hit = 0
  let total = 0
  for (const { blocks, inputTokens } of rows) {
    let depth = 0
    while (depth < blocks.length && known.has(blocks[depth] as number)) depth++
    hit += Math.min(inputTokens - 1, depth * BLOCK_TOKENS)
    total += inputTokens
    for (const block of blocks) known.add(block)
  }
  return hit / total
}
