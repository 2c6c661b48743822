// What a browser's request says about where it comes from. Owns the names and attributes of cookies, which origin is our own,
// and where a browser may be sent after signing in. Pure.
//
// Behind a proxy that ends TLS the address is one of plain http, and `x-forwarded-proto` says what the browser sees. Believing
// it is safe: a page of another site cannot set it, and whoever sets it by hand changes its own cookies alone.

/** Pages of the dashboard; also where a browser goes that named no other one. */
export const DASHBOARD_PATH = '/dashboard/'
/** With the rest of what a sign-in remembers it fits a cookie. */
const RETURN_CHARS_MAX = 1_500
/** A header of this size holds every cookie that a browser keeps for one host. */
const COOKIE_CHARS_MAX = 16_384

export type CookieKind = 'session' | 'oidc'

/** The origin by which the browser reaches this gateway. */
export function ownOrigin(request: Request): string {
  const { protocol, host } = new URL(request.url)
  const forwarded = request.headers.get('x-forwarded-proto')?.split(',')[0]?.trim().toLowerCase()
  return new URL(`${protocol === 'https:' || forwarded === 'https' ? 'https' : 'http'}://${host}`).origin
}

/**
 * Whether the request was made by one of our own pages. Browsers name the origin of whatever may change something. The
 * host alone is compared where the gateway is not told that the browser uses https.
 */
export function isFromOwnPage(request: Request): boolean {
  const named = request.headers.get('origin')
  if (named === null || !URL.canParse(named)) return false
  const [origin, own] = [new URL(named), new URL(ownOrigin(request))]
  return origin.host === own.host && (origin.protocol === own.protocol || own.protocol === 'http:')
}

/** Whether the browser says that another site made it ask, which old browsers do not say. */
export function isFromElsewhere(request: Request): boolean {
  const site = request.headers.get('sec-fetch-site')
  return site !== null && site !== 'same-origin' && site !== 'none'
}

/**
 * Over https a name that browsers take only from this very host, with `Secure` and for all paths: no sibling host can plant
 * one. Over plain http nothing is that safe, and cookies do not tell ports apart: two gateways of one machine would sign
 * each other's users out.
 */
export function cookieName(request: Request, kind: CookieKind): string {
  const { protocol, port } = new URL(ownOrigin(request))
  if (protocol === 'https:') return `__Host-penstock-${kind}`
  return port === '' ? `penstock-${kind}` : `penstock-${kind}-${port}`
}

/** The cookie's value; absent too where several are there: which one is ours would be a guess. */
export function readCookie(request: Request, kind: CookieKind): string | undefined {
  const header = request.headers.get('cookie') ?? ''
  if (header.length > COOKIE_CHARS_MAX) return undefined
  const prefix = `${cookieName(request, kind)}=`
  const values = header
    .split(';')
    .map((part) => part.trim())
    .filter((part) => part.startsWith(prefix))
    .map((part) => part.slice(prefix.length))
  const [only] = values
  return values.every((value) => value === only) && only !== '' ? only : undefined
}

/** The text of a `set-cookie` header; an empty value takes the cookie away. */
export function cookieHeader(request: Request, kind: CookieKind, value: string, ageS: number): string {
  const name = cookieName(request, kind)
  const secure = name.startsWith('__Host-') ? '; Secure' : ''
  return `${name}=${value}; Path=/; Max-Age=${value === '' ? 0 : ageS}; HttpOnly; SameSite=Lax${secure}`
}

/** Where to go after signing in: a page of the dashboard, whatever was asked for. */
export function returnPath(asked: string | undefined): string {
  if (asked === undefined || asked.length > RETURN_CHARS_MAX || !asked.startsWith(DASHBOARD_PATH)) return DASHBOARD_PATH
  // The URL API drops or turns what people do not see.
  if (/[\s\\\p{Cc}]/u.test(asked)) return DASHBOARD_PATH
  const base = 'http://gateway.invalid'
  const url = URL.canParse(asked, base) ? new URL(asked, base) : undefined
  if (url?.origin !== base || !url.pathname.startsWith(DASHBOARD_PATH)) return DASHBOARD_PATH
  // Not into the next sign-in.
  if (/^\/dashboard\/(oidc\/|sign-in|session)/.test(url.pathname)) return DASHBOARD_PATH
  return `${url.pathname}${url.search}${url.hash}`
}
