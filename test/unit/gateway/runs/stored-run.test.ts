import { describe, expect, test } from 'vitest'
import type { Principal } from '../../../../gateway/auth/principal.ts'
import { mayRead, nameOfItem, nameOfResponse, ownerOf } from '../../../../gateway/runs/stored-run.ts'

const principal: Principal = {
  orgId: 'o',
  projectId: 'p',
  keyId: 'k',
  credential: 'key',
  keyPrefix: 'psk_',
}
const NAME = '0123456789abcdef0123456789abcdef'

describe('a stored response', () => {
  const owner = ownerOf(principal)

  test.each([
    ['the key that made it', {}, true],
    ['another key of the project', { keyId: 'other' }, true],
    ['a key of another project', { projectId: 'q' }, false],
    ['a key of another organisation', { orgId: 'q' }, false],
    ['a credential of one customer alone', { endUser: 'them' }, false],
  ])('may be read by %s: %s', (_, over, expected) => {
    expect(mayRead(owner, ownerOf({ ...principal, ...over }))).toBe(expected)
  })

  test("of one customer's credential is that customer's and the project's", () => {
    const customers = ownerOf({ ...principal, endUser: 'them' })
    expect(mayRead(customers, ownerOf({ ...principal, endUser: 'them' }))).toBe(true)
    expect(mayRead(customers, ownerOf({ ...principal, endUser: 'others' }))).toBe(false)
    expect(mayRead(customers, owner)).toBe(true)
  })

  test('remembers the line of keys that made it, through rotations', () => {
    expect(ownerOf({ ...principal, keyId: 'second', keyLineId: 'first' }).keyLineId).toBe('first')
  })
})

test.each([
  [`resp_${NAME}`, NAME],
  [`resp-${NAME}`, undefined],
  [`resp_${NAME}0`, undefined],
  [`resp_${NAME.toUpperCase()}`, undefined],
  ['resp_', undefined],
  [`resp_${NAME}/../x`, undefined],
])('the id %s names %s', (id, name) => {
  expect(nameOfResponse(id)).toBe(name)
})

test.each([
  [`msg_${NAME}_0`, NAME],
  [`fco_${NAME}_i12`, NAME],
  [`msg_${NAME}`, undefined],
  ['msg_68a', undefined],
])('the item %s came with %s', (id, name) => {
  expect(nameOfItem(id)).toBe(name)
})
