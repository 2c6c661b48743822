// The stored text of a hold. Owns its encoding in SQLite and the check on the way back; the record is holds.ts.
import * as z from 'zod'
import { ERROR_CODES } from '../../protocol/errors.ts'
import { late } from '../../protocol/late.ts'
import { parseStored } from '../db/json.ts'
import { encodeText, storedShapes } from '../ledger/outbox.ts'
import type { Hold } from './contract.ts'
import type { HoldRecord, HoldState, HoldTerms } from './holds.ts'

const { money, usage, price, payer } = storedShapes
const status = late(() => z.enum(['ok', 'client_cancelled', ...ERROR_CODES]))

const limitState = late(() =>
  z.object({ limit: z.number(), remaining: z.number(), resetAtMs: z.number().exactOptional() }),
)

const body = late(() =>
  z.object({
    terms: z.object({
      requestId: z.string(),
      attempt: z.number(),
      orgId: z.string(),
      projectId: z.string(),
      keyId: z.string(),
      keyLineId: z.string().optional(),
      userId: z.string().optional(),
      teamId: z.string().optional(),
      endUser: z.string().optional(),
      tags: z.string().optional(),
      modelRequested: z.string(),
      provider: z.string(),
      modelServed: z.string(),
      estimate: z.object({ inputTokens: z.number(), outputTokens: z.number(), calls: z.number().default(0) }),
      // JSON has no undefined: an unknown price is an absent one.
      price: price.optional().transform((quote) => quote),
      startedAtMs: z.number(),
      deadlineAtMs: z.number(),
      stream: z.boolean(),
      idempotency: z.object({ keyHash: z.string(), bodyHash: z.string() }).optional(),
      isTrial: z.boolean().optional(),
    }),
    granted: z.object({
      holdId: z.string(),
      heldNanoUsd: money,
      requests: limitState.exactOptional(),
      tokens: limitState.exactOptional(),
      warnings: z.array(z.string()).exactOptional(),
    }),
    checkpoint: usage.optional(),
    end: z
      .object({
        usage,
        costNanoUsd: money,
        charge: payer,
        status,
        httpStatus: z.number().optional(),
        firstTokenAtMs: z.number().optional(),
        endedAtMs: z.number(),
        backendId: z.string().optional(),
      })
      .optional(),
  }),
)

/** Columns of the table `holds`. */
export type StoredHold = {
  request_id: string
  attempt: number
  state: string
  request_closed: number
  due_at_ms: number
  body: string
}

const HOLD_STATES: ReadonlySet<string> = new Set<HoldState>([
  'held',
  'settled',
  'released',
  'expired_estimated',
  'settled_late',
])
const isHoldState = (text: string): text is HoldState => HOLD_STATES.has(text)

/** By terms: they stay the same from a hold's beginning to its end, and are most of its text. */
const texts = new WeakMap<HoldTerms, { granted: Hold; text: string }>()

/** Terms and grant as the beginning of a JSON object. */
function beginning({ terms, granted }: HoldRecord): string {
  const known = texts.get(terms)
  if (known?.granted === granted) return known.text
  const text = encodeText({ terms, granted }).slice(0, -1)
  texts.set(terms, { granted, text })
  return text
}

export function encodeHold(hold: HoldRecord): StoredHold {
  const { terms, checkpoint, end } = hold
  const proven = checkpoint === undefined ? '' : `,"checkpoint":${encodeText(checkpoint)}`
  const ended = end === undefined ? '' : `,"end":${encodeText(end)}`
  return {
    request_id: terms.requestId,
    attempt: terms.attempt,
    state: hold.state,
    request_closed: hold.requestClosed ? 1 : 0,
    due_at_ms: hold.dueAtMs,
    body: `${beginning(hold)}${proven}${ended}}`,
  }
}

/** @throws Error where the row was not written by `encodeHold`. */
export function decodeHold(row: StoredHold): HoldRecord {
  if (!isHoldState(row.state)) throw new Error(`hold of request ${row.request_id} is in unknown state ${row.state}`)
  const { terms, granted, checkpoint, end } = parseStored(row.body, body, 'a hold')
  return {
    terms: { ...terms, price: terms.price },
    granted,
    state: row.state,
    checkpoint,
    end,
    requestClosed: row.request_closed === 1,
    dueAtMs: row.due_at_ms,
  }
}
