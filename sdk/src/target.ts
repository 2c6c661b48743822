// Whom a call can be sent to. Owns addresses, keys, model names and which target takes which call.
import { type Dialect, dialectOf } from './dialect.ts'
import { PenstockError } from './errors.ts'
import { type ClientOptions, DEFAULTS, type DirectProvider, type Secret } from './options.ts'

export type Target = {
  /** `gateway` or the provider's name. */
  name: string
  isGateway: boolean
  /** Up to the version. */
  baseUrl: string
  apiKey: Secret
  auth: 'bearer' | 'x-api-key'
  headers: Record<string, string>
  /** Absent: takes every model and dialect. */
  provider?: DirectProvider
}

/** A request before it is for anybody: a path under the version, and a body of JSON. */
export type WireRequest = {
  method: 'GET' | 'POST' | 'DELETE'
  /** E.g. `/chat/completions`. */
  path: string
  /** Of POST. */
  body?: Record<string, unknown>
  headers: Record<string, string>
  isStream: boolean
  /** Of a call that another one began: what its path does not tell. */
  began?: { dialect: Dialect | undefined; model: string | undefined }
}

/** @throws PenstockError `invalid_request` for an address that is none, or a name that is taken. */
export function targetsOf(options: ClientOptions): { gateway: Target; direct: Target[] } {
  const { gateway, direct = [] } = options
  const names = new Set(['gateway'])
  for (const { name } of direct) {
    if (names.has(name)) throw mistake(`two targets are called ${JSON.stringify(name)}`)
    names.add(name)
  }
  return {
    gateway: {
      name: 'gateway',
      isGateway: true,
      baseUrl: withVersion(checkedUrl(gateway.baseUrl)),
      apiKey: gateway.apiKey,
      auth: 'bearer',
      headers: gateway.headers ?? {},
    },
    direct: direct.map((provider) => ({
      name: provider.name,
      isGateway: false,
      baseUrl: checkedUrl(provider.baseUrl),
      apiKey: provider.apiKey,
      auth: provider.auth ?? 'bearer',
      headers: provider.headers ?? {},
      provider,
    })),
  }
}

/** Whether a direct provider can take the call: it knows the model and speaks the dialect, and nothing is kept at the gateway. */
export function takes({ provider }: Target, request: WireRequest): boolean {
  if (provider === undefined) return true
  const dialect = dialectOf(request.path)
  const model = request.body?.model
  return (
    request.method === 'POST' &&
    dialect !== undefined &&
    (provider.dialects ?? DEFAULTS.dialects).includes(dialect) &&
    typeof model === 'string' &&
    Object.hasOwn(provider.models, model) &&
    // These name something that only the gateway has.
    request.body?.previous_response_id === undefined &&
    request.body?.background !== true
  )
}

/** What a call may bring along for the gateway alone: proofs of who it is, and headers of the application's own making. */
const isForGateway = (name: string): boolean =>
  /^(authorization|api-key|cookie|proxy-authorization|x-(?!stainless-).*)$/.test(name.toLowerCase())

/** The request as this target is sent it. */
export async function requestFor(target: Target, request: WireRequest, own: Record<string, string>): Promise<Request> {
  const key = typeof target.apiKey === 'string' ? target.apiKey : await target.apiKey()
  const headers = new Headers({ ...request.headers, ...target.headers, ...own })
  if (!target.isGateway) {
    for (const name of [...headers.keys()]) if (isForGateway(name)) headers.delete(name)
    for (const [name, value] of Object.entries(target.headers)) headers.set(name, value)
  }
  if (target.auth === 'bearer') headers.set('authorization', `Bearer ${key}`)
  else headers.set('x-api-key', key)
  if (request.isStream) headers.set('accept', 'text/event-stream')
  const { provider } = target
  const model = request.body?.model
  const body =
    provider === undefined || typeof model !== 'string'
      ? request.body
      : { ...request.body, model: provider.models[model] }
  if (body !== undefined) headers.set('content-type', 'application/json')
  return new Request(`${target.baseUrl}${request.path}`, {
    method: request.method,
    headers,
    // None is followed: the key is for this host. Not every runtime knows `error`.
    redirect: 'manual',
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  })
}

export const dialectFor = ({ path, began }: WireRequest): Dialect | undefined =>
  began === undefined ? dialectOf(path.split('?')[0] ?? '') : began.dialect

/** Whatever redirects a call is no gateway and no provider, but somebody who stands before it. */
export const isRedirect = ({ type, status }: Response): boolean =>
  type === 'opaqueredirect' || (status >= 300 && status < 400)

function checkedUrl(text: string): string {
  let url: URL
  try {
    url = new URL(text)
  } catch {
    throw mistake(`${JSON.stringify(text)} is no URL`)
  }
  if (!/^https?:$/.test(url.protocol) || url.search !== '' || url.hash !== '') {
    throw mistake(`a base URL is http or https, without query or fragment: ${JSON.stringify(text)}`)
  }
  return text.replace(/\/+$/, '')
}

const withVersion = (url: string): string => (/\/v\d+$/.test(url) ? url : `${url}/v1`)

const mistake = (message: string): PenstockError =>
  new PenstockError(message, { code: 'invalid_request', origin: 'client', retryable: false })
