// Where a backend says it is reached. Owns which addresses the gateway agrees to call. Pure.

/**
 * The address in its normal form without a trailing slash, or undefined where it is not one the gateway calls.
 * Private addresses are fine: only holders of an enrolment token get this far, and GPU hosts live there.
 */
export function backendUrl(text: string): string | undefined {
  const url = URL.parse(text)
  if (url === null || (url.protocol !== 'http:' && url.protocol !== 'https:')) return undefined
  if (url.username !== '' || url.password !== '' || url.search !== '' || url.hash !== '') return undefined
  return `${url.origin}${url.pathname}`.replace(/\/+$/, '')
}
