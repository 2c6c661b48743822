import { describe, expect, test } from 'vitest'
import { maskText } from '../../../../gateway/guard/mask.ts'
import { PII_ENTITIES, type PiiEntity, piiFinder } from '../../../../gateway/guard/pii.ts'

const masked = (text: string, entities: readonly PiiEntity[]) =>
  maskText(text, entities.map(piiFinder), (label) => `[${label}]`).text

/** What stands between « and » is found, and nothing else. */
const parsed = (marked: string) => ({
  text: marked.replace(/[«»]/g, ''),
  expected: (label: string) => marked.replace(/«[^»]*»/g, `[${label}]`),
})

const CASES: Record<PiiEntity, string[]> = {
  email: [
    'Write to «bob@example.com».',
    '«a.b+c@sub.example.co.uk», «x_1@host.io»;',
    "('«bob@example.org»') o'«neil@example.org» ...«ann@example.org»",
    'not an address: @handle, a@b, user@localhost, a@b..com, me@.com',
    'npm i @scope/name@1.2.3 and git@github',
    `${'x'.repeat(100)}@example.com is longer than an address can be`,
  ],
  phone: [
    'Call «+49 30 901820» or «+1-202-555-0143».',
    '«(555) 123-4567», «555-123-4567», «0049 (30) 901820»',
    '«+14155552671»',
    'not numbers to call: 1,234.56 2024-01-15 1700000000000 12-34 555-1234 1.2.3',
    'order +12 items; 3 + 4 = 7; +123456789012345678901',
  ],
  card: [
    '«4111 1111 1111 1111», «5555-5555-5555-4444», «378282246310005»',
    '«6011111111111117» and «3530111333300000».',
    // One digit off, an unissued beginning, digits of something longer, a fraction, a word.
    '4111 1111 1111 1112, 1234567812345670, 41111111111111111111111, 0.4111111111111111, x4111111111111111',
    'paid «4111111111111111» on 12 05',
    'timestamps 1700000000000 and 2024112212345678',
  ],
  iban: [
    '«DE89 3704 0044 0532 0130 00», «GB82WEST12345698765432»',
    '«nl91abna0417164300» in small letters',
    'DE89370400440532013001 has a wrong check, XX89370400440532013000 no country, DE8937040044053201300 is short',
    'version AB12 and the code FR14 2004 1010',
  ],
  ip: [
    '«192.168.1.20», [«2001:db8::8a2e:370:7334»], «2001:0db8:85a3:0000:0000:8a2e:0370:7334».',
    'https://«10.1.2.3»:8080/x',
    'not addresses: 1.2.3 1.2.3.4.5 256.1.1.1 12:30:45 std::vector ::1 00:1A:2B:3C:4D:5E 1.2.3.4a',
  ],
  ssn: [
    'his is «123-45-6789».',
    '000-12-3456, 666-12-3456, 912-34-5678, 123-00-4567, 123-45-0000, 123-45-67890, 1123-45-6789, 2024-01-1500',
  ],
}

describe.each(PII_ENTITIES)('%s', (entity) => {
  test.each(CASES[entity])('%s', (marked) => {
    const { text, expected } = parsed(marked)
    expect(masked(text, [entity])).toBe(expected(entity.toUpperCase()))
  })
})

test('of two readings of one place the longer counts, and each place is masked once', () => {
  expect(masked('+4111 1111 1111 1111 a@example.com', PII_ENTITIES)).toMatch(/^(\+\[CARD\]|\[PHONE\]) \[EMAIL\]$/)
  expect(masked('123-45-6789 555-123-4567', PII_ENTITIES)).toBe('[SSN] [PHONE]')
})

test('a long text that looks like the beginning of everything takes no longer than its length', () => {
  const text = `${'a1.'.repeat(20_000)} ${'4 '.repeat(20_000)} ${'+1 '.repeat(20_000)} ${'DE89 '.repeat(20_000)}`
  expect(masked(text, PII_ENTITIES)).toBe(text)
})
