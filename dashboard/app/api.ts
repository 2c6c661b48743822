// Calls of the admin API. Owns the request (address, CSRF token, deadline), the reading of its errors as one typed error,
// and what a lost session does. Who is signed in is session.ts.
import { signal } from '@preact/signals'
import type { ErrorBody, Page } from './wire.ts'

const ADMIN = '/admin/v1'
/** Longer than the slowest statement the gateway allows the database. */
const DEADLINE_MS = 30_000
/** Times that one thing is read, and the longest wait between two: somebody looks at the page. */
const READS_MAX = 4
const WAIT_MAX_MS = 5_000
/** Rows of one page of a list: the most that the API gives. */
const PAGE_ROWS_MAX = 200
/** Pages read of a list that is shown whole: 5,000 keys, say. */
const PAGES_MAX = 25

/** Why a call gave nothing: a refusal with the gateway's own words, or no answer at all (`code` is `unreachable`). */
export class ApiError extends Error {
  readonly status: number
  readonly code: string
  /** The field of the request that the refusal is about. */
  readonly param: string | undefined
  readonly requestId: string | undefined
  readonly retryAfterMs: number | undefined

  constructor(
    message: string,
    facts: {
      status: number
      code: string
      param?: string | undefined
      requestId?: string | undefined
      retryAfterMs?: number | undefined
    },
  ) {
    super(message)
    this.name = 'ApiError'
    this.status = facts.status
    this.code = facts.code
    this.param = facts.param
    this.requestId = facts.requestId
    this.retryAfterMs = facts.retryAfterMs
  }
}

/** Set by session.ts; undefined before the session is known. */
export const csrfToken = signal<string | undefined>(undefined)
/** True from the first 401 on, until somebody signs in. */
export const isSignedOut = signal(false)

export type ApiQuery = Readonly<Record<string, string | number | boolean | undefined>>
type Method = 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'

export const withQuery = (path: string, query: ApiQuery = {}): string => {
  const params = new URLSearchParams()
  for (const [name, value] of Object.entries(query)) if (value !== undefined) params.set(name, String(value))
  const text = params.toString()
  return text === '' ? path : `${path}?${text}`
}

/** @param path below /admin/v1, or a path of its own where it begins with /dashboard/. @throws ApiError; AbortError */
async function call<T>(method: Method, path: string, body?: unknown, signal?: AbortSignal): Promise<T> {
  const response = await sendPatiently(method, path, body, signal)
  if (response.status === 204) return undefined as T
  return (await readJson(response)) as T
}

/** Reads are asked again where the gateway says that waiting helps: its database was busy for a moment. */
async function sendPatiently(
  method: Method,
  path: string,
  body: unknown,
  signal: AbortSignal | undefined,
): Promise<Response> {
  for (let turn = 1; ; turn++) {
    try {
      return await send(method, path, body, signal)
    } catch (error) {
      const waitMs = error instanceof ApiError && error.status === 503 ? error.retryAfterMs : undefined
      if (method !== 'GET' || turn >= READS_MAX || waitMs === undefined || waitMs > WAIT_MAX_MS) throw error
      await new Promise((resolve) => setTimeout(resolve, waitMs))
      signal?.throwIfAborted()
    }
  }
}

async function send(method: Method, path: string, body: unknown, signal: AbortSignal | undefined): Promise<Response> {
  const deadline = AbortSignal.timeout(DEADLINE_MS)
  const headers: Record<string, string> = { accept: 'application/json' }
  if (body !== undefined) headers['content-type'] = 'application/json'
  if (method !== 'GET' && csrfToken.value !== undefined) headers['x-penstock-csrf'] = csrfToken.value
  let response: Response
  try {
    response = await fetch(urlOf(path), {
      method,
      headers,
      credentials: 'same-origin',
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      signal: signal === undefined ? deadline : AbortSignal.any([signal, deadline]),
    })
  } catch (error) {
    if (signal?.aborted) throw error
    const message = deadline.aborted
      ? `The gateway did not answer within ${DEADLINE_MS / 1_000} seconds.`
      : 'The gateway cannot be reached.'
    throw new ApiError(message, { status: 0, code: 'unreachable' })
  }
  if (response.ok) return response
  if (response.status === 401 && !path.startsWith('/dashboard/')) isSignedOut.value = true
  throw await errorOf(response)
}

export const urlOf = (path: string): string => (path.startsWith('/dashboard/') ? path : `${ADMIN}${path}`)

async function errorOf(response: Response): Promise<ApiError> {
  const requestId = response.headers.get('x-request-id') ?? undefined
  const retryAfterMs = Number(response.headers.get('retry-after-ms') ?? Number.NaN)
  let error: Partial<ErrorBody['error']> = {}
  try {
    error = ((await response.json()) as Partial<ErrorBody>).error ?? {}
  } catch {
    // Something between us and the gateway answered in its own form.
  }
  return new ApiError(error.message ?? `The gateway answered ${response.status}.`, {
    status: response.status,
    code: error.code ?? 'unknown',
    param: error.param ?? undefined,
    requestId,
    retryAfterMs: Number.isFinite(retryAfterMs) ? retryAfterMs : undefined,
  })
}

async function readJson(response: Response): Promise<unknown> {
  try {
    return await response.json()
  } catch {
    throw new ApiError('The answer of the gateway broke off.', { status: response.status, code: 'unreachable' })
  }
}

export const api = {
  get: <T>(path: string, query?: ApiQuery, signal?: AbortSignal) =>
    call<T>('GET', withQuery(path, query), undefined, signal),
  post: <T>(path: string, body: unknown = {}) => call<T>('POST', path, body),
  put: <T>(path: string, body: unknown = {}) => call<T>('PUT', path, body),
  patch: <T>(path: string, body: unknown) => call<T>('PATCH', path, body),
  delete: <T = undefined>(path: string) => call<T>('DELETE', path),
}

/** A whole list, page by page, up to a bound; `isCut` where there is more. */
export async function allPages<T>(
  path: string,
  query: ApiQuery = {},
  signal?: AbortSignal,
): Promise<{ data: T[]; isCut: boolean }> {
  const data: T[] = []
  let cursor: string | undefined
  for (let page = 0; page < PAGES_MAX; page++) {
    const read: Page<T> = await api.get(path, { ...query, limit: PAGE_ROWS_MAX, cursor }, signal)
    data.push(...read.data)
    cursor = read.next_cursor
    if (cursor === undefined) return { data, isCut: false }
  }
  return { data, isCut: true }
}
