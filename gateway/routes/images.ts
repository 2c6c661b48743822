// Images as callers give them: in the request, or as an address that the target may fetch. Owns what is accepted; nothing is
// fetched here. Pure.
import { IMAGE_MEDIA_TYPES, type ImageSource } from '../../protocol/request.ts'
import { err, ok, type Result } from '../../protocol/result.ts'
import { isPublicHost } from '../policy/upstream-url.ts'

/** Longer addresses are refused by the vendors too. */
const URL_CHARS_MAX = 8192
/** Parameters of the type, as `charset`, say nothing of an image. */
const DATA = /^data:([^;,]{1,100})(?:;[^;,]{1,100}){0,4};base64,/i
const DATA_PREFIX_CHARS_MAX = 520
/** Groups of four characters are checked for by length: a pattern that counts them would need a stack for each. */
const BASE64 = /^[A-Za-z0-9+/]+={0,2}$/
/** As many encoders write it. */
const LINES_OR_PADDING = /[\s=]+/g
/** Names in wide use for types that the vendors know by another one. */
const OTHER_NAMES: Readonly<Record<string, string>> = { 'image/jpg': 'image/jpeg' }

/** An image in the request. @returns where it is refused what is wrong with it. */
export function imageData(mediaType: string, data: string): Result<ImageSource, string> {
  const named = mediaType.trim().toLowerCase()
  const type = Object.hasOwn(OTHER_NAMES, named) ? (OTHER_NAMES[named] ?? named) : named
  if (!IMAGE_MEDIA_TYPES.some((known) => known === type)) {
    return err(`Images of the type '${mediaType.slice(0, 50)}' are not supported; ${IMAGE_MEDIA_TYPES.join(', ')} are.`)
  }
  const written = data.length % 4 === 0 && BASE64.test(data) ? data : padded(data)
  if (written.length % 4 !== 0 || !BASE64.test(written)) return err('The data of an image is base64.')
  return ok({ kind: 'data', mediaType: type, data: written })
}

/** The same in one line and with its padding, which some vendors demand. */
function padded(data: string): string {
  const bare = data.replace(LINES_OR_PADDING, '')
  return bare + '='.repeat((4 - (bare.length % 4)) % 4)
}

/**
 * An image by its address: a `data:` URL, or one with https on a public host. Whoever fetches it may stand inside a private
 * network, so an address in one is refused whoever that is.
 */
export function imageUrl(url: string): Result<ImageSource, string> {
  if (/^data:/i.test(url)) {
    const [prefix, mediaType] = DATA.exec(url.slice(0, DATA_PREFIX_CHARS_MAX)) ?? []
    if (prefix === undefined || mediaType === undefined)
      return err("A data URL reads 'data:<media type>;base64,<data>'.")
    return imageData(mediaType, url.slice(prefix.length))
  }
  const address = url.length <= URL_CHARS_MAX && URL.canParse(url) ? new URL(url) : undefined
  if (address?.protocol !== 'https:') return err('An image is a data URL or an address that begins with https://.')
  if (address.username !== '' || address.password !== '')
    return err('The address of an image must not hold credentials.')
  if (!isPublicHost(address.hostname)) return err('The address of an image must be on a public host.')
  return ok({ kind: 'url', url: address.href })
}
