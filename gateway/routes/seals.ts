// Seals on the client's wire. Owns their text form, in both directions and for every dialect, so that a conversation that moves
// between providers never gives one vendor's proof to another. Pure.
import type { Seal } from '../../protocol/request.ts'

/** What a seal is on: a thought, or the tool call beside it where a dialect has no place for the seal of a call. */
export type SealedThing = 'thought' | 'call'

/**
 * Begins the text of a seal that is not the dialect's own: the kind of provider that made it, and what it is of (`t` a
 * thought, `r` a thought that is encrypted in the seal, `c` a call). No vendor's own seal has a colon in it.
 */
const FOREIGN = /^penstock:([a-z][a-z0-9_.-]{0,63}):([trc]):/

/**
 * A seal as the text that a client is given.
 * @param own The kind of provider whose seals this dialect shows as they are; absent: none's.
 */
export function sealText(seal: Seal, own?: string, thing: SealedThing = 'thought'): string {
  if (seal.by === own && thing === 'thought' && !FOREIGN.test(seal.value)) return seal.value
  const mark = thing === 'call' ? 'c' : seal.isRedacted === true ? 'r' : 't'
  return `penstock:${seal.by}:${mark}:${seal.value}`
}

/**
 * The seal that a client gave back.
 * @param own As in `sealText`; without one, text that does not say whose it is is nobody's seal.
 * @param isRedacted Of a seal of the dialect's own kind, which only its place tells.
 */
export function readSeal(text: string, own?: string, isRedacted = false): { seal: Seal; on: SealedThing } | undefined {
  const [prefix, by, mark] = FOREIGN.exec(text) ?? []
  if (prefix !== undefined && by !== undefined) {
    const seal: Seal = { by, value: text.slice(prefix.length), ...(mark === 'r' ? { isRedacted: true } : {}) }
    return { seal, on: mark === 'c' ? 'call' : 'thought' }
  }
  if (own === undefined || text === '') return undefined
  return { seal: { by: own, value: text, ...(isRedacted ? { isRedacted: true } : {}) }, on: 'thought' }
}
