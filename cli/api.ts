// The admin API and the inference API as commands use them. Owns requests, their bound on time, one repetition of what is safe to
// repeat, and dry runs: a change that is only talked about never leaves this file.
import { setTimeout as sleep } from 'node:timers/promises'
import { z } from 'zod'
import type { Access } from './access.ts'
import { CliFailure, EXIT, failureOf } from './failure.ts'

const REQUEST_TIMEOUT_MS = 30_000
/** A gateway that is being restarted is back by then. */
const REPEAT_AFTER_MS = 500
/** Pages of a list that is asked for as a whole. */
const PAGES_MAX = 200
const PAGE_LIMIT = 200

export type Method = 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'
/** A change that was asked for with --dry-run, as it would have been sent. */
export type Unsent = { method: Method; path: string; body?: unknown }

const Page = z.object({ data: z.array(z.unknown()), next_cursor: z.string().optional() })

export class Api {
  readonly #access: Access
  readonly #fetch: typeof fetch
  readonly isDryRun: boolean

  constructor(access: Access, options: { isDryRun: boolean; fetch?: typeof fetch }) {
    this.#access = access
    this.isDryRun = options.isDryRun
    this.#fetch = options.fetch ?? fetch
  }

  get url(): string {
    return this.#access.url
  }

  /** Reads. `path` follows /admin/v1; absent parameters are left out. @throws CliFailure */
  async get<T>(path: string, shape: z.ZodType<T>, query: Query = {}): Promise<T> {
    return checked(shape, await (await this.send('GET', `/admin/v1${path}${queryText(query)}`)).text(), path)
  }

  /** A whole list, page by page. @throws CliFailure */
  async list<T>(path: string, shape: z.ZodType<T>, query: Query = {}): Promise<T[]> {
    const all: T[] = []
    let cursor: string | undefined
    for (let page = 0; page < PAGES_MAX; page++) {
      const answer = await this.get(path, Page, { ...query, limit: String(PAGE_LIMIT), cursor })
      for (const one of answer.data) all.push(checked(shape, JSON.stringify(one), path))
      cursor = answer.next_cursor
      if (cursor === undefined) return all
    }
    throw new CliFailure(EXIT.failed, `${path} has more than ${PAGES_MAX * PAGE_LIMIT} entries.`, {
      hint: 'Narrow it with the filters of the command.',
    })
  }

  /** Changes something, or with --dry-run says what it would send. @throws CliFailure */
  async change<T>(method: Method, path: string, shape: z.ZodType<T>, body?: unknown): Promise<T | Unsent> {
    if (this.isDryRun) return { method, path: `/admin/v1${path}`, ...(body !== undefined && { body }) }
    const text = await (await this.send(method, `/admin/v1${path}`, { body })).text()
    return checked(shape, text === '' ? 'null' : text, path)
  }

  /**
   * One request, to any path. Reading is repeated once where the gateway cannot be reached.
   * @param options.token Default: the admin token.
   * @throws CliFailure where it does not succeed
   */
  async send(
    method: Method,
    path: string,
    options: { body?: unknown; token?: string; signal?: AbortSignal; timeoutMs?: number; accept?: string } = {},
  ): Promise<Response> {
    const { body, token = this.#access.token, accept = 'application/json' } = options
    const timeout = AbortSignal.timeout(options.timeoutMs ?? REQUEST_TIMEOUT_MS)
    const init: RequestInit = {
      method,
      headers: {
        authorization: `Bearer ${token}`,
        accept,
        ...(body !== undefined && { 'content-type': 'application/json' }),
      },
      ...(body !== undefined && { body: JSON.stringify(body) }),
      redirect: 'error',
      signal: options.signal === undefined ? timeout : AbortSignal.any([options.signal, timeout]),
    }
    const response = await this.#once(path, init).catch(async (error: unknown) => {
      if (method !== 'GET' || options.signal?.aborted === true) throw error
      await sleep(REPEAT_AFTER_MS)
      return this.#once(path, init)
    })
    if (response.ok) return response
    throw failureOf(response.status, await response.text(), response.headers.get('x-request-id') ?? undefined)
  }

  async #once(path: string, init: RequestInit): Promise<Response> {
    try {
      return await this.#fetch(`${this.#access.url}${path}`, init)
    } catch (error) {
      throw unreachable(this.#access.url, error)
    }
  }
}

export function unreachable(url: string, error: unknown): CliFailure {
  const cause = (error as { cause?: { code?: string; message?: string } }).cause
  const why = cause?.code ?? cause?.message ?? (error as Error).message
  return new CliFailure(EXIT.unavailable, `${url} cannot be reached (${why}).`, {
    code: 'unreachable',
    hint: 'Is it running? `penstock up` starts it; --url says where it is.',
  })
}

export const isUnsent = (answer: unknown): answer is Unsent =>
  typeof answer === 'object' &&
  answer !== null &&
  'method' in answer &&
  'path' in answer &&
  String(answer.path).startsWith('/admin/v1')

export type Query = Readonly<Record<string, string | undefined>>

export function queryText(query: Query): string {
  const parameters = new URLSearchParams()
  for (const [name, value] of Object.entries(query)) if (value !== undefined) parameters.set(name, value)
  return parameters.size === 0 ? '' : `?${parameters}`
}

/** A gateway of another version may say it otherwise: then that is said, rather than shown wrong. */
function checked<T>(shape: z.ZodType<T>, text: string, path: string): T {
  try {
    return shape.parse(JSON.parse(text))
  } catch (error) {
    const where = error instanceof z.ZodError ? error.issues[0]?.path.join('.') : undefined
    throw new CliFailure(
      EXIT.failed,
      `${path} answered in a form that this command does not know${where ? ` (${where})` : ''}.`,
      {
        code: 'unknown_answer',
        hint: 'Use the command line of the same version as the gateway: GET /health says which it is.',
      },
    )
  }
}
