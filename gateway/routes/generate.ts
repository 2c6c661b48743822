// The routes that compute, each with its dialect. Owns the table; reading a request is call.ts, the rest of its life
// lifecycle.ts.
import { type Context, Hono } from 'hono'
import type { Failure } from '../../protocol/errors.ts'
import { ok } from '../../protocol/result.ts'
import { Lanes } from '../account/lane.ts'
import { DEFAULT_TIMINGS, type Ports, type Timings } from '../attempts.ts'
import { failureResponse } from '../errors.ts'
import { serve } from '../lifecycle.ts'
import { systemFetch } from '../outbound.ts'
import { BackendProvider } from '../providers/backend.ts'
import { Health } from '../routing/health.ts'
import { MAX_JSON_TOKEN_VALUES, MAX_JSON_VALUES } from './body.ts'
import { type Dialect, readCall } from './call.ts'
import { ChatAnswer } from './chat-answer.ts'
import { CompletionAnswer } from './completion-answer.ts'
import type { AppEnv } from './context.ts'
import { countRoutes } from './count-tokens.ts'
import { EmbeddingAnswer } from './embedding-answer.ts'
import { MessagesAnswer } from './messages-answer.ts'
import { parseMessages } from './messages-requests.ts'
import { parseChat, parseCompletion, parseEmbedding } from './openai-requests.ts'
import { prepare } from './preparation.ts'
import { nameOfRun, resumableStream, wantsResumable } from './streams.ts'

const chat: Dialect = {
  errors: 'openai',
  valuesMax: MAX_JSON_VALUES,
  parse: parseChat,
  stream: 'chat',
  encoder: (meta) => new ChatAnswer(meta),
}

const completion: Dialect = {
  errors: 'openai',
  valuesMax: MAX_JSON_TOKEN_VALUES,
  parse: parseCompletion,
  stream: 'completions',
  encoder: (meta) => new CompletionAnswer(meta),
}

const embedding: Dialect = {
  errors: 'openai',
  valuesMax: MAX_JSON_TOKEN_VALUES,
  parse: parseEmbedding,
  encoder: (meta) => new EmbeddingAnswer(meta),
}

const messages: Dialect = {
  errors: 'messages',
  valuesMax: MAX_JSON_VALUES,
  parse: parseMessages,
  stream: 'messages',
  encoder: (meta) => new MessagesAnswer(meta),
}

/** The world as it is. One of each per app: snapshot, in-flight counts and lanes serve the whole isolate. */
export function systemPorts(timings: Partial<Timings> = {}): Ports {
  return {
    fetch: systemFetch,
    nowMs: () => Date.now(),
    random: () => Math.random(),
    newId: () => crypto.randomUUID(),
    sleep: (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
    timings: { ...DEFAULT_TIMINGS, ...timings },
    fleet: new BackendProvider(),
    lanes: new Lanes(),
    health: new Health(),
  }
}

async function generate(c: Context<AppEnv>, dialect: Dialect, ports: Ports): Promise<Response> {
  const call = await readCall(c, dialect, ports)
  if (!call.ok) return call.error
  const { requestId, isStream, meta } = call.value
  const { headers } = c.req.raw
  const refused = (failure: Failure) => failureResponse(failure, requestId, { dialect: dialect.errors })
  const resumable = isStream && dialect.stream !== undefined ? wantsResumable(headers) : ok(false)
  if (!resumable.ok) return refused(resumable.error)
  const prepared = await prepare(call.value, headers, { mayCache: !resumable.value })
  if (!prepared.ok) return refused(prepared.error)
  if (resumable.value && dialect.stream !== undefined) {
    const stream = { dialect: dialect.stream, meta }
    return resumableStream(c, prepared.value, { name: nameOfRun(prepared.value), stream, items: '' })
  }
  const serving = serve(prepared.value)
  // A client that leaves ends this handler; what was begun must still be settled.
  prepared.value.waitUntil(serving.catch(() => {}))
  return serving
}

export const generateRoutes = (ports: Ports) =>
  new Hono<AppEnv>()
    .post('/v1/chat/completions', (c) => generate(c, chat, ports))
    .post('/v1/completions', (c) => generate(c, completion, ports))
    .post('/v1/embeddings', (c) => generate(c, embedding, ports))
    .post('/v1/messages', (c) => generate(c, messages, ports))
    .route('/', countRoutes(ports))
