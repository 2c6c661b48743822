// That calls and their answers belong together: every vendor refuses a conversation in which they do not, each in its own
// words and after it was paid for. Owns the one rule for all dialects. Pure.
import type { ChatMessage } from '../../protocol/request.ts'

/** Where in the messages, and which call; `reason` says what is wrong with it. */
export type TurnFault = { at: number; callId: string; reason: 'unknown' | 'repeated' | 'unanswered' }

/**
 * Each tool message answers a call of the assistant message before it, each call once; and after a message with calls come the
 * answers to all of them, before anything else.
 * @returns the first fault; `unanswered` is found at the assistant's message.
 */
export function turnFault(messages: readonly ChatMessage[]): TurnFault | undefined {
  const open = new Set<string>()
  const answered = new Set<string>()
  let openedAt = 0
  for (const [at, message] of messages.entries()) {
    if (message.role === 'tool') {
      const callId = message.toolCallId ?? ''
      if (answered.has(callId)) return { at, callId, reason: 'repeated' }
      if (!open.delete(callId)) return { at, callId, reason: 'unknown' }
      answered.add(callId)
      continue
    }
    if (open.size > 0) break
    answered.clear()
    openedAt = at
    for (const part of message.content) {
      if (part.type !== 'tool_call') continue
      if (open.has(part.id)) return { at, callId: part.id, reason: 'repeated' }
      open.add(part.id)
    }
  }
  const [callId] = open
  return callId === undefined ? undefined : { at: openedAt, callId, reason: 'unanswered' }
}
