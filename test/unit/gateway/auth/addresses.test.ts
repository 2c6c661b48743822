import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { addressIsIn, holds, parseAddress, parseNetwork } from '../../../../gateway/auth/addresses.ts'

const network = (text: string) => {
  const parsed = parseNetwork(text)
  if (parsed === undefined) throw new Error(`${text} is no network`)
  return parsed
}

describe('an address', () => {
  test.each([
    ['10.1.2.3', '10.0.0.0/8', true],
    ['11.0.0.0', '10.0.0.0/8', false],
    ['9.255.255.255', '10.0.0.0/8', false],
    ['192.0.2.7', '192.0.2.7', true],
    ['192.0.2.8', '192.0.2.7', false],
    ['255.255.255.255', '0.0.0.0/0', true],
    ['2001:db8::1', '2001:db8::/32', true],
    ['2001:db9::1', '2001:db8::/32', false],
    ['2001:DB8:0:0:0:0:0:1', '2001:db8::1', true],
    ['::1', '::/0', true],
    // An IPv4 address stays one however it is written, and is in no IPv6 network.
    ['::ffff:10.1.2.3', '10.0.0.0/8', true],
    ['::ffff:0a01:0203', '10.0.0.0/8', true],
    ['10.1.2.3', '::ffff:10.0.0.0/104', true],
    ['10.1.2.3', '::/0', false],
    ['::1', '0.0.0.0/0', false],
  ])('%s in %s: %s', (address, cidr, expected) => {
    expect(addressIsIn(address, [cidr])).toBe(expected)
  })

  test.each([
    '',
    '10.0.0',
    '10.0.0.0.0',
    '010.0.0.1',
    '256.0.0.1',
    '1.2.3.4 ',
    '1.2.3.-4',
    '0x7f.0.0.1',
    '1e1.0.0.1',
    '::1%eth0',
    ':::',
    '1::2::3',
    '1:2:3:4:5:6:7',
    '1:2:3:4:5:6:7:8:9',
    '1:2:3:4:5:6:7:8::',
    '12345::',
    'g::',
    '1.2.3.4::',
    '::1.2.3',
    '[::1]',
    'localhost',
    '10.0.0.1, 10.0.0.2',
    `${'0'.repeat(60)}::1`,
  ])('"%s" is none, and is in no network', (text) => {
    expect(parseAddress(text)).toBeUndefined()
    expect(addressIsIn(text, ['0.0.0.0/0', '::/0'])).toBe(false)
  })

  test('is read the same from every way of writing it', () => {
    const groups = fc.array(fc.integer({ min: 0, max: 0xffff }), { minLength: 8, maxLength: 8 })
    fc.assert(
      fc.property(groups, (values) => {
        const whole = values.map((value) => value.toString(16).padStart(4, '0')).join(':')
        const number = BigInt(`0x${values.map((value) => value.toString(16).padStart(4, '0')).join('')}`)
        const isWrapped = number >> 32n === 0xffffn
        expect(parseAddress(whole)?.first).toBe(isWrapped ? number & 0xffff_ffffn : number)
        // As a URL's host it is written in its shortest form.
        const shortest = new URL(`http://[${whole}]/`).hostname.slice(1, -1)
        expect(parseAddress(shortest)).toEqual(parseAddress(whole))
      }),
    )
  })
})

describe('a network', () => {
  test.each([
    '10.0.0.1/8',
    '10.0.0.0/33',
    '10.0.0.0/-1',
    '10.0.0.0/',
    '10.0.0.0/8/8',
    '10.0.0.0/08x',
    '2001:db8::1/32',
    '::/129',
    '::ffff:10.0.0.0/8',
    '/8',
    'any',
  ])('"%s" is refused', (text) => {
    expect(parseNetwork(text)).toBeUndefined()
  })

  test('holds those within it, and never a wider one', () => {
    expect(holds(network('10.0.0.0/8'), network('10.1.0.0/16'))).toBe(true)
    expect(holds(network('10.0.0.0/8'), network('10.0.0.0/8'))).toBe(true)
    expect(holds(network('10.1.0.0/16'), network('10.0.0.0/8'))).toBe(false)
    expect(holds(network('10.0.0.0/8'), network('11.1.0.0/16'))).toBe(false)
    expect(holds(network('::/0'), network('10.0.0.0/8'))).toBe(false)
  })

  test('holds an address as its leading bits, written out, say', () => {
    const bits = (value: number) => value.toString(2).padStart(32, '0')
    const dotted = (value: number) => [24, 16, 8, 0].map((shift) => (value >>> shift) & 255).join('.')
    fc.assert(
      fc.property(fc.nat(0xffff_ffff), fc.nat(0xffff_ffff), fc.nat(32), fc.boolean(), (a, b, prefix, near) => {
        const first = Number.parseInt(bits(a).slice(0, prefix).padEnd(32, '0') || '0', 2)
        const host = near ? Number.parseInt(bits(a).slice(0, prefix) + bits(b).slice(prefix), 2) : b
        const expected = bits(host).startsWith(bits(first).slice(0, prefix))
        expect(addressIsIn(dotted(host), [`${dotted(first)}/${prefix}`])).toBe(expected)
      }),
    )
  })
})
