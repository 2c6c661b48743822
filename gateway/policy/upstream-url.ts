// Which addresses an administrator may register as an upstream. Owns the reading of the address; no caller ever names
// one, and redirects are not followed. What a name resolves to is checked by the network that the call takes, see reach.ts.
import { err, ok, type Result } from '../../protocol/result.ts'

const URL_CHARS_MAX = 500
/** Names that no public resolver answers for: they mean this machine or this network. */
const PRIVATE_SUFFIXES = [
  'localhost',
  'localdomain',
  'local',
  'internal',
  'intranet',
  'private',
  'lan',
  'home.arpa',
  'corp',
  'home',
  // Of a Kubernetes service, where the resolver adds the rest.
  'svc',
]
/** Where cloud machines hand out credentials under a name, or at an address outside the link-local range. */
const METADATA_NAMES: ReadonlySet<string> = new Set(['metadata.goog', 'metadata.tencentyun.com'])
/** Within a cloud's own network, where its resolver may make the name whole. */
const METADATA_INSIDE = /^(metadata|instance-data)(\.|$)/
const METADATA_ADDRESSES: ReadonlySet<string> = new Set(['168.63.129.16', '100.100.100.200', '[fd20:ce::254]'])

type Place = 'public' | 'private' | 'forbidden'

/**
 * The base address in its normal form, without a slash at the end.
 * `https` reaches public hosts; `http`, and any host on a private network, need `allowPrivate`, and plain `http` never
 * leaves the private network. Link-local, multicast and unspecified addresses are always refused: no model is served
 * there, and cloud machines hand out credentials there.
 * @returns where it is refused a sentence for the administrator, without the address: that may hold a secret.
 */
export function parseUpstreamUrl(text: string, rules: { allowPrivate: boolean }): Result<string, string> {
  // The URL API drops or turns what people do not see: what is registered is what was written.
  if (/[\s\\\p{Cc}]/u.test(text)) return err('must not hold spaces, control characters or backslashes')
  if (text.length > URL_CHARS_MAX || !URL.canParse(text)) return err('is not an absolute URL of at most 500 characters')
  const url = new URL(text)
  if (url.protocol !== 'https:' && url.protocol !== 'http:') return err('must begin with https:// (or http://)')
  if (url.username !== '' || url.password !== '') return err('must not hold credentials; send them as "secret"')
  if (text.includes('#')) return err('must not have a fragment')
  if (text.includes('?')) return err('must not have a query: paths are appended to it')
  const place = placeOf(url.hostname)
  if (place === 'forbidden') return err('points to an address that no upstream can have')
  if (place === 'private' && !rules.allowPrivate) {
    return err('points into a private network; set "allow_private": true where that is meant')
  }
  if (place === 'public' && url.protocol === 'http:') return err('must use https: the secret would cross the network')
  return ok(`${url.origin}${url.pathname.replace(/\/+$/, '')}`)
}

/** Whether a caller's address may be given to somebody who fetches it. @param hostname As the URL API writes it. */
export const isPublicHost = (hostname: string): boolean => placeOf(hostname) === 'public'

/** `hostname` as the URL API writes it: lower case, IPv4 in four decimals whatever it was, IPv6 in brackets. */
function placeOf(hostname: string): Place {
  if (hostname === '' || METADATA_ADDRESSES.has(hostname)) return 'forbidden'
  if (hostname.startsWith('[')) return placeOfIpv6(hostname.slice(1, -1))
  if (/^\d+\.\d+\.\d+\.\d+$/.test(hostname)) return placeOfIpv4(hostname.split('.').map(Number))
  const name = hostname.replace(/\.$/, '')
  if (METADATA_NAMES.has(name) || name.split('.').includes('')) return 'forbidden'
  const inside = !name.includes('.') || PRIVATE_SUFFIXES.some((suffix) => name.endsWith(`.${suffix}`))
  if (!inside) return 'public'
  return METADATA_INSIDE.test(name) ? 'forbidden' : 'private'
}

function placeOfIpv4([a = 0, b = 0, c = 0]: number[]): Place {
  if (a === 0 || a >= 224 || (a === 169 && b === 254)) return 'forbidden'
  if (a === 10 || a === 127) return 'private'
  if (a === 172 && b >= 16 && b <= 31) return 'private'
  if (a === 192 && b === 168) return 'private'
  // Carrier-grade NAT, also what overlay networks such as Tailscale use.
  if (a === 100 && b >= 64 && b <= 127) return 'private'
  // Benchmarking; protocol assignments and documentation.
  if (a === 198 && (b === 18 || b === 19)) return 'private'
  const documentation =
    (a === 192 && b === 0 && (c === 0 || c === 2)) ||
    (a === 198 && b === 51 && c === 100) ||
    (a === 203 && b === 0 && c === 113)
  return documentation || (a === 192 && b === 88 && c === 99) ? 'forbidden' : 'public'
}

/** Allows what is global unicast, and of it nothing that wraps an IPv4 address. */
function placeOfIpv6(address: string): Place {
  if (address === '::1') return 'private'
  const mapped = /^::ffff:([0-9a-f]{1,4}):([0-9a-f]{1,4})$/.exec(address)
  if (mapped !== null) {
    const [high = 0, low = 0] = mapped.slice(1).map((group) => Number.parseInt(group, 16))
    // As the address that it is, so that all that is known of that holds.
    return placeOf([high >> 8, high & 255, low >> 8, low & 255].join('.'))
  }
  // A leading "::" leaves the first group 0, which is neither of the two ranges below.
  const [first = 0, second = 0] = address.split(':').map((group) => Number.parseInt(group === '' ? '0' : group, 16))
  // A cloud's own services, credentials among them, are the whole of fd00:ec2::/32.
  if (first === 0xfd00 && second === 0x0ec2) return 'forbidden'
  if ((first & 0xfe00) === 0xfc00) return 'private'
  if ((first & 0xe000) !== 0x2000) return 'forbidden'
  const teredoOrReserved = first === 0x2001 && (second < 0x0200 || second === 0x0db8)
  return teredoOrReserved || first === 0x2002 || first === 0x3fff ? 'forbidden' : 'public'
}
