// The text of a request, where its caller had it stored (the responses dialect with `store`). Owns finding it from a usage row, and
// that whoever reads it is on record. Requests of other dialects have no text: usage rows hold counts alone.

import * as z from 'zod'
import { connect } from '../db/connect.ts'
import { parseStored } from '../db/json.ts'
import type { usageRequests } from '../db/schema/usage.ts'
import { reachRuns } from '../runs/reach.ts'
import type { Owner } from '../runs/stored-run.ts'
import { audited } from './audit.ts'
import { type AdminContext, notFound, Refusal } from './context.ts'

type RequestRow = typeof usageRequests.$inferSelect

/** A response is named after the request that made it; one that was found again by its idempotency key is not, and not found. */
const nameOf = ({ requestId }: RequestRow): string => requestId.replaceAll('-', '')
/** As whoever may see the project: bound to no customer. */
const readerOf = ({ orgId, projectId, keyId }: RequestRow): Owner => ({ orgId, projectId, keyLineId: keyId })

const Stored = z.record(z.string(), z.unknown())

async function read(c: AdminContext, request: RequestRow): Promise<Record<string, unknown> | undefined> {
  const owner = readerOf(request)
  const found = await reachRuns(c.env, owner, nameOf(request), async (runs) => await runs.read(nameOf(request), owner))
  if (found.ok) return parseStored(found.value, Stored, 'a stored response')
  if (found.error.code === 'not_found') return undefined
  throw new Refusal(found.error)
}

/** Null: nothing is kept. `unreachable`: whether anything is cannot be told now. */
export async function storedState(c: AdminContext, request: RequestRow) {
  const [owner, name] = [readerOf(request), nameOf(request)]
  const state = await reachRuns(c.env, owner, name, async (runs) => await runs.state(name, owner))
  if (state.ok) return { id: `resp_${name}`, state: state.value }
  return state.error.code === 'not_found' ? null : { id: `resp_${name}`, state: 'unreachable' as const }
}

/** What was asked and what was answered. Recorded before it is shown. @throws Refusal */
export async function storedText(c: AdminContext, request: RequestRow) {
  const response = await read(c, request)
  if (response === undefined) throw notFound('text of this request: its caller did not have it stored, or it is gone')
  const owner = readerOf(request)
  const items = await reachRuns(c.env, owner, nameOf(request), async (runs) => await runs.items(nameOf(request), owner))
  if (!items.ok) throw new Refusal(items.error)
  await connect(c.env).batch([
    audited(c, { action: 'request.read_text', orgId: request.orgId, objectId: request.requestId, details: {} }),
  ])
  const input = parseStored(items.value, z.array(z.unknown()), 'the items of a stored response')
  return { id: `resp_${nameOf(request)}`, input, response }
}
