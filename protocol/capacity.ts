// What a backend says about itself. Owns the capacity frame; who sends and stores it is report.ts and gateway/fleet.
import { z } from 'zod'

const count = z.number().int().nonnegative()

/**
 * One engine's load at one step. Pushed each second, on change, and with every response, so that the gateway routes
 * by what is true. `measured*` fields are fitted by the engine from its own steps, absent until it has measured.
 */
export const CapacityFrame = z.object({
  /** The model name that requests are routed by. */
  model: z.string().min(1).max(200),
  role: z.enum(['both', 'prefill', 'decode']),
  /** New for each life of the engine: frames of an older epoch are void. */
  epoch: z.string().min(1).max(64),
  /** Rises by one per frame within an epoch. */
  sequence: count,
  contextTokensMax: count,
  blockTokens: count,
  kvBlocksTotal: count,
  /** Held by sequences. */
  kvBlocksUsed: count,
  /** In the prefix cache, those that sequences hold included; the others are given up on demand. */
  kvBlocksCached: count,
  sequencesRunning: count,
  sequencesWaiting: count,
  sequencesMax: count,
  /** Requests in the agent's own admission queue, before the engine. */
  requestsQueued: count,
  requestsQueuedMax: count,
  prefillTokensQueued: count,
  decodeKvTokens: count,
  stepMs: z.number().nonnegative(),
  measuredPrefillTokensPerSecond: z.number().nonnegative().optional(),
  measuredDecodeTokensPerSecond: z.number().nonnegative().optional(),
  /** Weight and KV bytes moved per second by the last steps, and the ceiling measured at start. */
  memoryBytesPerSecond: z.number().nonnegative().optional(),
  memoryBytesPerSecondMax: z.number().nonnegative().optional(),
  draining: z.boolean(),
  /** The engine can hold its output to a grammar. */
  grammars: z.boolean().optional(),
})
export type CapacityFrame = z.infer<typeof CapacityFrame>
