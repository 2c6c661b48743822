// Calls the admin API inside workerd, and makes the tenants that tests need. Names are new in each call: the tests of
// one run share a database.
import { env } from 'cloudflare:test'
import type { ReserveAsk, Subject } from '../../../gateway/account/contract.ts'
import { adminApp } from '../../../gateway/admin/index.ts'
import { type AuthOptions, authenticate } from '../../../gateway/auth/authenticate.ts'
import type { Env } from '../../../gateway/env.ts'

// biome-ignore lint/suspicious/noExplicitAny: answers are JSON of many shapes, which the assertions check
export type Json = any
export type Answer = { status: number; body: Json; headers: Headers; text: string }

export async function admin(
  method: string,
  path: string,
  body?: unknown,
  options: { token?: string | undefined; env?: Env; raw?: string } = {},
): Promise<Answer> {
  const token = 'token' in options ? options.token : env.ADMIN_TOKEN
  const text = options.raw ?? (body === undefined ? undefined : JSON.stringify(body))
  const response = await adminApp.request(
    path,
    {
      method,
      headers: {
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
        'content-type': 'application/json',
      },
      ...(text === undefined ? {} : { body: text }),
    },
    options.env ?? env,
  )
  // A stream of events ends minutes later: that it began is the answer.
  const isStream = response.headers.get('content-type')?.startsWith('text/event-stream') === true
  if (isStream) await response.body?.cancel()
  const answered = isStream ? '' : await response.text()
  const json: Json = answered.startsWith('{') ? JSON.parse(answered) : undefined
  return { status: response.status, body: json, headers: response.headers, text: answered }
}

let names = 0
/** A slug that no other test uses. */
export const newName = (stem: string) => `${stem}-${(names++).toString(36)}-${crypto.randomUUID().slice(0, 8)}`

export type Tenant = { orgId: string; projectId: string; keyId: string; key: string }

/** An organisation with a project and a key. */
export async function newTenant(key: Record<string, unknown> = {}): Promise<Tenant> {
  const slug = newName('org')
  let founded = await admin('POST', '/organisations', { slug })
  // As a client does that is told to come back: a busy machine may take its time to open the first connection.
  for (let turn = 0; founded.status === 503 && turn < 5; turn++)
    founded = await admin('POST', '/organisations', { slug })
  if (founded.status !== 201) throw new Error(`no organisation was made: ${founded.text}`)
  const org = founded.body
  const project = (await admin('POST', `/organisations/${org.id}/projects`, { slug: 'main' })).body
  const made = await admin('POST', `/organisations/${org.id}/keys`, { project_id: project.id, name: 'test', ...key })
  if (made.status !== 201) throw new Error(`no key was made: ${made.text}`)
  return { orgId: org.id, projectId: project.id, keyId: made.body.id, key: made.body.key }
}

/** What a first attempt asks of an account, worth nothing. */
export function newAsk(subject: Subject): ReserveAsk {
  const startedAtMs = Date.now()
  return {
    ...subject,
    requestId: crypto.randomUUID(),
    attempt: 1,
    modelRequested: 'm',
    provider: 'fleet',
    modelServed: 'm',
    estimate: { inputTokens: 1, outputTokens: 1, calls: 0 },
    price: undefined,
    startedAtMs,
    deadlineAtMs: startedAtMs + 10_000,
    stream: false,
  }
}

/** Authenticates a key or a token as a request would; background work is awaited. */
export async function present(key: string, nowMs = Date.now(), on: Env = env, options: AuthOptions = {}) {
  const background: Promise<unknown>[] = []
  const headers = new Headers({ authorization: `Bearer ${key}` })
  const result = await authenticate(headers, on, nowMs, (work) => background.push(work), options)
  await Promise.all(background)
  return result
}

/** The test's bindings with a database that refuses every connection. */
export function withoutDatabase(): Env {
  const refuse = async () => ({ outcome: 'unavailable', message: 'cannot reach Postgres at 127.0.0.1' })
  const pools = { getByName: () => ({ run: refuse, batch: refuse }) }
  return { ...env, DATABASE_POOL: pools as unknown as Env['DATABASE_POOL'] }
}
