// What a request is filed under in reports, in the caller's own words: the header x-penstock-tags. Owns its form and its bounds. Pure.
//
//   x-penstock-tags: env=prod, feature=search
//
// Tags stand in usage rows in one canonical text, sorted by name: `env=prod,feature=search`. Names and values have no comma and no
// equals sign, so that a tag can be found in the text without taking it apart.
import type { Failure } from '../../protocol/errors.ts'
import { err, ok, type Result } from '../../protocol/result.ts'

const TAGS_HEADER = 'x-penstock-tags'

/** What a report can be told apart by at once; more belong into the caller's own records. */
const TAGS_MAX = 8
const TAG = /^([a-z][a-z0-9_-]{0,31})=([A-Za-z0-9_.:/@+-]{1,64})$/

/** @returns the canonical text, absent without tags; Failure `invalid_request` that names the header. */
export function parseTags(headers: Headers): Result<string | undefined, Failure> {
  const text = headers.get(TAGS_HEADER)
  if (text === null || text.trim() === '') return ok(undefined)
  const tags = text.split(',').map((part) => TAG.exec(part.trim()))
  const names = tags.map((tag) => tag?.[1])
  if (tags.length > TAGS_MAX || names.includes(undefined) || new Set(names).size !== names.length) {
    const message =
      `The header ${TAGS_HEADER} must be up to ${TAGS_MAX} pairs name=value with commas between them, each name once: names of ` +
      '1-32 lower-case letters, digits, _ and -, values of 1-64 letters, digits and _.:/@+-.'
    return err({ code: 'invalid_request', message, param: TAGS_HEADER })
  }
  return ok(
    tags
      .map((tag) => `${tag?.[1]}=${tag?.[2]}`)
      .toSorted()
      .join(','),
  )
}
