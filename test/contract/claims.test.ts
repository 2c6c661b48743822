// What each provider does with each feature, held against requests that it really writes.
import { describe, expect, test } from 'vitest'
import { vendorOf } from '../../gateway/providers/vendors.ts'
import {
  CHAT_NAMES,
  type FieldNames,
  inCallersWords,
  MESSAGES_NAMES,
  RESPONSE_NAMES,
} from '../../gateway/routes/field-names.ts'
import type { Failure } from '../../protocol/errors.ts'
import type { InferenceRequest } from '../../protocol/request.ts'
import type { Result } from '../../protocol/result.ts'
import { type FeatureName, featuresOf, PLAIN_REQUEST } from './features.ts'
import type { Claim, Places } from './promise.ts'
import { contextOf, encode, encodeForFleet, targetOf } from './provider.ts'
import { PROVIDERS } from './vendors/all.ts'
import { fleet } from './vendors/fleet.ts'

/** What stands at `a.b[0].c`; undefined where the path ends early. */
function at(body: unknown, path: string): unknown {
  let value: unknown = body
  for (const [, key = '', index] of path.matchAll(/([^.[\]]+)|\[(\d+)\]/g)) {
    if (typeof value !== 'object' || value === null) return undefined
    value = Reflect.get(value, index ?? key)
  }
  return value
}

type Sent = { body: unknown; call?: { headers: Record<string, string> } }
type Encode = (request: InferenceRequest, serviceTier?: string) => Promise<Result<Sent, Failure>>

/** Without what changes with each call: a signature is of its body. */
async function sentBy(encode: Encode, request: InferenceRequest, serviceTier?: string) {
  const encoded = await encode(request, serviceTier)
  if (!encoded.ok) throw new Error(`refused with ${encoded.error.param}: ${encoded.error.message}`)
  const { body, call } = encoded.value
  const { authorization: _, ...headers } = call?.headers ?? {}
  return { body, headers }
}

const found = (body: unknown, places: Places): Places =>
  Object.fromEntries(Object.keys(places).map((path) => [path, at(body, path)]))

const TITLES: Record<Claim['is'], string> = {
  honoured: 'is honoured',
  translated: 'is translated',
  left_out: 'is left out',
  refused: 'is refused',
}

/** Every cell of the table. */
function checkClaims(claimed: Record<FeatureName, Claim>, sealBy: string, encode: Encode): void {
  const features = featuresOf({ by: sealBy, value: 'c2lnbmVk' })
  const claims = Object.entries(claimed) as [FeatureName, Claim][]

  test('promises something of every feature', () => {
    expect(claims.map(([name]) => name).sort()).toEqual(Object.keys(features).sort())
  })

  test.each(claims.map(([name, claim]) => [name, TITLES[claim.is], claim] as const))(
    '%s %s',
    async (name, _, claim) => {
      const { asked, unasked, serviceTier } = features[name]
      switch (claim.is) {
        case 'refused': {
          const encoded = await encode(asked, serviceTier)
          if (encoded.ok) throw new Error(`was sent: ${JSON.stringify(encoded.value.body)}`)
          const { code, param, kind, message } = encoded.error
          expect({ code, param, kind }).toEqual({ code: 'invalid_request', param: claim.param, kind: 'refused' })
          expect(message).toMatch(/^[A-Z].*\.$/)
          return
        }
        case 'left_out':
          expect(await sentBy(encode, asked, serviceTier)).toEqual(await sentBy(encode, unasked))
          return
        case 'honoured':
        case 'translated': {
          const sent = await sentBy(encode, asked, serviceTier)
          expect(Object.keys({ ...claim.body, ...claim.headers }).length).toBeGreaterThan(0)
          expect(found(sent.body, claim.body)).toEqual(claim.body)
          expect(sent.headers).toMatchObject(claim.headers ?? {})
          const isSendable = (await encode(unasked)).ok
          if (isSendable) expect(sent).not.toEqual(await sentBy(encode, unasked))
          return
        }
        default:
          claim satisfies never
      }
    },
  )
}

describe(fleet.title, () => {
  checkClaims(fleet.claims, 'fleet', encodeForFleet)
})

const wordFor = (param: string, names: FieldNames): string | undefined =>
  inCallersWords({ code: 'invalid_request', message: 'No.', kind: 'refused', param }, names).param

test('a refusal names the field as the caller wrote it, in each dialect', () => {
  const params = [fleet, ...PROVIDERS].flatMap(({ claims }) =>
    Object.values(claims).flatMap((claim) => (claim.is === 'refused' ? [claim.param] : [])),
  )
  for (const param of new Set(params)) {
    expect(wordFor(param, CHAT_NAMES)).toMatch(/^[a-z_.]+$/)
  }
  expect(wordFor('outputFormat', CHAT_NAMES)).toBe('response_format')
  expect(wordFor('outputFormat', RESPONSE_NAMES)).toBe('text.format')
  expect(wordFor('maxOutputTokens', RESPONSE_NAMES)).toBe('max_output_tokens')
  expect(wordFor('stop', MESSAGES_NAMES)).toBe('stop_sequences')
})

for (const promised of PROVIDERS) {
  describe(promised.title, () => {
    checkClaims(promised.claims, promised.sealBy ?? promised.kind, (request, serviceTier) =>
      encode(promised, request, serviceTier),
    )

    test('is sent no sampling that the caller did not ask for', async () => {
      const plain = await encode(promised, PLAIN_REQUEST)
      if (!plain.ok) throw new Error(plain.error.message)
      expect(plain.value.call.body).not.toMatch(
        /"(temperature|top_?[pk]|min_p|presence_?penalty|frequency_?penalty|\w*seed)"/i,
      )
    })

    test('is called at its own address with its own key, which stands in no body and no address', async () => {
      const encoded = await encode(promised, PLAIN_REQUEST)
      if (!encoded.ok) throw new Error(encoded.error.message)
      const { url, headers, body } = encoded.value.call
      expect(url).toBe(promised.url)
      const lower = Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]))
      expect(lower).toMatchObject({ 'content-type': 'application/json', ...promised.headers })
      expect(url + body).not.toContain(promised.secret)
    })

    test('keeps the names that an operator chose from changing the address', async () => {
      const encoded = await encode({ ...promised, model: '../x?y#z@w\\\r\n' }, PLAIN_REQUEST)
      if (!encoded.ok) return
      const { url } = encoded.value.call
      const { href, hash, searchParams } = new URL(url)
      expect(href.startsWith(`${promised.baseUrl}/`)).toBe(true)
      expect(href).toBe(url)
      expect(hash).toBe('')
      expect([...searchParams.keys()]).toEqual([...new URL(promised.url).searchParams.keys()])
    })

    test('asks for the length of a prompt at its own address, where its vendor tells it', async () => {
      const counter = vendorOf(promised.kind).countTokens
      if (counter === undefined) return
      const encoded = await counter.encode(PLAIN_REQUEST, targetOf(promised), contextOf(promised))
      if (!encoded.ok) throw new Error(encoded.error.message)
      const { url, headers, body } = encoded.value
      expect(url.startsWith(`${promised.baseUrl}/`)).toBe(true)
      expect(url + body).not.toContain(promised.secret)
      expect(body).toContain('How warm is it in Oslo?')
      expect(Object.keys(headers).map((name) => name.toLowerCase())).toEqual(
        expect.arrayContaining(Object.keys(promised.headers)),
      )
      for (const text of ['', '{', '[]', 'null', '{}', '<html>', '{"tokens":-1}'])
        expect(counter.read(text)).toBeUndefined()
    })
  })
}
