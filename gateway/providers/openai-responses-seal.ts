// Thoughts of the Responses API as seals: the item's id and its encrypted content, which go back together. Owns their text form. Pure.

/** What can be given back at most; longer thoughts go without their proof. */
const ENCRYPTED_CHARS_MAX = 1024 * 1024
const ITEM_ID = /^[A-Za-z0-9_-]{1,128}$/
const SEALED = /^([A-Za-z0-9_-]{0,128}):(.*)$/s

/** Undefined where there is nothing to give back, or too much. @param id Of the reasoning item. */
export function sealValue(id: unknown, encrypted: unknown): string | undefined {
  if (typeof encrypted !== 'string' || encrypted === '' || encrypted.length > ENCRYPTED_CHARS_MAX) return undefined
  return `${typeof id === 'string' && ITEM_ID.test(id) ? id : ''}:${encrypted}`
}

/** A caller may have changed it: whatever it is, the vendor that encrypted it finds out. */
export function readSealValue(value: string): { id?: string; encrypted_content: string } {
  const [, id = '', encrypted = value] = SEALED.exec(value) ?? []
  return { ...(id === '' ? {} : { id }), encrypted_content: encrypted }
}
