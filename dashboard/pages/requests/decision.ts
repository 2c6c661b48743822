// Why an attempt was made where it was, in sentences. Owns the words for the facts of a route. ○ Pure.
import { count, duration } from '../../app/format.ts'
import type { RouteFacts } from '../../app/wire.ts'

export const ROLE_WORDS: Readonly<Record<RouteFacts['role'], string>> = {
  primary: 'first choice',
  cache: 'response cache',
  fallback: 'fallback',
  retry: 'retry',
  hedge: 'hedge',
  cascade: 'cascade',
  shadow: 'shadow',
}

const REASONS: Readonly<Record<string, string>> = {
  ordered: 'it stands there in the order of the model',
  weighted: 'the weights drew it',
  cheapest: 'it was the cheapest',
  fastest: 'it was measured to be the fastest',
  least_busy: 'it had the fewest requests under way',
  sticky: 'the conversation was there before',
  canary: 'it is the canary',
  hint: 'the caller asked for it',
  cascade: 'the smaller model comes first',
}

const FAILURES: Readonly<Record<string, string>> = {
  connect: 'no connection came about',
  head_timeout: 'it sent no head of an answer in time',
  first_token_timeout: 'no first token came in time',
  stall: 'it fell silent in the middle',
  broken_off: 'the connection broke off',
  status: 'it answered with an error',
  rate_limited: 'its own limit was reached',
  overloaded: 'it was overloaded',
  credentials: 'it refused our credentials',
  unknown_model: 'it does not know the model',
  in_band: 'it sent an error inside the stream',
  ok_with_error: 'it said 200 and sent an error',
  malformed: 'its answer made no sense',
  content_filter: 'its content rules refused the prompt',
  context_length: 'the prompt is too long for it',
  refused: 'it refused the request',
}

/** @param backend the name of an own machine by its id */
export function decisionText(route: RouteFacts, backend: (id: string) => string): string {
  const sentences: string[] = []
  if (route.role === 'cache') sentences.push('Answered out of the response cache.')
  else {
    const why = route.reason === undefined ? undefined : (REASONS[route.reason] ?? route.reason)
    const turn = route.turn === undefined ? '' : ` as number ${route.turn} of the order`
    sentences.push(`${capital(ROLE_WORDS[route.role])}${turn}${why === undefined ? '' : `: ${why}`}.`)
  }
  if (route.figure !== undefined) sentences.push(`What the strategy compared was ${count(route.figure)}.`)
  if (route.standing !== undefined && route.standing !== 'closed')
    sentences.push(`Its breaker was ${route.standing.replace('_', ' ')}.`)
  if (route.key !== undefined) sentences.push(`With the key ${route.key}.`)
  if (route.waited_ms !== undefined && route.waited_ms > 0)
    sentences.push(`After waiting ${duration(route.waited_ms)}.`)
  if (route.fleet !== undefined) sentences.push(fleetText(route.fleet))
  if (route.escalated !== undefined) sentences.push(`Its answer was passed over: ${route.escalated}.`)
  if (route.kind !== undefined) {
    const again = route.retry_after_ms === undefined ? '' : `; it asked to wait ${duration(route.retry_after_ms)}`
    sentences.push(`It failed: ${FAILURES[route.kind] ?? route.kind}${again}.`)
  }
  for (const { from, reason } of route.moves ?? [])
    sentences.push(`The stream went on elsewhere after ${backend(from)} was lost (${reason.replaceAll('_', ' ')}).`)
  return sentences.join(' ')
}

function fleetText(fleet: NonNullable<RouteFacts['fleet']>): string {
  const cached = fleet.prompt_tokens === 0 ? 0 : fleet.matched_tokens
  const prefill =
    fleet.prefill === undefined
      ? ''
      : fleet.prefill === 'beside'
        ? ', its prompt computed by an engine beside it'
        : ', its prompt computed on another machine'
  return (
    `This machine was predicted to give the first token after ${duration(fleet.ttft_ms)} and one every ${duration(fleet.itl_ms)}, ` +
    `with ${count(cached)} of about ${count(fleet.prompt_tokens)} prompt tokens in its cache and ${count(fleet.load)} requests under way${prefill}.`
  )
}

const capital = (text: string): string => `${text.charAt(0).toUpperCase()}${text.slice(1)}`
