// SHA-256 of short texts. Owns that it is taken at once: the Web API answers by a promise, and for a few hundred bytes going
// through the runtime's event loop costs many times what the hash does. Pure.
/// <reference path="./node-crypto.d.ts" />
import { createHash } from 'node:crypto'

/** In hex. */
export const sha256Hex = (text: string): string => createHash('sha256').update(text).digest('hex')
