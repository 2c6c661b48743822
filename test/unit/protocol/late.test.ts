// Schemas made when they are first used: when that is, and that they are then what was made.
import { describe, expect, test } from 'vitest'
import * as z from 'zod'
import { late } from '../../../protocol/late.ts'

/** A schema beside the number of times that it was made. */
function counted<Schema extends z.ZodType>(make: () => Schema) {
  const made = { times: 0 }
  const schema = late(() => {
    made.times++
    return make()
  })
  return { schema, made }
}

describe('a schema that is made late', () => {
  test('is not made before its first use, and once however often it is used', () => {
    const { schema, made } = counted(() => z.object({ name: z.string() }))
    expect(made.times).toBe(0)
    expect(schema.parse({ name: 'a' })).toEqual({ name: 'a' })
    expect(schema.safeParse({ name: 1 }).success).toBe(false)
    expect(schema.safeParse({ name: 'b' }).success).toBe(true)
    expect(made.times).toBe(1)
  })

  test('is made for a schema that is built out of it, whichever way', () => {
    const part = counted(() => z.object({ type: z.literal('text'), text: z.string().min(1) }))
    const other = counted(() => z.object({ type: z.literal('image'), url: z.string() }))
    const whole = late(() =>
      z.object({
        parts: z.array(z.discriminatedUnion('type', [part.schema, other.schema])),
        first: part.schema.optional(),
        ...other.schema.pick({ url: true }).shape,
      }),
    )
    expect([part.made.times, other.made.times]).toEqual([0, 0])
    const value = { parts: [{ type: 'text', text: 'a' }], url: 'b' }
    expect(whole.parse(value)).toEqual(value)
    const wrong = whole.safeParse({ parts: [{ type: 'text', text: '' }], url: 'b' })
    expect(wrong.error?.issues.map(({ path, code }) => ({ path, code }))).toEqual([
      { path: ['parts', 0, 'text'], code: 'too_small' },
    ])
    expect([part.made.times, other.made.times]).toEqual([1, 1])
  })

  test('has the fields, the methods and the class of what was made', () => {
    const { schema } = counted(() => z.strictObject({ id: z.int(), note: z.string().exactOptional() }))
    expect('_zod' in schema).toBe(true)
    expect(schema instanceof z.ZodObject).toBe(true)
    expect(Object.keys(schema.shape)).toEqual(['id', 'note'])
    expect(schema.extend({ more: z.boolean() }).parse({ id: 1, more: true })).toEqual({ id: 1, more: true })
    expect(schema.safeParse({ id: 1, more: true }).success).toBe(false)
    expect(z.toJSONSchema(schema)).toMatchObject({ type: 'object', required: ['id'], additionalProperties: false })
  })

  test('keeps refinements, transformations and defaults', () => {
    const even = late(() => z.int().refine((value) => value % 2 === 0, 'must be even'))
    const { schema } = counted(() => z.object({ size: even.default(2), text: z.string().transform(BigInt) }))
    expect(schema.parse({ text: '12' })).toEqual({ size: 2, text: 12n })
    expect(schema.safeParse({ size: 3, text: '1' }).error?.issues[0]?.message).toBe('must be even')
  })

  test('is tried again where making it failed', () => {
    let times = 0
    const schema = late(() => {
      if (++times === 1) throw new Error('not yet')
      return z.string()
    })
    expect(() => schema.parse('a')).toThrow('not yet')
    expect(schema.parse('a')).toBe('a')
  })

  test('may name itself', () => {
    type Tree = { leaves: Tree[] }
    const tree: z.ZodType<Tree> = late(() => z.object({ leaves: z.lazy(() => z.array(tree)) }))
    expect(tree.parse({ leaves: [{ leaves: [] }] })).toEqual({ leaves: [{ leaves: [] }] })
    expect(tree.safeParse({ leaves: [{ leaves: 1 }] }).success).toBe(false)
  })
})
