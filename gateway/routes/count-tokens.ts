// POST /v1/messages/count_tokens: how long a prompt is, by the count of the first target that would serve it where its vendor tells
// it, else by a low guess that says so in a header. Owns the route and which target and key it asks; nothing is computed or
// charged for it.
import { type Context, Hono } from 'hono'
import type { Failure } from '../../protocol/errors.ts'
import type { InferenceRequest } from '../../protocol/request.ts'
import { ok, type Result } from '../../protocol/result.ts'
import type { Ports } from '../attempts.ts'
import { DatabaseUnavailable } from '../db/port.ts'
import { failureResponse } from '../errors.ts'
import { hooksFor } from '../guard/hook.ts'
import { findGuards } from '../guard/rules.ts'
import { findPlan, findProvider } from '../policy/catalog.ts'
import type { Plan, ProviderKey, Target } from '../policy/plan.ts'
import { countTokens } from '../providers/token-count.ts'
import { type Hints, parseHints, wantedPlace, withinHints } from '../routing/hints.ts'
import { chooseKey } from '../routing/keys.ts'
import { likelyInputTokens } from '../stream/estimate.ts'
import { MAX_JSON_VALUES } from './body.ts'
import { readJson } from './call.ts'
import type { AppEnv } from './context.ts'
import { inCallersWords, MESSAGES_NAMES } from './field-names.ts'
import { KeyPace } from './key-pace.ts'
import { parseCount } from './messages-requests.ts'

/** Stands on an answer that no tokenizer counted. */
const ESTIMATED_HEADER = 'x-penstock-estimated'
/** Each count takes of the rate that the operator has at a vendor; beyond it a caller gets the estimate. */
const COUNTS = { perMinuteMax: 60, openMax: 4 }

/**
 * Whether content rules stand before this caller's prompts. They run on what is computed; what they have not seen is sent to
 * nobody, and neither where nobody can tell now.
 */
async function isLookedAt(c: Context<AppEnv>, ports: Ports): Promise<boolean> {
  const { orgId, projectId } = c.get('principal')
  const guards = await findGuards(orgId, c.env, ports.nowMs())
  return !guards.ok || hooksFor(guards.value.hooks, 'input', projectId).length > 0
}

/** The first that may answer the caller: none on trial, and none that its hints leave out. */
function targetFor({ targets, policy }: Plan, hints: Hints, { health, nowMs }: Ports): Target | undefined {
  const answering = targets.filter((_, index) => targets.length === 1 || index !== policy.shadow?.target)
  const firstContentMs = (target: Target) => health.firstContentMs(target, nowMs())
  const places = answering.map((target) => ({ target }))
  const { left } = withinHints(places, hints, firstContentMs, true)
  return left
    .map(({ target }) => target)
    .toSorted((one, other) => wantedPlace(one, hints.order) - wantedPlace(other, hints.order))[0]
}

/** By the target's own count; `undefined` where nobody tells it, or the caller has asked too often. */
async function counted(
  c: Context<AppEnv>,
  request: InferenceRequest,
  ports: Ports,
  pace: KeyPace,
): Promise<Result<number | undefined, Failure>> {
  const { fetch, nowMs, health, random } = ports
  const hints = parseHints(c.req.raw.headers)
  if (!hints.ok) return hints
  const plan = await findPlan(c.get('principal'), request.model, c.env, ports.nowMs())
  if (!plan.ok) return plan
  const target = targetFor(plan.value, hints.value, ports)
  if (target === undefined) return ok(undefined)
  const config = await findProvider(target.provider, c.env, ports.nowMs()).catch((error: unknown) => {
    if (error instanceof DatabaseUnavailable) return undefined
    throw error
  })
  if (config === undefined || (await isLookedAt(c, ports))) return ok(undefined)
  const standing = (key: ProviderKey) => health.keyStanding(target.provider, key, target.model, nowMs())
  const choice = chooseKey(config.keys, standing, new Set(), random())
  if (choice === undefined || 'untilMs' in choice) return ok(undefined)
  const end = pace.begin(c.get('principal').keyId, nowMs())
  if (end === undefined) return ok(undefined)
  const context = { key: choice.key, fetch, nowMs, requestId: c.get('requestId') }
  return countTokens(request, target, config, context).finally(end)
}

export function countRoutes(ports: Ports) {
  const pace = new KeyPace(COUNTS)
  return new Hono<AppEnv>().post('/v1/messages/count_tokens', async (c) => {
    const refused = (failure: Failure) => failureResponse(failure, c.get('requestId'), { dialect: 'messages' })
    const body = await readJson(c, MAX_JSON_VALUES, ports.timings.deadlineMs)
    if (!body.ok) return refused(body.error)
    const request = parseCount(body.value.json)
    if (!request.ok) return refused(request.error)
    const tokens = await counted(c, request.value, ports, pace)
    if (!tokens.ok) return refused(inCallersWords(tokens.error, MESSAGES_NAMES))
    if (tokens.value !== undefined) return c.json({ input_tokens: tokens.value })
    return c.json({ input_tokens: likelyInputTokens(request.value) }, 200, { [ESTIMATED_HEADER]: 'true' })
  })
}
