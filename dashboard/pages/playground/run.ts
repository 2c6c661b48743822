// Calls of /v1 from the playground. Owns the request and the reading of its answer, piece by piece; the key is given for each call and
// goes nowhere else.
import { type Answer, begun, failed, type Head, isOver, stopped, takeEvents, withEvent } from './answer.ts'

/** As long as the gateway serves any request. */
const DEADLINE_MS = 600_000
/** Of a list or a short refusal. */
const SHORT_DEADLINE_MS = 15_000

export type Parameters = {
  system: string
  temperature: string
  topP: string
  maxTokens: string
  seed: string
  stop: string
  json: boolean
}
export type Message = { role: 'system' | 'user' | 'assistant'; content: string }

/** The body of the call; fields that are empty are left out: the model's own default holds. */
export function bodyOf(model: string, messages: readonly Message[], parameters: Parameters): Record<string, unknown> {
  const number = (name: string, text: string) => (text.trim() === '' ? {} : { [name]: Number(text) })
  const stops = parameters.stop.split(/\n/).filter((one) => one !== '')
  return {
    model,
    messages,
    ...number('temperature', parameters.temperature),
    ...number('top_p', parameters.topP),
    ...number('max_completion_tokens', parameters.maxTokens),
    ...number('seed', parameters.seed),
    ...(stops.length === 0 ? {} : { stop: stops }),
    ...(parameters.json ? { response_format: { type: 'json_object' } } : {}),
    stream: true,
    stream_options: { include_usage: true },
  }
}

/** Streams one answer. Never throws: what goes wrong is the answer's failure. @param tell is given each state of it */
export async function run(
  key: string,
  body: Record<string, unknown>,
  signal: AbortSignal,
  tell: (answer: Answer) => void,
): Promise<Answer> {
  const nowMs = () => performance.now()
  let answer = begun(String(body.model), nowMs())
  const say = (next: Answer) => {
    answer = next
    tell(answer)
  }
  say(answer)
  const deadline = AbortSignal.timeout(DEADLINE_MS)
  try {
    const response = await fetch('/v1/chat/completions', {
      method: 'POST',
      // The session's cookie is the admin API's.
      credentials: 'omit',
      headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
      body: JSON.stringify(body),
      signal: AbortSignal.any([signal, deadline]),
    })
    say({ ...answer, head: headOf(response.headers) })
    if (!response.ok || response.body === null) say(failed(answer, await refusalOf(response), nowMs()))
    else {
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
      let buffer = ''
      while (!isOver(answer)) {
        const { done, value } = await reader.read()
        if (done) break
        const taken = takeEvents(buffer + value)
        buffer = taken.rest
        const atMs = nowMs()
        say(taken.events.reduce((so, data) => withEvent(so, data, atMs), answer))
      }
      if (!isOver(answer)) say(failed(answer, 'The stream broke off before its end.', nowMs()))
      await reader.cancel()
    }
  } catch {
    if (isOver(answer)) return answer
    if (signal.aborted) say(stopped(answer, nowMs()))
    else {
      const words = deadline.aborted
        ? 'No end within ten minutes.'
        : 'The gateway cannot be reached, or the stream broke off.'
      say(failed(answer, words, nowMs()))
    }
  }
  return answer
}

function headOf(headers: Headers): Head {
  const word = (name: string) => headers.get(name) ?? undefined
  return {
    requestId: word('x-request-id'),
    target: word('x-penstock-target'),
    attempts: word('x-penstock-attempts'),
    route: word('x-penstock-route'),
    cache: word('x-penstock-cache'),
    warning: word('x-penstock-limit-warning'),
  }
}

async function refusalOf(response: Response): Promise<string> {
  try {
    const { error } = (await response.json()) as { error?: { message?: string } }
    return error?.message ?? `The gateway answered ${response.status}.`
  } catch {
    return `The gateway answered ${response.status}.`
  }
}

/** Names of the models that the key may use. @throws Error in the gateway's words */
export async function modelsOf(key: string, signal: AbortSignal): Promise<string[]> {
  const response = await fetch('/v1/models', {
    credentials: 'omit',
    headers: { authorization: `Bearer ${key}` },
    signal: AbortSignal.any([signal, AbortSignal.timeout(SHORT_DEADLINE_MS)]),
  })
  if (!response.ok) throw new Error(await refusalOf(response))
  const { data } = (await response.json()) as { data: { id: string }[] }
  return data.map(({ id }) => id).sort((a, b) => a.localeCompare(b))
}
