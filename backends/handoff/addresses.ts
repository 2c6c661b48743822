// Where an engine receives K and V, as texts of the engine's own ○. Owns which of them are for other hosts; what stands behind
// one is native-engine/src/kv/endpoint.h.
//
// An engine names one place under several addresses, best first: `unix:PATH tcp:HOST:PORT`. A space separates two where the
// next scheme follows, since paths may have spaces.
import { BlockList, isIP } from 'node:net'

const SEPARATOR = / (?=(?:unix|tcp):)/

/** Listens everywhere: that is no address of a place. */
const ANYWHERE = /^tcp:(0\.0\.0\.0|\[?::\]?):/

/**
 * The address that other hosts reach; absent: there is none.
 * @param known how they reach it, where the engine cannot know: behind a translated or an unnamed address.
 */
export function remoteAddress(addresses: string, known: string | undefined): string | undefined {
  const tcp = addresses.split(SEPARATOR).find((address) => address.startsWith('tcp:'))
  if (tcp === undefined) return undefined
  return known ?? (ANYWHERE.test(tcp) ? undefined : tcp)
}

/** Means this machine, whichever it is. */
const LOOPBACK = new BlockList()
LOOPBACK.addSubnet('127.0.0.0', 8, 'ipv4')
LOOPBACK.addAddress('::1', 'ipv6')
const NO_PLACE = new BlockList()
NO_PLACE.addSubnet('0.0.0.0', 8, 'ipv4')
NO_PLACE.addAddress('::', 'ipv6')

/**
 * What a stranger may send an engine to: a number of a host, and nothing of this machine, neither its files nor the services that
 * listen to it alone.
 * @param from where the stranger is: one on this machine may name it.
 */
export function isRemoteAddress(address: string, from: string | undefined): boolean {
  const found = /^tcp:(?:([\d.]+)|\[([0-9a-fA-F:.]+)\]):\d{1,5}$/.exec(address)
  const host = found?.[1] ?? found?.[2] ?? ''
  if (isIP(host) !== (found?.[1] === undefined ? 6 : 4) || isIn(NO_PLACE, host)) return false
  return !isIn(LOOPBACK, host) || (from !== undefined && isIn(LOOPBACK, from))
}

/** IPv4 in the form of IPv6 is found too. */
const isIn = (list: BlockList, host: string): boolean => list.check(host, isIP(host) === 6 ? 'ipv6' : 'ipv4')
