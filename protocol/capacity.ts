// What a backend says about itself. Owns the capacity frame; who sends and stores it is report.ts and gateway/fleet.
import * as z from 'zod'
import { late } from './late.ts'

const count = late(() => z.number().int().nonnegative())

/** What the products of a model are computed in. */
export const MAC_TYPES = ['f32', 'int8'] as const

const NOT_READY_REASONS = ['canary_wrong', 'canary_timeout'] as const
export type NotReadyReason = (typeof NOT_READY_REASONS)[number]

export const ENGINE_ROLES = ['both', 'prefill', 'decode'] as const
export const EngineRole = late(() => z.enum(ENGINE_ROLES))
export type EngineRole = z.infer<typeof EngineRole>

/** What a step takes, fitted from the engine's own steps: base + tokens × cost. Each ≥ 0, milliseconds. */
export const StepModel = late(() =>
  z.object({
    baseMs: z.number().nonnegative(),
    /** Per prompt token computed in the step. */
    prefillTokenMs: z.number().nonnegative(),
    /** Per sequence that decodes in the step. */
    decodeSequenceMs: z.number().nonnegative(),
    /** Per token of K and V that decoding sequences read. */
    kvTokenMs: z.number().nonnegative(),
  }),
)
export type StepModel = z.infer<typeof StepModel>

/** How K and V reach this engine, and what moving them takes; absent where nobody can hand any over. */
export const KvTransfer = late(() =>
  z.object({
    /** Engines with another layout cannot be paired. */
    fingerprint: z.string().min(1).max(200),
    /** Engines with the same one share a host, and its memory. */
    host: z.string().min(1).max(64),
    /** Engines of other hosts can push to this one. */
    remote: z.boolean(),
    bytesPerToken: count,
    /** Of hand-overs to this engine, over the last ones; absent until one was measured. */
    measuredBytesPerSecond: z.number().nonnegative().optional(),
    /** Open reservations. */
    reservations: count,
  }),
)
export type KvTransfer = z.infer<typeof KvTransfer>

/**
 * One engine's load at one step. Pushed each second, on change, and with every response, so that the gateway routes
 * by what is true. `measured*` fields are fitted by the engine from its own steps, absent until it has measured.
 */
export const CapacityFrame = late(() =>
  z.object({
    /** The model name that requests are routed by. */
    model: z.string().min(1).max(200),
    /** Which of the agent's engines; absent where it has one. */
    engine: z.string().min(1).max(64).optional(),
    /**
     * `prefill` engines compute prompts for others and finish no request; `decode` engines finish requests and leave prompts that
     * pay the way to prefill engines; `both` do everything. Every engine can do everything: a role says what it is given.
     */
    role: EngineRole,
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
    /** Weight and KV bytes read per second by the last steps that only decode, and the ceiling measured at start. */
    memoryBytesPerSecond: z.number().nonnegative().optional(),
    memoryBytesPerSecondMax: z.number().nonnegative().optional(),
    /**
     * Billions of multiply-adds per second: of the last steps that compute prompts, the ceiling measured at start (each 0: not known), and
     * in what numbers (an index of MAC_TYPES). In one list, since a frame is to stay below a kilobyte.
     */
    macs: z.array(z.number().nonnegative()).length(3).optional(),
    /** Of the last seconds, what was spent in steps. 0 to 1; absent before the first step. */
    busyShare: z.number().nonnegative().optional(),
    /** Absent until enough steps were measured. */
    stepModel: StepModel.optional(),
    transfer: KvTransfer.optional(),
    draining: z.boolean(),
    /**
     * Absent: it is ready. Else it lives and is given nothing (`draining` too): its answers to known questions are wrong, or do not
     * come.
     */
    notReady: z.enum(NOT_READY_REASONS).optional(),
    /** Of those questions, how many in a row; absent: none. */
    canaryFailures: count.optional(),
    /** The engine can hold its output to a grammar. */
    grammars: z.boolean().optional(),
  }),
)
export type CapacityFrame = z.infer<typeof CapacityFrame>
