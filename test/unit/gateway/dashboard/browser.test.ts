// What the gateway reads out of a browser's request: origins, cookies, and where it may be sent.
import { describe, expect, test } from 'vitest'
import {
  cookieHeader,
  cookieName,
  isFromElsewhere,
  isFromOwnPage,
  ownOrigin,
  readCookie,
  returnPath,
} from '../../../../gateway/dashboard/browser.ts'

const request = (url: string, headers: Record<string, string> = {}) => {
  const all = new Headers()
  // Node's Request drops what pages may not set; the gateway's does not.
  const built = new Request(url)
  for (const [name, value] of Object.entries(headers)) all.set(name, value)
  Object.defineProperty(built, 'headers', { value: all })
  return built
}

describe('the own origin', () => {
  test.each([
    ['http://127.0.0.1:8787/x', {}, 'http://127.0.0.1:8787'],
    ['https://gw.example/x?y', {}, 'https://gw.example'],
    ['http://gw.example/x', { 'x-forwarded-proto': 'https' }, 'https://gw.example'],
    ['http://gw.example:443/x', { 'x-forwarded-proto': 'https' }, 'https://gw.example'],
    ['http://gw.example/x', { 'x-forwarded-proto': 'HTTPS, http' }, 'https://gw.example'],
    ['http://gw.example/x', { 'x-forwarded-proto': 'ftp' }, 'http://gw.example'],
    ['https://gw.example/x', { 'x-forwarded-proto': 'http' }, 'https://gw.example'],
  ])('of %s with %j is %s', (url, headers, origin) => {
    expect(ownOrigin(request(url, headers as Record<string, string>))).toBe(origin)
  })
})

describe('a page is our own', () => {
  test.each([
    ['http://127.0.0.1:8787/', 'http://127.0.0.1:8787', true],
    ['http://127.0.0.1:8787/', 'http://127.0.0.1:8788', false],
    ['http://127.0.0.1:8787/', 'http://localhost:8787', false],
    ['https://gw.example/', 'https://gw.example', true],
    ['https://gw.example/', 'http://gw.example', false],
    ['https://gw.example/', 'https://gw.example.evil.test', false],
    ['https://gw.example/', 'https://evil.test/gw.example', false],
    ['https://gw.example/', 'null', false],
    ['https://gw.example/', '', false],
    // Behind a proxy that does not say that it ended TLS.
    ['http://gw.example/', 'https://gw.example', true],
  ])('%s asked from %j: %s', (url, origin, own) => {
    expect(isFromOwnPage(request(url, { origin }))).toBe(own)
  })

  test('never where no origin is named', () => {
    expect(isFromOwnPage(request('https://gw.example/'))).toBe(false)
  })

  test.each([
    ['same-origin', false],
    ['none', false],
    ['same-site', true],
    ['cross-site', true],
  ])('the browser says %s: from elsewhere %s', (site, elsewhere) => {
    expect(isFromElsewhere(request('https://gw.example/', { 'sec-fetch-site': site }))).toBe(elsewhere)
  })
})

describe('cookies', () => {
  const secure = 'https://gw.example/'
  const read = (cookie: string) => readCookie(request(secure, { cookie }), 'session')

  test('are named by how the browser reaches the gateway', () => {
    expect(cookieName(request(secure), 'session')).toBe('__Host-penstock-session')
    expect(cookieName(request('http://127.0.0.1:8787/'), 'session')).toBe('penstock-session-8787')
    expect(cookieName(request('http://gw.lan/'), 'oidc')).toBe('penstock-oidc')
  })

  test('have the value behind their very name', () => {
    expect(read('__Host-penstock-session=a')).toBe('a')
    expect(read('x=1; __Host-penstock-session=a=b; y=2')).toBe('a=b')
    for (const other of ['', 'penstock-session=a', 'x__Host-penstock-session=a', '__host-penstock-session=a']) {
      expect(read(other)).toBeUndefined()
    }
    expect(read('__Host-penstock-session=')).toBeUndefined()
  })

  test('of one name with two values have none', () => {
    expect(read('__Host-penstock-session=a; __Host-penstock-session=b')).toBeUndefined()
    expect(read('__Host-penstock-session=a; __Host-penstock-session=a')).toBe('a')
    expect(read(`${'x'.repeat(16_384)}; __Host-penstock-session=a`)).toBeUndefined()
  })

  test('are set for this host, all paths, no script, and https where there is https', () => {
    expect(cookieHeader(request(secure), 'session', 'v', 60)).toBe(
      '__Host-penstock-session=v; Path=/; Max-Age=60; HttpOnly; SameSite=Lax; Secure',
    )
    expect(cookieHeader(request('http://gw.lan/'), 'session', '', 60)).toBe(
      'penstock-session=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax',
    )
  })
})

describe('where a browser goes after signing in', () => {
  test.each([
    '/dashboard/',
    '/dashboard/keys',
    '/dashboard/explore?by=key&from=2026-11-01T00%3A00%3A00Z#chart',
    '/dashboard/requests/01234567-89ab-cdef-0123-456789abcdef',
  ])('is %s, as it was asked for', (path) => {
    expect(returnPath(path)).toBe(path)
  })

  test.each([
    undefined,
    '',
    '/',
    '/dashboard',
    '/dashboardx/',
    '//evil.test/dashboard/',
    'https://evil.test/dashboard/',
    '/\\evil.test',
    '/dashboard/\\..\\evil.test',
    '/dashboard/../x',
    '/dashboard/%2e%2e/admin',
    '/dashboard/x y',
    '/dashboard/\tx',
    '/dashboard/oidc/callback?code=1',
    '/dashboard/sign-in#code=x',
    '/dashboard/session',
    `/dashboard/${'x'.repeat(1_500)}`,
  ])('is the first page, and never %j', (path) => {
    expect(returnPath(path)).toBe('/dashboard/')
  })
})
