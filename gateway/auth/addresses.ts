// IP addresses and networks as text. Owns their reading and the two questions asked of them: is an address in a network,
// does a network hold another. Pure; where a caller's address comes from is client-address.ts.

/** A network in CIDR terms: its first address as a number, and how many leading bits count. */
export type Network = { bits: 32 | 128; first: bigint; prefix: number }

const ADDRESS_CHARS_MAX = 45
const IPV4_IN_IPV6 = 0xffffn

/**
 * A network as `10.0.0.0/8`, `2001:db8::/32`, or one address alone.
 * @returns undefined for anything else, also where bits beyond the prefix are set: that is a slip, and guessing which
 *   half was meant could open a network.
 */
export function parseNetwork(text: string): Network | undefined {
  const [address = '', length, ...rest] = text.split('/')
  if (rest.length > 0) return undefined
  const host = parseAddress(address)
  if (host === undefined) return undefined
  if (length === undefined) return host
  if (!/^\d{1,3}$/.test(length)) return undefined
  // `::ffff:10.0.0.0/104` is 10.0.0.0/8; a shorter prefix would take in what is no IPv4 address.
  const wrapped = host.bits === 32 && address.includes(':') ? 96 : 0
  const prefix = Number(length) - wrapped
  if (prefix < 0 || prefix > host.bits) return undefined
  return (host.first & hostMask(host.bits, prefix)) === 0n ? { ...host, prefix } : undefined
}

/** One address, as the network of it alone. An IPv4 address written in IPv6 is the IPv4 address. */
export function parseAddress(text: string): Network | undefined {
  if (text.length === 0 || text.length > ADDRESS_CHARS_MAX) return undefined
  if (!text.includes(':')) {
    const first = ipv4Number(text)
    return first === undefined ? undefined : { bits: 32, first, prefix: 32 }
  }
  const first = ipv6Number(text)
  if (first === undefined) return undefined
  return first >> 32n === IPV4_IN_IPV6
    ? { bits: 32, first: first & 0xffff_ffffn, prefix: 32 }
    : { bits: 128, first, prefix: 128 }
}

/** Whether every address of `inner` is one of `outer`. */
export function holds(outer: Network, inner: Network): boolean {
  if (outer.bits !== inner.bits || inner.prefix < outer.prefix) return false
  return (inner.first & ~hostMask(outer.bits, outer.prefix)) === outer.first
}

/** Whether the address lies in one of the networks; false for what is no address. */
export function addressIsIn(address: string, networks: readonly string[]): boolean {
  const host = parseAddress(address)
  if (host === undefined) return false
  return networks.some((text) => {
    const network = parseNetwork(text)
    return network !== undefined && holds(network, host)
  })
}

const hostMask = (bits: number, prefix: number): bigint => (1n << BigInt(bits - prefix)) - 1n

/** Four decimals without leading zeros: `010` is ten to some readers and eight to others. */
function ipv4Number(text: string): bigint | undefined {
  const parts = text.split('.')
  if (parts.length !== 4 || !parts.every((part) => /^(0|[1-9]\d{0,2})$/.test(part) && Number(part) <= 255))
    return undefined
  return parts.reduce((sum, part) => (sum << 8n) | BigInt(part), 0n)
}

/** Eight groups of hex digits, one run of zero groups as `::`, the last two perhaps as an IPv4 address. No zone. */
function ipv6Number(text: string): bigint | undefined {
  const halves = text.split('::')
  if (halves.length > 2) return undefined
  const [head, tail] = halves.map((half) => (half === '' ? [] : half.split(':')))
  const left = ipv6Groups(head ?? [], tail === undefined)
  const right = tail === undefined ? [] : ipv6Groups(tail, true)
  if (left === undefined || right === undefined) return undefined
  const missing = 8 - left.length - right.length
  if (tail === undefined ? missing !== 0 : missing < 1) return undefined
  const groups = [...left, ...Array<bigint>(missing).fill(0n), ...right]
  return groups.reduce((sum, group) => (sum << 16n) | group, 0n)
}

function ipv6Groups(parts: readonly string[], endsAddress: boolean): bigint[] | undefined {
  const groups: bigint[] = []
  for (const [index, part] of parts.entries()) {
    if (/^[0-9a-f]{1,4}$/i.test(part)) {
      groups.push(BigInt(`0x${part}`))
      continue
    }
    const ipv4 = endsAddress && index === parts.length - 1 ? ipv4Number(part) : undefined
    if (ipv4 === undefined) return undefined
    groups.push(ipv4 >> 16n, ipv4 & 0xffffn)
  }
  return groups
}
