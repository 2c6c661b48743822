// Whether a request is answered from the cache, and whether its answer goes there. Owns what keys and headers say of it.
// A convenience: where the cache fails or is slow the request goes on without, and nothing is refused for its sake.
import type { Failure } from '../../protocol/errors.ts'
import { choiceCount } from '../../protocol/request.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import type { Job } from '../attempts/job.ts'
import { withPatience } from '../db/patience.ts'
import { errorText, log } from '../observe/log.ts'
import { findPlan } from '../policy/catalog.ts'
import { ANSWER_BYTES_MAX, answerCacheName } from './answer-cache.ts'
import { answerKey } from './answer-key.ts'
import { CachedAnswer, cacheTarget } from './cached-answer.ts'
import { AnswerRecorder } from './recorder.ts'
import { decodeAnswer, encodeAnswer, type StoredAnswer } from './stored-answer.ts'

const MODE_HEADER = 'x-penstock-cache'
const TTL_HEADER = 'x-penstock-cache-ttl-s'
/** `use`: a kept answer where there is one. `refresh`: a new answer, kept in place of the old one. `off`: neither. */
const MODES = ['use', 'refresh', 'off'] as const
type Mode = (typeof MODES)[number]

type Wish = { mode: Mode; ttlMs: number | undefined }

/**
 * The call with its kept answer, or with a filter that keeps the one to come; unchanged where its key or its header says
 * that the cache is off.
 * @returns Failure `invalid_request` for a header that says neither of these.
 */
export async function prepareCache<C extends Job>(call: C, headers: Headers): Promise<Result<C, Failure>> {
  const wish = readWish(headers)
  if (!wish.ok) return wish
  const { mode, ttlMs: asked } = wish.value
  const { cacheTtlMs } = call.principal
  if (cacheTtlMs === undefined || mode === 'off') return ok(call)
  const ttlMs = Math.min(cacheTtlMs, asked ?? cacheTtlMs)
  const { principal, request, env, ports } = call
  const plan = await findPlan(principal, request.model, env, ports.nowMs())
  // Why it may not be served is told by the one that serves it.
  if (!plan.ok) return ok(call)
  const key = await answerKey(principal, plan.value.targets, request, headers)
  const found = mode === 'use' ? await find(call, key, ttlMs) : undefined
  if (found !== undefined) {
    const { answer, ageMs } = found
    const said = { [MODE_HEADER]: 'hit', age: String(Math.max(0, Math.floor(ageMs / 1000))) }
    const cached = { target: cacheTarget(call.request.model), provider: new CachedAnswer(answer) }
    return ok({ ...call, cached, answerHeaders: { ...call.answerHeaders, ...said } })
  }
  const recorder = () =>
    new AnswerRecorder({
      choices: choiceCount(call.request),
      // Without a bound of the caller's it is the target that cut the answer, and another may not.
      mayBeCut: call.request.maxOutputTokens !== undefined,
      charsMax: ANSWER_BYTES_MAX,
      keep: (answer) => call.waitUntil(keep(call, key, answer, ttlMs)),
    })
  const said = { [MODE_HEADER]: mode === 'use' ? 'miss' : 'refresh' }
  return ok({
    ...call,
    filters: [...(call.filters ?? []), recorder],
    answerHeaders: { ...call.answerHeaders, ...said },
  })
}

function readWish(headers: Headers): Result<Wish, Failure> {
  const refuse = (param: string, message: string) => err<Failure>({ code: 'invalid_request', message, param })
  const word = headers.get(MODE_HEADER) ?? 'use'
  const mode = MODES.find((one) => one === word)
  if (mode === undefined) return refuse(MODE_HEADER, `The header ${MODE_HEADER} must be one of ${MODES.join(', ')}.`)
  const text = headers.get(TTL_HEADER)
  if (text === null) return ok({ mode, ttlMs: undefined })
  const seconds = /^\d{1,9}$/.test(text) ? Number(text) : 0
  if (seconds < 1) return refuse(TTL_HEADER, `The header ${TTL_HEADER} must be a positive number of seconds.`)
  return ok({ mode, ttlMs: seconds * 1000 })
}

/** The answer that is kept under the key, where it is young enough and comes in time. */
async function find(
  call: Job,
  key: string,
  ageMaxMs: number,
): Promise<{ answer: StoredAnswer; ageMs: number } | undefined> {
  const nowMs = call.ports.nowMs()
  try {
    const finding = cacheOf(call, key).find(key, nowMs, ageMaxMs)
    const found = await withPatience(finding, call.ports.timings.cacheMs)
    if (found === undefined) {
      log('warn', 'answer_cache_late', { requestId: call.requestId })
      return undefined
    }
    if (found.value === undefined) return undefined
    const { answer, storedAtMs } = found.value
    return { answer: decodeAnswer(answer), ageMs: nowMs - storedAtMs }
  } catch (error) {
    log('warn', 'answer_cache_failed', { requestId: call.requestId, error: errorText(error) })
    return undefined
  }
}

async function keep(call: Job, key: string, answer: StoredAnswer, ttlMs: number): Promise<void> {
  try {
    await cacheOf(call, key).keep(key, encodeAnswer(answer), call.ports.nowMs(), ttlMs)
  } catch (error) {
    log('warn', 'answer_not_kept', { requestId: call.requestId, error: errorText(error) })
  }
}

const cacheOf = ({ env, principal }: Job, key: string) =>
  env.ANSWER_CACHE.getByName(answerCacheName(principal.orgId, key))
