// What the scenario has to come to, the same in every runtime. Owns the expectation.
import { expect } from 'vitest'
import type { Lived } from './runtimes.ts'
import { WORDS } from './servers.ts'

const ANSWER = WORDS.join('')

export function expectTheSame({ steps, servers }: Lived): void {
  expect(steps).toEqual([
    { step: 'a stream that dies goes on elsewhere', first: 'gateway', before: 'The ans', shown: ANSWER },
    { step: 'past the gateway', by: 'spare', text: ANSWER },
    { step: 'a stream that breaks off is no clean end', isTyped: true, partial: 'half' },
    { step: 'nobody to report to', waiting: ['answered', 'answered', 'interrupted'] },
    { step: 'the gateway again', by: 'gateway', text: 'from the gateway' },
    { step: 'reported', pending: 0, dropped: 0, refused: 0 },
  ])
  expect(servers.unwanted).toEqual([])
  const told = [...servers.reported.values()].map(({ model, provider, status, reason, attempts, tags, usage }) => {
    const { input_uncached: input, output_text: output } = usage
    return { model, provider, status, reason, attempts, tags, input, output }
  })
  const direct = { provider: 'spare', attempts: 2, tags: undefined }
  expect(told).toEqual([
    {
      ...direct,
      model: 'small',
      status: 'answered',
      reason: 'interrupted',
      tags: { feature: 'runtimes' },
      input: 3,
      output: WORDS.length,
    },
    { ...direct, model: 'small', status: 'answered', reason: 'gateway_unreachable', input: 3, output: 5 },
    { ...direct, model: 'cut', status: 'interrupted', reason: 'gateway_unreachable', input: 0, output: 0 },
  ])
  // The application's own key of the provider never reaches the gateway.
  expect([...servers.keys]).toEqual(['Bearer psk_test'])
}
