// The dashboard's files. Owns which file answers which address and for how long browsers keep it; the files are what
// scripts/dashboard-build.ts made, read from the binding ASSETS, which is the same in both homes: Cloudflare's, and a folder
// under workerd.
import type { Env } from '../env.ts'
import { DASHBOARD_PATH } from './browser.ts'
import { PAGE_HEADERS, plainPage } from './pages.ts'

const PAGE = 'index.html'
/** No segment begins with a dot, none is empty. */
const NAME = /^(?:[A-Za-z0-9_-][A-Za-z0-9._-]*\/){0,4}[A-Za-z0-9_-][A-Za-z0-9._-]*$/
const NAME_CHARS_MAX = 200
/** A name that changes with every byte of the file. */
const HASHED = /-[A-Z0-9]{8}\.[a-z0-9.]+$/
const HASHED_CACHE = 'public, max-age=31536000, immutable'

const TYPES: Readonly<Record<string, string>> = {
  html: 'text/html; charset=utf-8',
  js: 'text/javascript; charset=utf-8',
  css: 'text/css; charset=utf-8',
  svg: 'image/svg+xml',
  json: 'application/json; charset=utf-8',
  map: 'application/json; charset=utf-8',
  txt: 'text/plain; charset=utf-8',
  png: 'image/png',
  ico: 'image/x-icon',
  woff2: 'font/woff2',
}
/** Of those above, what is packed already. */
const PACKED: ReadonlySet<string> = new Set(['png', 'ico', 'woff2'])

/** Answers any address below /dashboard/: a file where the last part of the address has a dot, else the page. */
export async function assetResponse(request: Request, env: Pick<Env, 'ASSETS'>): Promise<Response> {
  const { pathname } = new URL(request.url)
  // An address with dots in it can lead elsewhere than the router saw.
  if (!pathname.startsWith(DASHBOARD_PATH)) return notThere()
  const path = pathname.slice(DASHBOARD_PATH.length)
  const isPage = !path.slice(path.lastIndexOf('/') + 1).includes('.')
  const name = isPage ? PAGE : path
  const ending = name.slice(name.lastIndexOf('.') + 1)
  const type = Object.hasOwn(TYPES, ending) ? TYPES[ending] : undefined
  if (type === undefined || name.length > NAME_CHARS_MAX || !NAME.test(name)) return notThere()
  // Only the path counts; there is no such host.
  const found = await env.ASSETS?.fetch(`https://assets.invalid/${name}`)
  if (found?.status !== 200) {
    await found?.body?.cancel()
    return isPage ? notBuilt() : notThere()
  }
  const headers = new Headers({
    ...PAGE_HEADERS,
    'content-type': type,
    'cache-control': HASHED.test(name) ? HASHED_CACHE : 'no-cache',
    vary: 'accept-encoding',
  })
  // The runtime packs what is said to be packed.
  if (!PACKED.has(ending) && takesGzip(request)) headers.set('content-encoding', 'gzip')
  return new Response(found.body, { headers })
}

const takesGzip = (request: Request): boolean =>
  /\bgzip\b(?!\s*;\s*q=0(?:\.0*)?\s*(?:,|$))/.test(request.headers.get('accept-encoding') ?? '')

const notThere = (): Response =>
  plainPage(404, {
    title: 'There is no such file',
    text: 'The dashboard was built anew since this page was opened, or the address is wrong.',
    link: { href: DASHBOARD_PATH, text: 'Open the dashboard' },
  })

const notBuilt = (): Response =>
  plainPage(503, {
    title: 'The dashboard is not built',
    text: 'This gateway runs without the files of its dashboard; the API is not concerned. "npm start" builds them; before "wrangler deploy" run "npm run build:dashboard".',
  })
