// What waits to be written to Postgres. Owns the shapes of the facts an ended attempt leaves behind and their stored
// text. One entry carries everything of one ending, so that its rows reach Postgres together or not at all.
// Storage is account/store.ts, the way to Postgres flush.ts.
import * as z from 'zod'
import { late } from '../../protocol/late.ts'
import { parseStored } from '../db/json.ts'
import type { PriceQuote, Pricing } from '../meter/price.ts'
import { mapParts, USAGE_PARTS, type Usage, type UsageSource } from '../meter/usage.ts'
import { LEDGER_ACCOUNTS, type Transfer } from './postings.ts'

/**
 * `attempt`: how an upstream attempt ended, once each. Usage that comes after a hold expired changes no row: an
 * `adjustment` adds the difference to the estimate; where the payer changes too, a `reversal` takes the estimate back
 * and the adjustment carries all of it.
 */
export type AttemptKind = 'attempt' | 'adjustment' | 'reversal'

/** Who pays: the caller, or the gateway for an attempt that did not become the answer. */
export type Payer = 'customer' | 'absorbed'

/** What attempts and requests have in common. */
type Facts = {
  orgId: string
  requestId: string
  projectId: string
  keyId: string
  userId?: string | undefined
  teamId?: string | undefined
  endUser?: string | undefined
  /** `name=value` by name, joined by commas. */
  tags?: string | undefined
  /** Of own machines, where an end said which. */
  backendId?: string | undefined
  provider: string
  modelRequested: string
  modelServed: string
  stream: boolean
  status: string
  /** Absent: nobody saw one (the hold expired). */
  httpStatus?: number | undefined
  usage: Usage
  costNanoUsd: bigint
  startedAtMs: number
  firstTokenAtMs?: number | undefined
  endedAtMs: number
}

/** One row of `usage_attempts`. Identity: (org, request, attempt, kind). */
export type AttemptRow = Facts & {
  /** The first key of the line of rotations; absent: `keyId` itself. */
  keyLineId?: string | undefined
  attempt: number
  kind: AttemptKind
  charge: Payer
  usageSource: UsageSource
  pricing: Pricing
  price?: PriceQuote | undefined
  providerCostNanoUsd?: bigint | undefined
  /** What input that was read from a cache would have cost more at the uncached price; absent in rows from before it was counted. */
  cacheSavingsNanoUsd?: bigint | undefined
  /** The target's own usage object as JSON text. */
  rawUsage?: string | undefined
  inconsistent?: boolean | undefined
  /** How the attempt came about, as JSON text. */
  route?: string | undefined
  recordedAtMs: number
}

/** One row of `usage_requests`. Usage and cost are what the customer was charged when the request ended. */
export type RequestRow = Facts & { attempts: number; recordedAtMs: number }

/** One row of `limit_events`: a limit that was passed or first refused in a window. Identity: all but values and time. */
export type LimitEvent = {
  orgId: string
  limitId: string
  subject: string
  windowKey: string
  kind: 'passed' | 'refused'
  /** Requests, tokens or nano-USD. */
  max: bigint
  value: bigint
  occurredAtMs: number
}

export type OutboxEntry = {
  attempts: AttemptRow[]
  transfers: Transfer[]
  request?: RequestRow | undefined
  events?: LimitEvent[] | undefined
}

const money = late(() =>
  z
    .string()
    .regex(/^-?\d+$/)
    .transform(BigInt),
)
const usage = late(() => z.object(mapParts(() => z.number().default(0))) satisfies z.ZodType<Usage>)
const priceTable = late(() => z.partialRecord(z.enum(USAGE_PARTS), money))
const price = late(() =>
  z.object({
    priceVersionId: z.string(),
    perMillion: priceTable,
    contextTiers: z.array(z.object({ aboveInputTokens: z.number(), perMillion: priceTable })).optional(),
    basisPoints: z.number().optional(),
  }),
)
const facts = () => ({
  orgId: z.string(),
  requestId: z.string(),
  projectId: z.string(),
  keyId: z.string(),
  userId: z.string().optional(),
  teamId: z.string().optional(),
  endUser: z.string().optional(),
  tags: z.string().optional(),
  backendId: z.string().optional(),
  provider: z.string(),
  modelRequested: z.string(),
  modelServed: z.string(),
  stream: z.boolean(),
  status: z.string(),
  httpStatus: z.number().optional(),
  usage,
  costNanoUsd: money,
  startedAtMs: z.number(),
  firstTokenAtMs: z.number().optional(),
  endedAtMs: z.number(),
  recordedAtMs: z.number(),
})
const payer = late(() => z.enum(['customer', 'absorbed']))
const entry = late(() =>
  z.object({
    attempts: z.array(
      z.object({
        ...facts(),
        keyLineId: z.string().optional(),
        attempt: z.number(),
        kind: z.enum(['attempt', 'adjustment', 'reversal']),
        charge: payer,
        usageSource: z.enum(['provider', 'stream_partial', 'estimated']),
        pricing: z.enum(['priced', 'part_missing', 'price_missing']),
        price: price.optional(),
        providerCostNanoUsd: money.optional(),
        cacheSavingsNanoUsd: money.optional(),
        rawUsage: z.string().optional(),
        inconsistent: z.boolean().optional(),
        route: z.string().optional(),
      }),
    ),
    transfers: z.array(
      z.object({
        orgId: z.string(),
        requestId: z.string(),
        attempt: z.number(),
        kind: z.enum(['attempt', 'adjustment', 'reversal']),
        purpose: z.enum(['usage', 'provider_cost']),
        occurredAtMs: z.number(),
        entries: z.array(
          z.object({
            account: z.enum(LEDGER_ACCOUNTS),
            amountNanoUsd: money,
          }),
        ),
      }),
    ),
    request: z.object({ ...facts(), attempts: z.number() }).optional(),
    events: z
      .array(
        z.object({
          orgId: z.string(),
          limitId: z.string(),
          subject: z.string(),
          windowKey: z.string(),
          kind: z.enum(['passed', 'refused']),
          max: money,
          value: money,
          occurredAtMs: z.number(),
        }),
      )
      .optional(),
  }),
)

/** Stored parts of a hold share these shapes. */
export const storedShapes = { money, usage, price, payer }

/** JSON with money as decimal strings: a JSON number loses nano-dollars past 2^53. */
export const encodeText = (value: unknown): string => JSON.stringify(withTexts(value))

/** A copy with text in the place of each bigint: many times as fast as asking a replacer about every value. */
function withTexts(value: unknown): unknown {
  if (typeof value === 'bigint') return value.toString()
  if (typeof value !== 'object' || value === null) return value
  if (Array.isArray(value)) return value.map(withTexts)
  const copy: Record<string, unknown> = {}
  for (const [name, part] of Object.entries(value)) if (part !== undefined) copy[name] = withTexts(part)
  return copy
}

/** @throws Error where the text was not written by `encodeText` of an entry. */
export const decodeEntry = (text: string): OutboxEntry => parseStored(text, entry, 'the outbox')
