// Where an engine receives K and V, as texts of the engine's own ○. Owns which of them are for other hosts; what stands behind
// one is native-engine/src/kv/endpoint.h.
//
// An engine names one place under several addresses, best first: `unix:PATH tcp:HOST:PORT`. A space separates two where the
// next scheme follows, since paths may have spaces.

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

/** What a stranger may send an engine to: a number of a host, and nothing of this machine's file system. */
export const isRemoteAddress = (address: string): boolean =>
  /^tcp:(\d{1,3}(\.\d{1,3}){3}|\[[0-9a-fA-F:.]+\]):\d{1,5}$/.test(address)
