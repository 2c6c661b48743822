// The signature against the vectors of AWS's own test suite (aws4_testsuite), by their names there.
import { describe, expect, test } from 'vitest'
import { type SignedCall, signV4, uriEncode } from '../../../../gateway/providers/aws-sigv4.ts'

const CREDENTIALS = { accessKeyId: 'AKIDEXAMPLE', secretAccessKey: 'wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY' }
const SCOPE = { region: 'us-east-1', service: 'service', nowMs: Date.UTC(2015, 7, 30, 12, 36) }
const GET: SignedCall = { method: 'GET', host: 'example.amazonaws.com', path: '/', headers: {}, body: '' }
const POST = { ...GET, method: 'POST' }
const FORM = { 'Content-Type': 'application/x-www-form-urlencoded' }
const TOKEN =
  'AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/' +
  'qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38' +
  'xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA=='

const authorization = (names: string, signature: string) =>
  `AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=${names}, ` +
  `Signature=${signature}`

describe('a signature', () => {
  test.each<[string, SignedCall, string, string]>([
    ['get-vanilla', GET, 'host;x-amz-date', '5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31'],
    [
      'get-vanilla-query-order-key-case',
      {
        ...GET,
        query: [
          ['Param2', 'value2'],
          ['Param1', 'value1'],
        ],
      },
      'host;x-amz-date',
      'b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500',
    ],
    [
      'get-utf8',
      { ...GET, path: '/ሴ' },
      'host;x-amz-date',
      '8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85',
    ],
    [
      'get-space',
      { ...GET, path: '/example space/' },
      'host;x-amz-date',
      '652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741',
    ],
    ['post-vanilla', POST, 'host;x-amz-date', '5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b'],
    [
      'post-x-www-form-urlencoded',
      { ...POST, headers: FORM, body: 'Param1=value1' },
      'content-type;host;x-amz-date',
      'ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a',
    ],
  ])('of %s is the published one', async (_, call, names, signature) => {
    expect(await signV4(call, CREDENTIALS, SCOPE)).toEqual({
      'x-amz-date': '20150830T123600Z',
      authorization: authorization(names, signature),
    })
  })

  test('of post-sts-header-before holds the token of the session', async () => {
    const signed = await signV4(POST, { ...CREDENTIALS, sessionToken: TOKEN }, SCOPE)
    expect(signed).toEqual({
      'x-amz-date': '20150830T123600Z',
      'x-amz-security-token': TOKEN,
      authorization: authorization(
        'host;x-amz-date;x-amz-security-token',
        '85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead',
      ),
    })
  })

  test('changes with every part of the call', async () => {
    const base = {
      ...POST,
      path: '/model/a%3A0/converse-stream',
      body: '{}',
      headers: { 'content-type': 'application/json' },
    }
    const sign = async (call: SignedCall) => (await signV4(call, CREDENTIALS, SCOPE)).authorization
    const others = [
      base,
      { ...base, method: 'GET' },
      { ...base, host: 'other.amazonaws.com' },
      { ...base, path: '/model/a:0/converse-stream' },
      { ...base, body: '{ }' },
      { ...base, headers: { 'content-type': 'application/xml' } },
    ]
    expect(new Set(await Promise.all(others.map(sign))).size).toBe(others.length)
  })
})

test.each([
  ['anthropic.claude-v2:1', 'anthropic.claude-v2%3A1'],
  ["a b/c!'()*~-._", 'a%20b%2Fc%21%27%28%29%2A~-._'],
  ['ü', '%C3%BC'],
])('%s in an address is %s', (text, encoded) => {
  expect(uriEncode(text)).toBe(encoded)
})
