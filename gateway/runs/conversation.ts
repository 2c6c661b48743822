// The conversation a request continues. Owns loading what earlier responses of the same owner contribute, the ids of items,
// and the bound on the whole. How items become messages is routes/responses-items.ts.
import * as z from 'zod'
import type { ResponseInputItem, ResponseListedItem, ResponseRequestItem } from '../../protocol/dialects/responses.ts'
import { StoredItem } from '../../protocol/dialects/responses.ts'
import type { Failure } from '../../protocol/errors.ts'
import { late } from '../../protocol/late.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import { parseStored } from '../db/json.ts'
import type { Env } from '../env.ts'
import { reachRuns } from './reach.ts'
import { CONVERSATION_CHARS_MAX, itemId, nameOfItem, nameOfResponse, type Owner } from './stored-run.ts'

/** Responses that the references of one request may come from; each is a call of its own. */
const REFERRED_MAX = 16

const StoredItems = late(() => z.array(StoredItem))
const StoredOutput = late(() => z.object({ status: z.string(), output: z.array(StoredItem) }))

export type Continued = {
  /** Oldest first: the earlier responses', then the request's own, which have ids now. */
  items: ResponseInputItem[]
  /** How many are the request's own. */
  own: number
  /** All of them as JSON. */
  text: string
}

/**
 * What stands before the answer.
 * @param name Of the response that is to be; begins the ids of items that have none.
 */
export async function continueConversation(
  items: readonly ResponseRequestItem[],
  previousId: string | undefined,
  name: string,
  owner: Owner,
  env: Env,
): Promise<Result<Continued, Failure>> {
  const loaded = new Map<string, Promise<Result<ResponseInputItem[], Failure>>>()
  const load = (from: string): Promise<Result<ResponseInputItem[], Failure>> => {
    const known = loaded.get(from) ?? loadConversation(from, owner, env)
    loaded.set(from, known)
    return known
  }
  const before: ResponseInputItem[] = []
  if (previousId !== undefined) {
    const from = nameOfResponse(previousId)
    const found = from === undefined ? err<Failure>(NOT_FOUND) : await load(from)
    if (!found.ok) return err(previousFailure(found.error, previousId))
    before.push(...found.value)
  }
  const own: ResponseInputItem[] = []
  for (const [index, item] of items.entries()) {
    if (item.type !== 'item_reference') {
      own.push({ ...item, id: item.id ?? itemId(item.type, name, index) })
      continue
    }
    const missing = err<Failure>({
      code: 'not_found',
      message: `Item '${item.id.slice(0, 100)}' was not found; only items of stored responses can be referred to.`,
      param: `input[${index}].id`,
    })
    const from = nameOfItem(item.id)
    if (from === undefined || (!loaded.has(from) && loaded.size >= REFERRED_MAX)) return missing
    const found = await load(from)
    const referred = found.ok ? found.value.find((one) => one.id === item.id) : undefined
    if (referred === undefined) return missing
    own.push(referred)
  }
  const all = [...before, ...own]
  const text = JSON.stringify(all)
  if (text.length > CONVERSATION_CHARS_MAX) {
    const message = `The conversation has ${text.length} characters; at most ${CONVERSATION_CHARS_MAX} are kept. Begin a new one.`
    return err({
      code: 'request_too_large',
      message,
      param: previousId === undefined ? 'input' : 'previous_response_id',
    })
  }
  return ok({ items: all, own: own.length, text })
}

const NOT_FOUND: Failure = { code: 'not_found', message: 'There is no such response.' }

function previousFailure(failure: Failure, id: string): Failure {
  const param = 'previous_response_id'
  if (failure.code !== 'not_found') return { ...failure, param }
  return { code: 'not_found', message: `Previous response with id '${id.slice(0, 100)}' not found.`, param }
}

/** All items of a stored response, its own output last. */
async function loadConversation(name: string, owner: Owner, env: Env): Promise<Result<ResponseInputItem[], Failure>> {
  const found = await reachRuns(env, owner, name, (runs) => runs.conversation(name, owner))
  if (!found.ok) return found
  const { status, output } = parseStored(found.value.response, StoredOutput, 'a run')
  if (status !== 'completed' && status !== 'incomplete') {
    return err({ code: 'conflict', message: `That response is ${status}: there is nothing to continue.` })
  }
  return ok([...parseStored(found.value.items, StoredItems, 'a run'), ...output])
}

type ItemPage = { limit: number; order: 'asc' | 'desc'; after: string | undefined }

/** One page of the items a response was made of. @returns undefined where `after` is none of them. */
export function listItems(text: string, { limit, order, after }: ItemPage) {
  const items = parseStored(text, StoredItems, 'a run').map(listed)
  if (order === 'desc') items.reverse()
  const from = after === undefined ? 0 : items.findIndex(({ id }) => id === after) + 1
  if (after !== undefined && from === 0) return undefined
  const data = items.slice(from, from + limit)
  return {
    object: 'list' as const,
    data,
    first_id: data[0]?.id ?? null,
    last_id: data.at(-1)?.id ?? null,
    has_more: from + data.length < items.length,
  }
}

/** The item in its full form, as official clients know it. */
function listed(item: ResponseInputItem): ResponseListedItem {
  const status = item.status ?? 'completed'
  const id = item.id ?? ''
  switch (item.type) {
    case 'message': {
      const { role, content } = item
      const parts: Exclude<typeof content, string> =
        typeof content === 'string'
          ? [{ type: role === 'assistant' ? 'output_text' : 'input_text', text: content }]
          : content
      const full = parts.map((part) => {
        if (part.type === 'output_text') return { ...part, annotations: [], logprobs: [] }
        return part.type === 'input_image' ? { ...part, detail: part.detail ?? 'auto' } : part
      })
      return { id, type: 'message', role, content: full, status }
    }
    case 'function_call':
    case 'function_call_output':
      return { ...item, id, status }
    case 'reasoning':
      return { ...item, id, summary: item.summary ?? [] }
    default:
      return item satisfies never
  }
}
