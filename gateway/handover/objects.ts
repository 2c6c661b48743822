// The Durable Objects as requests reach them: here, or after a handover in the process that follows. Owns the way there and back; who
// has them is life.ts.
//
// Off Cloudflare one process has the objects' files. While a gateway is replaced, the old one still serves its open streams, which
// have to be settled: their calls of objects travel to the next process over the socket that callers come in by.
import * as z from 'zod'
import { HANDOVER_HEADER, OBJECTS_PATH } from '../../protocol/handover.ts'
import { late } from '../../protocol/late.ts'
import type { Env } from '../env.ts'
import { life } from './life.ts'
import { packed, unpacked } from './packed.ts'

/** The next process needs a second or two to come up. */
const ABSENT_MAX_MS = 30_000
const RETRY_MS = 50
/** Longer than any call of an object takes. */
const CALL_MAX_MS = 30_000

const NAMESPACES = ['ACCOUNT', 'FLEET', 'DIRECTORY', 'ANSWER_CACHE', 'RUNS', 'DATABASE_POOL'] as const
type Namespace = (typeof NAMESPACES)[number]

/** Calls that wait for something to happen: a handover does not wait for them, they are made again. */
const WAITING = new Set(['follow'])

const Asked = late(() =>
  z.object({
    namespace: z.enum(NAMESPACES),
    name: z.string().max(1000),
    method: z.string().regex(/^[a-z][A-Za-z]{1,60}$/),
    args: z.string(),
  }),
)
type Asked = Omit<z.infer<typeof Asked>, 'args'> & { args: unknown[] }
const Answered = late(() => z.union([z.object({ value: z.string() }), z.object({ threw: z.string() })]))

type Methods = Record<string, ((...args: unknown[]) => Promise<unknown>) | undefined>

let wrapped: { real: Env; env: Env } | undefined

/** The bindings, with objects that can be left to another process. */
export function reachable(real: Env): Env {
  if (wrapped?.real !== real) {
    const env = { ...real }
    for (const namespace of NAMESPACES) {
      Object.assign(env, { [namespace]: { getByName: (name: string) => stub(real, namespace, name) } })
    }
    wrapped = { real, env }
  }
  return wrapped.env
}

function stub(real: Env, namespace: Namespace, name: string): unknown {
  return new Proxy(
    {},
    {
      get: (_, method) =>
        // No promise: it may be returned from an async function.
        typeof method !== 'string' || method === 'then'
          ? undefined
          : (...args: unknown[]) => reach(real, { namespace, name, method, args }),
    },
  )
}

async function reach(real: Env, asked: Asked): Promise<unknown> {
  if (life.leaving === undefined) {
    try {
      return await (WAITING.has(asked.method) ? here(real, asked) : life.counted(() => here(real, asked)))
    } catch (error) {
      // Broken off by the handover, or begun too late for it.
      if (life.leaving === undefined || !mayRepeat(asked)) throw error
    }
  }
  return await there(real, asked)
}

async function here(real: Env, { namespace, name, method, args }: Asked): Promise<unknown> {
  // A fresh stub each time: one that has seen an exception may stay broken.
  const object = real[namespace].getByName(name) as unknown as Methods
  return await object[method]?.(...args)
}

/** Asks the next process, for as long as it may take to come up. */
async function there(real: Env, asked: Asked): Promise<unknown> {
  const body = JSON.stringify({ ...asked, args: packed(asked.args) })
  const untilMs = Date.now() + ABSENT_MAX_MS
  for (;;) {
    const { origin } = life.leaving ?? { origin: '' }
    let failure = 'it does not answer'
    try {
      const response = await fetch(`${origin}${OBJECTS_PATH}`, {
        method: 'POST',
        headers: { [HANDOVER_HEADER]: real.HANDOVER_KEY ?? '', 'content-type': 'application/json' },
        body,
        signal: AbortSignal.timeout(CALL_MAX_MS),
      })
      const text = await response.text()
      if (response.status === 200) {
        const answered = Answered.parse(JSON.parse(text))
        if ('threw' in answered) throw new Thrown(answered.threw)
        return unpacked(answered.value)
      }
      failure = `it answers ${response.status}`
    } catch (error) {
      if (error instanceof Thrown) throw new Error(error.message)
      if (!mayRepeat(asked)) throw error
      failure = String(error)
    }
    if (Date.now() >= untilMs) throw new Error(`the gateway that follows this one cannot be reached: ${failure}`)
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS))
  }
}

/** By the object itself. */
class Thrown extends Error {
  override name = 'Thrown'
}

/** Objects take a call that comes twice for one; of a statement that writes, that is not known. */
function mayRepeat({ namespace, args }: Asked): boolean {
  if (namespace !== 'DATABASE_POOL') return true
  const statements = args
    .flat()
    .filter((arg): arg is { text: string } => typeof arg === 'object' && arg !== null && 'text' in arg)
  return statements.length > 0 && statements.every(({ text }) => /^\s*SELECT\b/i.test(text))
}

/** A call of the process that left, by whom the key was checked. */
export async function serveObject(request: Request, real: Env): Promise<Response> {
  // Asked by itself, over a socket that the next process does not serve yet.
  if (life.leaving !== undefined) return new Response(null, { status: 503, headers: { connection: 'close' } })
  const { args, ...rest } = Asked.parse(await request.json())
  const asked: Asked = { ...rest, args: unpacked(args) as unknown[] }
  try {
    const value = await (WAITING.has(asked.method) ? here(real, asked) : life.counted(() => here(real, asked)))
    return Response.json({ value: packed(value) })
  } catch (error) {
    // Broken off by a further handover: for the process after this one.
    if (life.leaving !== undefined && mayRepeat(asked))
      return new Response(null, { status: 503, headers: { connection: 'close' } })
    return Response.json({ threw: error instanceof Error ? error.message : String(error) })
  }
}
