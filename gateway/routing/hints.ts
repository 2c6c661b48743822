// What a caller wants of the choice among a model's targets: request headers. Owns their names and forms, and which targets
// they leave. They choose among what the operator registered and never name a host. Pure.
import type { Failure } from '../../protocol/errors.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import type { Target } from '../policy/plan.ts'
import { isWithin, type PriceBound, parsePriceBound } from '../policy/target-price.ts'

/** Each absent: no wish. Names are `provider` or `provider/model`. */
export type Hints = {
  /** These first, in this order; the others after them as the model's policy says. */
  order?: readonly string[]
  only?: readonly string[]
  ignore?: readonly string[]
  maxPrice?: PriceBound
  /** To the first content, as measured lately; a target that was not is let through. */
  maxLatencyMs?: number
  region?: string
  /** A second target may be asked where the first is silent, and both are paid for. */
  hedge?: boolean
}

const ORDER = 'x-penstock-order'
const ONLY = 'x-penstock-only'
const IGNORE = 'x-penstock-ignore'
const MAX_PRICE = 'x-penstock-max-price'
const MAX_LATENCY = 'x-penstock-max-latency-ms'
const REGION = 'x-penstock-region'
const HEDGE = 'x-penstock-hedge'

/** As many as a model can have targets. */
const NAMES_MAX = 16
const NAME = /^[a-z0-9][a-z0-9-]{0,62}(\/[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127})?$/
const REGION_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/

/** @returns Failure `invalid_request` that names the header. */
export function parseHints(headers: Headers): Result<Hints, Failure> {
  const hints: Hints = {}
  const lists = [
    [ORDER, 'order'],
    [ONLY, 'only'],
    [IGNORE, 'ignore'],
  ] as const
  for (const [header, name] of lists) {
    const text = headers.get(header)
    if (text === null) continue
    const names = text.split(',').map((part) => part.trim())
    if (names.length > NAMES_MAX || !names.every((one) => NAME.test(one)))
      return wrong(header, `up to ${NAMES_MAX} names of providers, or provider/model, with commas between them`)
    hints[name] = names
  }
  const price = headers.get(MAX_PRICE)
  if (price !== null) {
    const bound = parsePriceBound(price)
    if (bound === undefined)
      return wrong(MAX_PRICE, 'USD per million tokens: one decimal for input and output, or in=0.5,out=2')
    hints.maxPrice = bound
  }
  const latency = headers.get(MAX_LATENCY)
  if (latency !== null) {
    if (!/^[1-9]\d{0,6}$/.test(latency)) return wrong(MAX_LATENCY, 'a positive number of milliseconds')
    hints.maxLatencyMs = Number(latency)
  }
  const region = headers.get(REGION)
  if (region !== null) {
    if (!REGION_NAME.test(region)) return wrong(REGION, 'the name of a region')
    hints.region = region
  }
  const hedge = headers.get(HEDGE)
  if (hedge !== null) {
    if (hedge !== 'true' && hedge !== 'false') return wrong(HEDGE, 'true or false')
    hints.hedge = hedge === 'true'
  }
  return ok(hints)
}

const wrong = (header: string, form: string): Result<never, Failure> =>
  err({ code: 'invalid_request', message: `The header ${header} must be ${form}.`, param: header })

/** How a target is called in hints, headers, logs and rows. */
export const targetName = ({ provider, model }: Pick<Target, 'provider' | 'model'>): string => `${provider}/${model}`

const isNamed = (target: Target, name: string): boolean => name === target.provider || name === targetName(target)

/** Place of the first name that means the target; a target nobody named comes after all that were. */
export function wantedPlace(target: Target, order: readonly string[] = []): number {
  const place = order.findIndex((name) => isNamed(target, name))
  return place === -1 ? order.length : place
}

export type Left<T> = { left: T[]; excluded: { target: Target; hint: string }[] }

/**
 * The targets that every hint leaves.
 * @param firstContentMs Expected of a target; undefined: not measured.
 */
export function withinHints<T extends { target: Target }>(
  all: readonly T[],
  hints: Hints,
  firstContentMs: (target: Target) => number | undefined,
  hasOutput: boolean,
): Left<T> {
  const result: Left<T> = { left: [], excluded: [] }
  for (const one of all) {
    const hint = hintAgainst(one.target, hints, firstContentMs, hasOutput)
    if (hint === undefined) result.left.push(one)
    else result.excluded.push({ target: one.target, hint })
  }
  return result
}

function hintAgainst(
  target: Target,
  { only, ignore, maxPrice, maxLatencyMs, region }: Hints,
  firstContentMs: (target: Target) => number | undefined,
  hasOutput: boolean,
): string | undefined {
  if (only?.some((name) => isNamed(target, name)) === false) return ONLY
  if (ignore?.some((name) => isNamed(target, name)) === true) return IGNORE
  if (region !== undefined && target.region?.toLowerCase() !== region.toLowerCase()) return REGION
  if (maxPrice !== undefined && !isWithin(target.price, maxPrice, hasOutput)) return MAX_PRICE
  const expected = maxLatencyMs === undefined ? undefined : firstContentMs(target)
  return expected !== undefined && expected > (maxLatencyMs ?? expected) ? MAX_LATENCY : undefined
}

/** No target is left: which hint took which away. */
export function nothingLeft(model: string, excluded: Left<never>['excluded']): Failure {
  const byHint = new Map<string, string[]>()
  for (const { target, hint } of excluded) byHint.set(hint, [...(byHint.get(hint) ?? []), targetName(target)])
  const reasons = [...byHint].map(([hint, names]) => `${hint} leaves out ${names.join(', ')}`)
  const param = excluded.at(-1)?.hint
  return {
    code: 'invalid_request',
    message: `No target of model '${model}' is within the request's hints: ${reasons.join('; ')}.`,
    ...(param === undefined ? {} : { param }),
  }
}
