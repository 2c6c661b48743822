// A stored response as the routes and its object see it: owner, names, bounds, times to live. Owns the types and constants that
// both share. Pure.
import type { ResponseInputItem } from '../../protocol/dialects/responses.ts'
import type { Failure } from '../../protocol/errors.ts'
import type { Principal } from '../auth/principal.ts'

/** How long a stored response can be read and continued, from its creation. */
export const RESPONSE_KEPT_MS = 30 * 24 * 3_600_000
/** How long the events of a background response can be read again after its end: long enough for a client that reconnects. */
export const EVENTS_KEPT_MS = 3_600_000
/** How long a stream that its client can come back to can be read again after its end. */
export const STREAM_KEPT_MS = 15 * 60_000
/** Nobody has asked for a stream's events for so long: its client will not come back, and what goes on costs it. */
export const STREAM_UNATTENDED_MS = 120_000
/**
 * Characters of a whole conversation, as JSON, that is continued by reference: no longer than one that fits a request's body.
 * It travels to the object in one call, and a call carries 32 MiB.
 */
export const CONVERSATION_CHARS_MAX = 8 * 1024 * 1024
/** Of the events of one response. Beyond it they are given up and the response goes on: its answer is kept beside them. */
export const EVENTS_CHARS_MAX = 64 * 1024 * 1024
/** Requests that wait for the next event of one response. */
export const FOLLOWERS_MAX = 32

/** Who may read, continue, cancel and delete a response: everybody with a credential of its project. */
export type Owner = {
  orgId: string
  projectId: string
  /** The credential that made it, through all its rotations: for whoever asks the operator where it came from. */
  keyLineId: string
  /** The credential was bound to this customer: another one's has no business here. */
  endUser?: string
}

export function ownerOf(principal: Principal): Owner {
  const { orgId, projectId, keyId, keyLineId = keyId, endUser } = principal
  return { orgId, projectId, keyLineId, ...(endUser === undefined ? {} : { endUser }) }
}

/** A stream is its credential's alone, through all its rotations: whoever began it comes back to it. */
export const mayFollow = (owner: Owner, asking: Owner): boolean =>
  mayRead(owner, asking) && owner.keyLineId === asking.keyLineId

/** A credential that is bound to a customer reads that customer's responses alone; one that is not reads all of the project's. */
export const mayRead = (owner: Owner, asking: Owner): boolean =>
  owner.orgId === asking.orgId &&
  owner.projectId === asking.projectId &&
  (asking.endUser === undefined || asking.endUser === owner.endUser)

export type Kept = {
  owner: Owner
  createdAtMs: number
  /** A ResponseObject as JSON. */
  response: string
  /** The items of its conversation up to its own output, as JSON. */
  items: string
}

export type Followed = {
  /** Events as they are sent, blank lines included; empty where none came in time. */
  text: string
  /** Number of the last of them; what was asked for where there is none. */
  last: number
  /** None will follow. */
  isOver: boolean
}

/** Each with its blank line: JSON has no raw line ends, so nothing else in an event looks like one. */
export const eventsOf = (text: string): string[] => text.split(/(?<=\n\n)/)

/** Behind a number that no event had nothing would come, and look as if all had come: whoever has seen an event finds it. */
export const NO_SUCH_EVENT: Failure = {
  code: 'invalid_request',
  message: 'The header Last-Event-ID must be the id of an event of this stream.',
  param: 'last-event-id',
}

/** A response and what stands before its output. */
export type Conversation = { response: string; items: string }

/** 128 random bits in hex, or as many of the hash of an idempotency key. */
const NAME = '[0-9a-f]{32}'
const RESPONSE_ID = new RegExp(`^resp_(${NAME})$`)
const ITEM_ID = new RegExp(`^[a-z]{2,4}_(${NAME})_i?\\d{1,5}$`)

const ITEM_KINDS = {
  message: 'msg',
  function_call: 'fc',
  function_call_output: 'fco',
  reasoning: 'rs',
} as const satisfies Record<ResponseInputItem['type'], string>

/** Id of an item that a request brought along, the `index`th of its conversation. Those of answers have no `i`. */
export const itemId = (type: ResponseInputItem['type'], name: string, index: number): string =>
  `${ITEM_KINDS[type]}_${name}_i${index}`

/** The name in a response's id; undefined where it is not one of ours. */
export const nameOfResponse = (id: string): string | undefined => RESPONSE_ID.exec(id)?.[1]
const STREAM_ID = new RegExp(`^stream_(${NAME})$`)
export const streamId = (name: string): string => `stream_${name}`
/** The name in a stream's id; undefined where it is not one of ours. */
export const nameOfStream = (id: string): string | undefined => STREAM_ID.exec(id)?.[1]
/** The name of the response that an item came with. */
export const nameOfItem = (id: string): string | undefined => ITEM_ID.exec(id)?.[1]
