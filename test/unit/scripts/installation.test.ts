import { readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { importJWK, jwtVerify, SignJWT } from 'jose'
import { describe, expect, test } from 'vitest'
import { digestOf } from '../../../scripts/bundle.ts'
import { openDataFolder } from '../../../scripts/data-folder.ts'
import { percentOf } from '../../../scripts/engine-build.ts'
import { createProgress } from '../../../scripts/progress.ts'
import { loadSecrets } from '../../../scripts/secrets.ts'
import { Teardown } from '../../../scripts/teardown.ts'
import { tempFolder } from './support/temp.ts'

describe('the data folder', () => {
  test('is made for its owner alone, and opens again', async () => {
    const dir = join(tempFolder(), 'a', 'b')
    const folder = await openDataFolder(dir)
    expect(statSync(dir).mode & 0o777).toBe(0o700)
    folder.lock.release()
    ;(await openDataFolder(dir)).lock.release()
  })

  test('serves one launcher at a time', async () => {
    const dir = tempFolder()
    const folder = await openDataFolder(dir)
    await expect(openDataFolder(dir)).rejects.toThrow(`another Penstock (process ${process.pid}) runs on ${dir}`)
    folder.lock.release()
  })

  test('is never a folder with something else in it', async () => {
    const dir = tempFolder()
    writeFileSync(join(dir, 'letter.txt'), 'dear')
    await expect(openDataFolder(dir)).rejects.toThrow('is not empty and not a data folder of Penstock')
  })
})

describe('the secrets', () => {
  test('are made once, for their owner alone', async () => {
    const path = join(tempFolder(), 'secrets.json')
    const first = await loadSecrets(path)
    expect(statSync(path).mode & 0o777).toBe(0o600)
    expect(await loadSecrets(path)).toEqual(first)
    expect(first.ADMIN_TOKEN.length).toBeGreaterThanOrEqual(32)
    expect(Buffer.from(first.SECRETS_KEK, 'base64')).toHaveLength(32)
  })

  test('hold a key that signs what its public half verifies', async () => {
    const { SIGNING_KEY_JWK } = await loadSecrets(join(tempFolder(), 'secrets.json'))
    const jwk = JSON.parse(SIGNING_KEY_JWK)
    const token = await new SignJWT({})
      .setProtectedHeader({ alg: 'EdDSA', kid: jwk.kid })
      .sign(await importJWK(jwk, 'EdDSA'))
    const { d: _, ...publicJwk } = jwk
    const { protectedHeader } = await jwtVerify(token, await importJWK(publicJwk, 'EdDSA'))
    expect(protectedHeader.kid).toMatch(/^[\w-]{43}$/)
  })

  test('are not made anew over a damaged file: what they encrypted would be lost', async () => {
    const path = join(tempFolder(), 'secrets.json')
    writeFileSync(path, '{"ADMIN_TOKEN":"short"}')
    await expect(loadSecrets(path)).rejects.toThrow('is damaged')
    expect(readFileSync(path, 'utf8')).toBe('{"ADMIN_TOKEN":"short"}')
  })
})

describe('the digest of a bundle', () => {
  test('changes with the content and the name of a file, and with nothing else', async () => {
    const root = tempFolder()
    writeFileSync(join(root, 'a.ts'), 'one')
    const first = await digestOf(root, ['a.ts'])
    writeFileSync(join(root, 'a.ts'), 'one')
    expect(await digestOf(root, ['a.ts'])).toBe(first)
    writeFileSync(join(root, 'a.ts'), 'two')
    expect(await digestOf(root, ['a.ts'])).not.toBe(first)
    writeFileSync(join(root, 'b.ts'), 'one')
    expect(await digestOf(root, ['b.ts'])).not.toBe(first)
  })
})

describe('the progress of a compilation', () => {
  test.each([
    ['[ 42%] Building CXX object x.o', 42],
    ['[100%] Built target x', 100],
    ['[7/36] Building CXX object x.o', 19],
    ['gcc: warning [50%]', undefined],
  ])('is read from %j', (line, percent) => {
    expect(percentOf(line)).toBe(percent)
  })
})

describe('the progress without a terminal', () => {
  function recorded() {
    let text = ''
    let nowMs = 0
    const output = { write: (more: string) => (text += more), isTTY: false, columns: 80 }
    const progress = createProgress({ ...output, write: (more) => void output.write(more) }, () => nowMs)
    return { progress, text: () => text, pass: (ms: number) => (nowMs += ms) }
  }

  test('is one plain line per step, with the time of those that took long', () => {
    const { progress, text, pass } = recorded()
    const quick = progress.step('Quick')
    const slow = progress.step('Slow')
    pass(100)
    quick.done()
    pass(1_400)
    slow.done('42 files')
    slow.done('twice')
    expect(text()).toBe('✓ Quick\n✓ Slow: 42 files (1.5 s)\n')
  })

  test('marks what failed', () => {
    const { progress, text } = recorded()
    progress.step('Model').failed()
    expect(text()).toBe('✗ Model: failed\n')
  })
})

describe('the teardown', () => {
  test('undoes the newest first, once, and all of it although one step fails', async () => {
    const done: string[] = []
    const teardown = new Teardown()
    teardown.add('first', () => void done.push('first'))
    teardown.add('second', () => Promise.reject(new Error('stuck')))
    teardown.add('third', async () => void done.push('third'))
    const [problems, again] = await Promise.all([teardown.run(), teardown.run()])
    expect(done).toEqual(['third', 'first'])
    expect(problems).toEqual(['second: stuck'])
    expect(again).toBe(problems)
  })
})
