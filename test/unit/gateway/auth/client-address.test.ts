import { describe, expect, test } from 'vitest'
import { clientAddress } from '../../../../gateway/auth/client-address.ts'

/** workerd tells the peer in `request.cf`, which no header can set. */
function from(headers: Record<string, string>, peer?: unknown): Request {
  const request = new Request('http://gateway.test/', { headers })
  Object.defineProperty(request, 'cf', { value: peer === undefined ? undefined : { clientIp: peer } })
  return request
}
const forged = { 'cf-connecting-ip': '10.0.0.1', 'x-real-ip': '10.0.0.2', 'x-forwarded-for': '10.0.0.3' }

describe('the client’s address', () => {
  test('is unknown where the deployment names no place, whatever headers say', () => {
    expect(clientAddress(from(forged, '192.0.2.1'), {})).toBeUndefined()
    expect(clientAddress(from(forged, '192.0.2.1'), { CLIENT_ADDRESS: '' })).toBeUndefined()
  })

  test('is the peer’s under `peer`, and no header counts', () => {
    expect(clientAddress(from(forged, '192.0.2.1'), { CLIENT_ADDRESS: 'peer' })).toBe('192.0.2.1')
    expect(clientAddress(from(forged, '127.0.0.1:36176'), { CLIENT_ADDRESS: 'peer' })).toBe('127.0.0.1')
    expect(clientAddress(from(forged, '[2001:db8::1]:36176'), { CLIENT_ADDRESS: 'peer' })).toBe('2001:db8::1')
    expect(clientAddress(from(forged, '2001:db8::1'), { CLIENT_ADDRESS: 'peer' })).toBe('2001:db8::1')
    expect(clientAddress(from(forged, 'unix:socket:1'), { CLIENT_ADDRESS: 'peer' })).toBeUndefined()
    expect(clientAddress(from({ ...forged, peer: '10.0.0.9' }), { CLIENT_ADDRESS: 'peer' })).toBeUndefined()
    expect(clientAddress(from(forged, 7), { CLIENT_ADDRESS: 'peer' })).toBeUndefined()
  })

  test('is in the one header that is named', () => {
    expect(clientAddress(from(forged, '192.0.2.1'), { CLIENT_ADDRESS: 'CF-Connecting-IP' })).toBe('10.0.0.1')
    expect(clientAddress(from({ 'x-real-ip': '10.0.0.2' }), { CLIENT_ADDRESS: 'cf-connecting-ip' })).toBeUndefined()
  })

  test.each(['10.0.0.1, 10.0.0.2', 'unknown', '', '10.0.0.1:443', '[::1]'])(
    'is unknown where the header says "%s"',
    (value) => {
      expect(clientAddress(from({ 'x-real-ip': value }), { CLIENT_ADDRESS: 'x-real-ip' })).toBeUndefined()
    },
  )

  test('is unknown under a name that is no header', () => {
    expect(clientAddress(from(forged), { CLIENT_ADDRESS: 'not a header' })).toBeUndefined()
  })
})
