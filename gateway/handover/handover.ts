// A gateway process that is replaced by the next one on the same data folder. Owns what the launcher asks of it and in which order
// it lets go: first calls end, then every object closes its file. The streams that are open go on (objects.ts has their way).
import type { DurableObject } from 'cloudflare:workers'
import {
  HANDOVER_HEADER,
  HANDOVER_PATH,
  type HandoverReply,
  HandoverRequest,
  OBJECTS_PATH,
} from '../../protocol/handover.ts'
import type { Env } from '../env.ts'
import { log } from '../observe/log.ts'
import { life, type ObjectPlace } from './life.ts'
import { reachable, serveObject } from './objects.ts'

/** Calls that have not ended by then break off: they are those of a gateway that dies. */
const CALLS_END_MS = 5_000
const LOOK_MS = 10

type Serve = (request: Request, env: Env, context: ExecutionContext) => Response | Promise<Response>

/** The app in a process that can be replaced; anywhere else as it is. */
export function replaceable(serve: Serve): Serve {
  return async (request, env, context) => {
    if (env.HANDOVER_KEY === undefined) return serve(request, env, context)
    const { pathname } = new URL(request.url)
    if (pathname === HANDOVER_PATH || pathname === OBJECTS_PATH) {
      if (!(await isKey(request.headers.get(HANDOVER_HEADER), env.HANDOVER_KEY)))
        return new Response(null, { status: 404 })
      return pathname === OBJECTS_PATH ? serveObject(request, env) : handOver(request, env)
    }
    return serve(request, reachable(env), context)
  }
}

/** Why an instance ends that is closed for the next process. */
const CLOSED = 'handed over to the next process'

/** For an object's constructor: its state, once it is known that the object belongs here. @throws Error where it does not any more */
function owned(namespace: string, ctx: DurableObjectState, env: Env): DurableObjectState {
  if (env.HANDOVER_KEY !== undefined) life.enter({ namespace, id: ctx.id.toString() }, ctx)
  return ctx
}

type ObjectClass<T extends DurableObject> = new (ctx: DurableObjectState, env: Env) => T

/** An object's class with what lets another process take the object over. @param namespace Its binding. */
export function handedOver<T extends DurableObject>(namespace: string, object: ObjectClass<T>) {
  const Base = object as ObjectClass<DurableObject>
  class Handed extends Base {
    constructor(ctx: DurableObjectState, env: Env) {
      super(owned(namespace, ctx, env), env)
    }
    close(): void {
      this.ctx.abort(CLOSED)
    }
  }
  return Handed as unknown as ObjectClass<T & { close(): void }>
}

async function handOver(request: Request, env: Env): Promise<Response> {
  const asked = HandoverRequest.parse(await request.json())
  if (asked.step === 'prepare') life.prepare()
  else await leave(asked, env)
  return Response.json({ runs: life.runs } satisfies HandoverReply)
}

async function leave({ origin, drainMs }: Extract<HandoverRequest, { step: 'leave' }>, env: Env): Promise<void> {
  const { objects } = life
  life.leave({ origin, drainEndsAtMs: Date.now() + drainMs })
  const untilMs = Date.now() + CALLS_END_MS
  while (life.calls > 0 && Date.now() < untilMs) await new Promise((resolve) => setTimeout(resolve, LOOK_MS))
  const cut = life.calls
  // Closing is an exception to whoever asks for it.
  await Promise.all([...objects, ...life.objects].map((place) => close(place, env).catch(() => {})))
  log('info', 'objects_handed_over', { objects: objects.length, callsCut: cut, runsCut: life.runs })
}

async function close({ namespace, id }: ObjectPlace, env: Env): Promise<void> {
  const objects = env[namespace as 'ACCOUNT'] as unknown as DurableObjectNamespace
  const object = objects.get(objects.idFromString(id)) as unknown as { close: () => Promise<void> }
  await object.close()
}

/** In a time that says nothing of the key. */
async function isKey(said: string | null, key: string): Promise<boolean> {
  if (said === null) return false
  const digest = async (text: string) =>
    new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text)))
  const [one, other] = await Promise.all([digest(said), digest(key)])
  return one.every((byte, at) => byte === other[at])
}
