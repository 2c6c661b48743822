import { expect, test } from 'vitest'
import { readSeal, sealText } from '../../../../gateway/routes/seals.ts'

test('a dialect shows the seals of its own kind as they are', () => {
  expect(sealText({ by: 'openai', value: 'A+/=' }, 'openai')).toBe('A+/=')
  expect(readSeal('A+/=', 'openai')).toEqual({ seal: { by: 'openai', value: 'A+/=' }, on: 'thought' })
  expect(readSeal('A+/=', 'openai', true)?.seal.isRedacted).toBe(true)
})

test.each([
  [{ by: 'gemini', value: 'A' }, 'thought'],
  [{ by: 'azure_openai', value: 'A:B', isRedacted: true }, 'thought'],
  [{ by: 'gemini', value: 'A' }, 'call'],
] as const)('%j of a %s comes back as it went, through any dialect', (seal, thing) => {
  for (const own of [undefined, 'anthropic', 'openai']) {
    const text = sealText(seal, own, thing)
    expect(text).not.toBe(seal.value)
    expect(readSeal(text, own)).toEqual({ seal, on: thing })
  }
})

test('a value that looks like the form of a foreign seal is not taken for one', () => {
  const seal = { by: 'openai', value: 'penstock:gemini:t:A' }
  expect(readSeal(sealText(seal, 'openai'), 'openai')?.seal).toEqual(seal)
})

test('what says not whose it is belongs to nobody where the dialect has no kind of its own', () => {
  expect(readSeal('A')).toBeUndefined()
  expect(readSeal('', 'openai')).toBeUndefined()
  expect(readSeal('penstock:Gemini:t:A')).toBeUndefined()
})
