import { expect, test } from 'vitest'
import { messagesOf } from '../../../../gateway/routes/responses-items.ts'
import { echoOf, parseResponse, requestOf } from '../../../../gateway/routes/responses-requests.ts'
import { sealText } from '../../../../gateway/routes/seals.ts'
import { maskedParts } from '../../../../gateway/runs/masked.ts'
import type { InferenceRequest } from '../../../../protocol/request.ts'

const NAME = '0123456789abcdef0123456789abcdef'
const PNG = 'data:image/png;base64,iVBORw0KGgo='

function asked(body: Record<string, unknown>) {
  const parsed = parseResponse({ model: 'm', ...body })
  if (!parsed.ok) throw new Error(parsed.error.message)
  const items = parsed.value.items.filter((item) => item.type !== 'item_reference')
  const request = requestOf(parsed.value, items, items.length)
  if (!request.ok) throw new Error(request.error.message)
  return { request: request.value, echo: echoOf(parsed.value) }
}

const messages = ({ input }: InferenceRequest) => (input.kind === 'chat' ? input.messages : [])

const EVERYTHING = [
  { role: 'developer', content: 'Be short.' },
  {
    role: 'user',
    content: [
      { type: 'input_text', text: 'Look.' },
      { type: 'input_image', image_url: PNG, detail: 'low' },
      { type: 'input_image', image_url: 'https://example.com/a.png' },
    ],
  },
  { type: 'reasoning', summary: [], encrypted_content: sealText({ by: 'maker', value: 'proof' }) },
  { role: 'assistant', content: 'I look.' },
  { type: 'function_call', call_id: 'c1', name: 'look', arguments: '{}' },
  { type: 'reasoning', summary: [], encrypted_content: sealText({ by: 'maker', value: 'of it' }, undefined, 'call') },
  { type: 'function_call_output', call_id: 'c1', output: 'a duck' },
  { role: 'assistant', content: [{ type: 'refusal', refusal: 'No.' }] },
]

test.each([
  ['with instructions', { instructions: 'Be kind.' }],
  ['without', {}],
])('what rules leave of a conversation says the same when it is read again, %s', (_, over) => {
  const { request, echo } = asked({ input: EVERYTHING, ...over })
  const masked = maskedParts(request, echo, NAME)
  expect(masked.echo).toEqual(echo)
  const again = messagesOf(masked.items, () => '')
  const expected = messages(request).slice('instructions' in over ? 1 : 0)
  expect(again).toEqual({ ok: true, value: expected })
  expect(masked.items.map(({ id }) => id)).toContain(`fc_${NAME}_i4`)
})

test('masked instructions are repeated as masked', () => {
  const { request, echo } = asked({ input: 'hi', instructions: 'I am bob@example.com' })
  const [first, ...rest] = messages(request)
  if (first === undefined) throw new Error('no instructions')
  const changed: InferenceRequest = {
    ...request,
    input: { kind: 'chat', messages: [{ ...first, content: [{ type: 'text', text: 'I am [EMAIL]' }] }, ...rest] },
  }
  expect(maskedParts(changed, echo, NAME)).toMatchObject({
    echo: { instructions: 'I am [EMAIL]' },
    items: [{ role: 'user' }],
  })
})
