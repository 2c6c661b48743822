// The smallest conversation, for tests that are about something else than what was asked.
import { type InferenceRequest, NEUTRAL_SAMPLING } from '../../../../protocol/request.ts'

export const PLAIN_REQUEST: InferenceRequest = {
  model: 'm',
  input: { kind: 'chat', messages: [{ role: 'user', content: [{ type: 'text', text: 'hi' }] }] },
  sampling: NEUTRAL_SAMPLING,
  n: 1,
  stop: [],
}
