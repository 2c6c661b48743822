// Schemas closed for vendors that take no open objects.
import { expect, test } from 'vitest'
import { closedSchema } from '../../../../gateway/providers/closed-schema.ts'

const string = { type: 'string' }
const open = { type: 'object', properties: { a: string } }
const closed = { ...open, additionalProperties: false }

test.each<[string, unknown, unknown]>([
  ['an object that names its properties is closed', open, closed],
  ['one that is closed stays so', closed, closed],
  [
    'one whose caller says that it is open stays so',
    { ...open, additionalProperties: true },
    { ...open, additionalProperties: true },
  ],
  ['one that names nothing stays open', { type: 'object' }, { type: 'object' }],
  ['objects in a list are closed', { type: 'array', items: open }, { type: 'array', items: closed }],
  [
    'objects in properties are closed',
    { type: 'object', properties: { b: open } },
    { type: 'object', properties: { b: closed }, additionalProperties: false },
  ],
  [
    'objects among alternatives and definitions are closed',
    { anyOf: [open, { $ref: '#/$defs/x' }], $defs: { x: open } },
    { anyOf: [closed, { $ref: '#/$defs/x' }], $defs: { x: closed } },
  ],
  ['what must not fit is not made narrower', { not: open, oneOf: [open] }, { not: open, oneOf: [open] }],
  [
    'a property called `properties` is a property',
    { type: 'object', properties: { properties: string, items: string } },
    { type: 'object', properties: { properties: string, items: string }, additionalProperties: false },
  ],
  ['values that look like schemas stay as they are', { enum: [open], default: open }, { enum: [open], default: open }],
  ['a boolean is a schema', true, true],
])('%s', (_, schema, expected) => {
  expect(closedSchema(schema)).toEqual(expected)
})

test('a schema deeper than anybody writes is left as it is from there on', () => {
  let schema: unknown = open
  for (let depth = 0; depth < 5000; depth++) schema = { type: 'array', items: schema }
  expect(() => closedSchema(schema)).not.toThrow()
})
