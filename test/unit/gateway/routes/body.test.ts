import { describe, expect, test } from 'vitest'
import { parseJson, readBody, withinJsonBounds } from '../../../../gateway/routes/body.ts'

const bytes = (text: string) => new TextEncoder().encode(text)

describe('JSON bounds', () => {
  test('count nesting and containers outside strings only', () => {
    expect(withinJsonBounds(bytes(`"${'['.repeat(1000)}"`))).toBe(true)
    expect(withinJsonBounds(bytes(String.raw`"\"${'['.repeat(1000)}"`))).toBe(true)
    expect(withinJsonBounds(bytes(`"\\\\"${'['.repeat(33)}`))).toBe(false)
    expect(withinJsonBounds(bytes('['.repeat(32)))).toBe(true)
    expect(withinJsonBounds(bytes('['.repeat(33)))).toBe(false)
    expect(withinJsonBounds(bytes(`[${'{},'.repeat(49_999)}`))).toBe(true)
    expect(withinJsonBounds(bytes(`[${'{},'.repeat(50_000)}`))).toBe(false)
    expect(withinJsonBounds(bytes(`[${'5,'.repeat(99_999)}5]`))).toBe(true)
    expect(withinJsonBounds(bytes(`[${'5,'.repeat(100_000)}5]`))).toBe(false)
    expect(withinJsonBounds(bytes(`[${'5,'.repeat(100_000)}5]`), 2_500_000)).toBe(true)
  })

  test.each([[''], ['{'], ['{"a":1,}'], ["{'a':1}"], ['NaN'], ['\u{feff}']])(
    '%j is refused without quoting it',
    (text) => {
      const parsed = parseJson(bytes(text))
      expect(parsed.ok).toBe(false)
    },
  )

  test('an error never shows the body', () => {
    const parsed = parseJson(bytes('{"secret prompt" oops'))
    expect(JSON.stringify(parsed)).not.toContain('secret')
  })
})

describe('reading a body', () => {
  const post = (body: BodyInit, headers: Record<string, string> = {}) =>
    new Request('http://x', { method: 'POST', body, headers, duplex: 'half' } as RequestInit)

  test('joins chunks and takes exactly the limit', async () => {
    const chunks = [bytes('ab'), bytes('cd')]
    const stream = new ReadableStream<Uint8Array>({
      pull(controller) {
        const next = chunks.shift()
        if (next === undefined) controller.close()
        else controller.enqueue(next)
      },
    })
    expect(await readBody(post(stream), 4)).toEqual({ ok: true, value: bytes('abcd') })
    expect(await readBody(post('abcde'), 4)).toMatchObject({ ok: false, error: { code: 'request_too_large' } })
  })

  test('what was declared is all there is: nobody waits for the end behind it', async () => {
    const open = (text: string) =>
      new ReadableStream<Uint8Array>({
        start(controller) {
          controller.enqueue(bytes(text))
        },
      })
    expect(await readBody(post(open('abcd'), { 'content-length': '4' }), 4)).toEqual({ ok: true, value: bytes('abcd') })
    const short = await readBody(post(open('abc'), { 'content-length': '4' }), 4, 20)
    expect(short).toMatchObject({ ok: false, error: { code: 'deadline_exceeded' } })
  })

  test('a body that breaks off is the caller fault it is', async () => {
    const broken = new ReadableStream<Uint8Array>({
      pull(controller) {
        controller.error(new Error('reset'))
      },
    })
    expect(await readBody(post(broken), 4)).toMatchObject({ ok: false, error: { code: 'invalid_request' } })
  })

  test('a body that trickles in for ever is given up at its deadline', async () => {
    let isCancelled = false
    const trickle = new ReadableStream<Uint8Array>({
      start(controller) {
        controller.enqueue(bytes('{'))
      },
      cancel() {
        isCancelled = true
      },
    })
    const read = await readBody(post(trickle), 1024, 20)
    expect(read).toMatchObject({ ok: false, error: { code: 'deadline_exceeded' } })
    expect(isCancelled).toBe(true)
  })

  test('no body is an empty one', async () => {
    expect(await readBody(new Request('http://x'), 4)).toEqual({ ok: true, value: new Uint8Array(0) })
  })
})
