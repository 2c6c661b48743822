// An issuer of OpenID Connect as its specifications have it: publishes itself, lets a person in, gives out codes that work once,
// for one client, one address and one verifier, and signs ID tokens. Owns its own strictness, so that a gateway that forgets
// something finds out.
import { decodeProtectedHeader, SignJWT } from 'jose'
import type { Fetch } from '../../../gateway/policy/reach.ts'
import { jwksOf, keyPair } from './people.ts'

type Grant = { clientId: string; redirectUri: string; challenge: string; nonce: string; subject: string; scope: string }

export class FakeIssuer {
  readonly issuer: string
  readonly clientId: string
  /** Absent: a public client. */
  readonly clientSecret: string | undefined
  readonly requests: string[] = []
  /** What the next ID token says otherwise than it should. */
  claims: Record<string, unknown> = {}
  /** Whose key signs. */
  signer = 'k1'
  /** What it answers to a request for the path instead. */
  readonly answers = new Map<string, () => Response>()
  authMethods: string[] | undefined = undefined
  readonly #codes = new Map<string, Grant>()

  constructor(name: string, client: { id: string; secret?: string }) {
    this.issuer = `https://${name}.example.com`
    this.clientId = client.id
    this.clientSecret = client.secret
  }

  readonly fetch: Fetch = async (url, init, reach) => {
    if (reach !== 'public') throw new Error(`${url} is asked over a network that leads inside`)
    const request = new Request(url, init)
    const { origin, pathname } = new URL(url)
    this.requests.push(`${request.method} ${pathname}`)
    if (origin !== this.issuer) throw new TypeError(`nobody answers at ${origin}`)
    const answer = this.answers.get(pathname)
    if (answer !== undefined) return answer()
    if (pathname === '/.well-known/openid-configuration') return Response.json(this.metadata())
    if (pathname === '/keys') return Response.json(await jwksOf({ k1: 'k1' }))
    if (pathname === '/token' && request.method === 'POST') return this.#token(request)
    return new Response('nothing here', { status: 404 })
  }

  metadata() {
    return {
      issuer: this.issuer,
      authorization_endpoint: `${this.issuer}/authorize?tenant=t1`,
      token_endpoint: `${this.issuer}/token`,
      jwks_uri: `${this.issuer}/keys`,
      response_types_supported: ['code'],
      subject_types_supported: ['public'],
      id_token_signing_alg_values_supported: ['ES256'],
      ...(this.authMethods !== undefined && { token_endpoint_auth_methods_supported: this.authMethods }),
    }
  }

  /** The person lets the gateway in. @returns where the browser is sent back to */
  authorise(location: string, subject: string): URL {
    const url = new URL(location)
    const asked = url.searchParams
    const need = (name: string): string => {
      const [value, ...more] = asked.getAll(name)
      if (value === undefined || value === '' || more.length > 0) throw new Error(`the request has no one ${name}`)
      return value
    }
    if (url.origin !== this.issuer || url.pathname !== '/authorize' || need('tenant') !== 't1') throw new Error('lost')
    if (need('response_type') !== 'code' || need('code_challenge_method') !== 'S256') throw new Error('not this flow')
    if (need('client_id') !== this.clientId) throw new Error('an unknown client')
    if (!need('scope').split(' ').includes('openid')) throw new Error('not OpenID Connect')
    const code = crypto.randomUUID()
    this.#codes.set(code, {
      clientId: this.clientId,
      redirectUri: need('redirect_uri'),
      challenge: need('code_challenge'),
      nonce: need('nonce'),
      scope: need('scope'),
      subject,
    })
    const back = new URL(need('redirect_uri'))
    back.search = new URLSearchParams({ code, state: need('state'), iss: this.issuer }).toString()
    return back
  }

  async #token(request: Request): Promise<Response> {
    const form = new URLSearchParams(new TextDecoder().decode(await request.arrayBuffer()))
    const refuse = (error: string, status = 400) => Response.json({ error }, { status })
    if (request.headers.get('content-type') !== 'application/x-www-form-urlencoded') return refuse('invalid_request')
    if (form.get('grant_type') !== 'authorization_code') return refuse('unsupported_grant_type')
    if (!this.#isClient(request, form)) return refuse('invalid_client', 401)
    const code = form.get('code') ?? ''
    const grant = this.#codes.get(code)
    // Whatever becomes of it: a code works once.
    this.#codes.delete(code)
    const digest = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(form.get('code_verifier') ?? ''))
    if (grant === undefined || grant.redirectUri !== form.get('redirect_uri')) return refuse('invalid_grant')
    if (base64Url(new Uint8Array(digest)) !== grant.challenge) return refuse('invalid_grant')
    const nowS = Math.floor(Date.now() / 1000)
    const claims = {
      iss: this.issuer,
      aud: this.clientId,
      sub: grant.subject,
      nonce: grant.nonce,
      iat: nowS,
      exp: nowS + 300,
      ...this.claims,
    }
    const { privateKey } = await keyPair(this.signer)
    const idToken = await new SignJWT(claims).setProtectedHeader({ alg: 'ES256', kid: 'k1' }).sign(privateKey)
    if (decodeProtectedHeader(idToken).alg !== 'ES256') throw new Error('not signed as meant')
    return Response.json({
      access_token: crypto.randomUUID(),
      token_type: 'Bearer',
      expires_in: 300,
      id_token: idToken,
    })
  }

  #isClient(request: Request, form: URLSearchParams): boolean {
    if (this.clientSecret === undefined) return form.get('client_id') === this.clientId && !form.has('client_secret')
    if (this.authMethods?.includes('client_secret_post')) {
      return form.get('client_id') === this.clientId && form.get('client_secret') === this.clientSecret
    }
    const [scheme, text = ''] = (request.headers.get('authorization') ?? '').split(' ')
    const [id = '', secret = ''] = atob(text).split(':')
    const decoded = (part: string) => new URLSearchParams(`x=${part}`).get('x')
    return scheme === 'Basic' && decoded(id) === this.clientId && decoded(secret) === this.clientSecret
  }
}

function base64Url(bytes: Uint8Array): string {
  const text = btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(''))
  return text.replaceAll('+', '-').replaceAll('/', '_').replace(/=+$/, '')
}
