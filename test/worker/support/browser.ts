// A browser as the gateway sees it: keeps cookies by their rules, names its origin with each change, follows no redirects by
// itself. Owns the jar; pages are not run.
import { env } from 'cloudflare:test'
import { Hono } from 'hono'
import type { AdminEnv } from '../../../gateway/admin/context.ts'
import { adminApp } from '../../../gateway/admin/index.ts'
import { dashboardRoutes } from '../../../gateway/dashboard/routes.ts'
import type { Env } from '../../../gateway/env.ts'
import type { Fetch } from '../../../gateway/policy/reach.ts'
import { type Answer, admin, type Json } from './admin.ts'

export type Sent = { body?: unknown; headers?: Record<string, string | undefined>; raw?: string }

export class Browser {
  readonly origin: string
  readonly jar = new Map<string, string>()
  /** As the gateway set them, the last one of each name. */
  readonly setCookies = new Map<string, string>()
  readonly #app: Hono<AdminEnv>
  readonly #env: Env

  constructor(options: { origin?: string; fetch?: Fetch; env?: Env } = {}) {
    this.origin = options.origin ?? 'https://gateway.test'
    this.#env = options.env ?? env
    this.#app = new Hono<AdminEnv>()
      .use(async (c, next) => {
        c.set('requestId', crypto.randomUUID())
        await next()
      })
      .route('/admin/v1', adminApp)
      .route('/', dashboardRoutes(options.fetch))
  }

  /** A request of a page of this gateway; headers that are undefined are left out. */
  async send(method: string, path: string, { body, headers = {}, raw }: Sent = {}): Promise<Answer> {
    const cookie = [...this.jar].map(([name, value]) => `${name}=${value}`).join('; ')
    const named: Record<string, string | undefined> = {
      ...(cookie !== '' && { cookie }),
      ...(method !== 'GET' && { origin: this.origin, 'content-type': 'application/json' }),
      ...headers,
    }
    const init: RequestInit = { method, headers: {}, redirect: 'manual' }
    const text = raw ?? (body === undefined ? undefined : JSON.stringify(body))
    if (text !== undefined) init.body = text
    const sent = new Headers()
    for (const [name, value] of Object.entries(named)) if (value !== undefined) sent.set(name, value)
    init.headers = sent
    const response = await this.#app.request(`${this.origin}${path}`, init, this.#env)
    for (const line of response.headers.getSetCookie()) this.#keep(line)
    const answered = await response.text()
    const json: Json = answered.startsWith('{') ? JSON.parse(answered) : undefined
    return { status: response.status, body: json, headers: response.headers, text: answered }
  }

  #keep(line: string): void {
    const [pair = '', ...attributes] = line.split(/; */)
    const at = pair.indexOf('=')
    const [name, value] = [pair.slice(0, at), pair.slice(at + 1)]
    const secure = attributes.includes('Secure')
    if (secure && !this.origin.startsWith('https://')) return
    if (name.startsWith('__Host-') && (!secure || !attributes.includes('Path=/') || /;\s*domain=/i.test(line))) return
    this.setCookies.set(name, line)
    if (attributes.includes('Max-Age=0')) this.jar.delete(name)
    else this.jar.set(name, value)
  }

  /** Whoever the session is of. */
  session = (): Promise<Answer> => this.send('GET', '/admin/v1/session')

  /** A change as the pages make it: with the proof that one of them makes it. */
  async change(method: string, path: string, body?: unknown): Promise<Answer> {
    const { csrf } = (await this.session()).body
    return this.send(method, `/admin/v1${path}`, { body, headers: { 'x-penstock-csrf': csrf } })
  }

  /** As somebody who reads whom the link is for, and goes on. */
  redeem = (code: string, more: object = { confirm: true }): Promise<Answer> =>
    this.send('POST', '/dashboard/session', { body: { code, ...more } })

  get cookie(): string | undefined {
    return this.jar.get('__Host-penstock-session')
  }
}

/** The code of a new link; without a user the operator's. */
export async function newCode(user?: { org_id: string; user_id: string }, token?: string): Promise<string> {
  const made = await admin('POST', '/sign-in-links', user ?? {}, token === undefined ? {} : { token })
  if (made.status !== 201) throw new Error(`no link was made: ${made.text}`)
  return String(made.body.url).split('#code=')[1] ?? ''
}

/** A browser that is signed in by a link. */
export async function signedIn(user?: { org_id: string; user_id: string }): Promise<Browser> {
  const browser = new Browser()
  const answer = await browser.redeem(await newCode(user))
  if (answer.status !== 200) throw new Error(`not signed in: ${answer.text}`)
  return browser
}
