// A request as routing over the own fleet sees it: what of it has to fit one window.
import { expect, test } from 'vitest'
import { fleetAsk } from '../../../../gateway/providers/fleet-ask.ts'
import { fleetWire } from '../../../../gateway/providers/fleet-wire.ts'
import { type InferenceRequest, NEUTRAL_SAMPLING } from '../../../../protocol/request.ts'

type Prompts = Extract<InferenceRequest['input'], { kind: 'embedding' }>['prompts']

function asked(prompts: Prompts) {
  const input = { kind: 'embedding' as const, prompts }
  const request: InferenceRequest = { model: 'm', input, sampling: NEUTRAL_SAMPLING, n: 1, stop: [] }
  const wire = fleetWire(request)
  if (!wire.ok) throw new Error(wire.error.message)
  return fleetAsk(request, wire.value, { model: 'm' }, { tenant: 't' })
}

test('of several prompts all are work, and the longest needs a window', () => {
  const [long, short] = [{ text: 'x'.repeat(300) }, { text: 'y' }]
  expect(asked([long, short, short])).toMatchObject({ promptChars: 302, longest: { chars: 300, tokens: 0 } })
  expect(asked([{ tokenIds: [1, 2] }, { tokenIds: [3] }])).toMatchObject({ promptTokens: 3, longest: { tokens: 2 } })
  expect(asked([long])).not.toHaveProperty('longest')
})
