// The dashboard's files as the gateway serves them: which file answers which address, what browsers may do with it, and what
// is said where it was not built.
import { createExecutionContext, env } from 'cloudflare:test'
import { expect, test } from 'vitest'
import { app } from '../../gateway/app.ts'
import type { Env } from '../../gateway/env.ts'

const FILES: Record<string, string> = {
  '/index.html': '<!doctype html><title>page</title>',
  '/main-ABCD2345.js': 'export {}',
  '/main-ABCD2345.css': 'body {}',
  '/icon.svg': '<svg/>',
  '/data.exe': 'x',
  '/.hidden.js': 'x',
}
const asked: string[] = []

/** Files by their exact names, without a type, as a folder under workerd has them. */
const ASSETS = {
  fetch: async (url: string) => {
    const { pathname } = new URL(url)
    asked.push(pathname)
    const file = FILES[pathname]
    return file === undefined ? new Response('no', { status: 404 }) : new Response(file)
  },
} as unknown as Fetcher

async function get(path: string, options: { method?: string; headers?: Record<string, string>; env?: Env } = {}) {
  const { method = 'GET', headers = {}, env: bindings = { ...env, ASSETS } } = options
  asked.length = 0
  return app.request(
    `https://gateway.test${path}`,
    { method, headers, redirect: 'manual' },
    bindings,
    createExecutionContext(),
  )
}

test.each(['/dashboard/', '/dashboard/keys', '/dashboard/requests/1', '/dashboard/sign-in', '/dashboard/session'])(
  '%s is the page, which is asked for anew each time',
  async (path) => {
    const response = await get(path)
    expect([response.status, await response.text()]).toEqual([200, FILES['/index.html']])
    expect(response.headers.get('content-type')).toBe('text/html; charset=utf-8')
    expect(response.headers.get('cache-control')).toBe('no-cache')
  },
)

test('files whose names change with their bytes are kept for a year, others are not', async () => {
  const script = await get('/dashboard/main-ABCD2345.js')
  expect(script.headers.get('cache-control')).toBe('public, max-age=31536000, immutable')
  expect(script.headers.get('content-type')).toBe('text/javascript; charset=utf-8')
  expect((await get('/dashboard/main-ABCD2345.css')).headers.get('content-type')).toBe('text/css; charset=utf-8')
  const icon = await get('/dashboard/icon.svg')
  expect([icon.headers.get('content-type'), icon.headers.get('cache-control')]).toEqual(['image/svg+xml', 'no-cache'])
})

test('every answer forbids what no page of ours does: foreign and inline scripts, frames, guessed types', async () => {
  for (const path of ['/dashboard/', '/dashboard/main-ABCD2345.js', '/dashboard/none.js']) {
    const { headers } = await get(path)
    const policy = headers.get('content-security-policy') ?? ''
    expect(policy).toContain("script-src 'self'")
    expect(policy).toContain("frame-ancestors 'none'")
    expect(policy).toContain("base-uri 'none'")
    expect(policy).not.toMatch(/unsafe|\*|https?:/)
    expect(headers.get('x-content-type-options')).toBe('nosniff')
    expect(headers.get('x-frame-options')).toBe('DENY')
    expect(headers.get('referrer-policy')).toBe('no-referrer')
    expect(headers.get('set-cookie')).toBeNull()
  }
})

test.each([
  '/dashboard/none.js',
  '/dashboard/data.exe',
  '/dashboard/.hidden.js',
  '/dashboard/x/../../secrets.json',
  '/dashboard/%2e%2e/%2e%2e/etc/passwd.txt',
  '/dashboard/..%2f..%2fetc%2fpasswd.txt',
  '/dashboard/a//b.js',
  '/dashboard/x%00.js',
  `/dashboard/${'x'.repeat(300)}.js`,
])('%s is not there', async (path) => {
  const response = await get(path)
  expect(response.status).toBe(404)
  expect(asked.every((one) => one === '/none.js' || one.startsWith('/x'))).toBe(true)
})

test('without a build the page says how to make one, and nothing else is touched', async () => {
  for (const bindings of [
    env,
    { ...env, ASSETS: { fetch: async () => new Response('', { status: 404 }) } as unknown as Fetcher },
  ]) {
    const { ASSETS: _, ...without } = bindings
    const response = await get('/dashboard/', { env: bindings === env ? without : bindings })
    expect(response.status).toBe(503)
    expect(await response.text()).toContain('npm run build:dashboard')
    expect((await get('/health', { env: bindings })).status).toBe(200)
  }
})

test('the address of the gateway leads people to the pages, and tells programs what it always told them', async () => {
  const person = await get('/', { headers: { accept: 'text/html,application/xhtml+xml;q=0.9,*/*;q=0.8' } })
  expect([person.status, person.headers.get('location')]).toEqual([302, '/dashboard/'])
  for (const headers of [{}, { accept: '*/*' }, { accept: 'application/json' }]) {
    const program = await get('/', { headers })
    expect([program.status, (await program.json<{ error: { code: string } }>()).error.code]).toEqual([404, 'not_found'])
  }
  expect((await get('/dashboard')).headers.get('location')).toBe('/dashboard/')
})

test('files are packed for browsers that take it', async () => {
  const packed = async (accept: string) =>
    (await get('/dashboard/main-ABCD2345.js', { headers: { 'accept-encoding': accept } })).headers.get(
      'content-encoding',
    )
  expect(await packed('gzip, deflate, br')).toBe('gzip')
  expect(await packed('br;q=1.0, gzip;q=0.5')).toBe('gzip')
  expect(await packed('gzip;q=0, identity')).toBeNull()
  expect(await packed('identity')).toBeNull()
  expect((await get('/dashboard/main-ABCD2345.js')).headers.get('vary')).toBe('accept-encoding')
})

test('HEAD has the headers of GET, and other methods are refused', async () => {
  const head = await get('/dashboard/', { method: 'HEAD' })
  expect([head.status, await head.text()]).toEqual([200, ''])
  const post = await get('/dashboard/keys', { method: 'POST' })
  expect([post.status, post.headers.get('allow')]).toEqual([405, 'GET'])
})
