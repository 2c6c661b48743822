// Where the CUDA compile proof gets its compiler from. Compilers here are shell scripts that print what nvcc prints.
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { afterEach, expect, test, vi } from 'vitest'
import { NoCudaToolkit, obtainCublasLt, obtainToolkit, releaseOf } from '../../../scripts/cuda-toolkit.ts'
import { tempFolder } from './support/temp.ts'

const { signal } = new AbortController()

afterEach(() => {
  vi.unstubAllEnvs()
})

function compiler(release: string, others: string[] = []): string {
  const path = join(tempFolder(), 'bin', 'nvcc')
  mkdirSync(dirname(path))
  for (const name of ['nvcc', ...others]) {
    const file = join(dirname(path), name)
    writeFileSync(file, `#!/bin/sh\necho 'Cuda compilation tools, release ${release.slice(0, 4)}, V${release}'\n`)
    chmodSync(file, 0o755)
  }
  return path
}

test('the first compiler that is new enough is taken, with its disassembler if it has one', async () => {
  const old = compiler('11.8.89')
  const fresh = compiler('13.0.48', ['cuobjdump'])
  const toolkit = await obtainToolkit('nowhere', 'nothing', signal, [undefined, '/no/such/nvcc', old, fresh])
  const root = dirname(dirname(fresh))
  expect(toolkit).toEqual({ root, nvcc: fresh, release: '13.0.48', cuobjdump: join(root, 'bin', 'cuobjdump') })
  const plain = compiler('12.8.61')
  expect(await obtainToolkit('nowhere', 'nothing', signal, [plain])).not.toHaveProperty('cuobjdump')
})

test('without a compiler, and without pip to bring one, it says so', async () => {
  const dir = tempFolder()
  const requirements = join(dir, 'toolkit.txt')
  writeFileSync(requirements, 'nvidia-cuda-nvcc==13.5.37\n')
  vi.stubEnv('PATH', dir)
  const wanted = obtainToolkit(join(dir, 'build', 'toolkit'), requirements, signal, [compiler('11.8.89')])
  await expect(wanted).rejects.toThrow(NoCudaToolkit)
  await expect(wanted).rejects.toThrow('a CUDA toolkit (131 MB): no wheels to be had: there is no pip on this machine')
})

test('cuBLASLt is taken from the toolkit that has it, and asked of pip otherwise', async () => {
  const nvcc = compiler('13.0.48')
  const root = dirname(dirname(nvcc))
  const toolkit = { root, nvcc, release: '13.0.48' }
  const dir = tempFolder()
  const requirements = join(dir, 'cublas.txt')
  writeFileSync(requirements, 'nvidia-cublas==13.10.0.20\n')
  vi.stubEnv('PATH', dir)
  const wanted = () => obtainCublasLt(toolkit, join(dir, 'build', 'cublas'), requirements, signal)
  await expect(wanted()).rejects.toThrow('cuBLASLt (444 MB): no wheels to be had: there is no pip on this machine')
  mkdirSync(join(root, 'include'))
  writeFileSync(join(root, 'include', 'cublasLt.h'), '')
  expect(await wanted()).toBe(root)
})

test('the release of a compiler is read from what it prints', () => {
  expect(releaseOf('Cuda compilation tools, release 13.5, V13.5.37\nBuild cuda_13.5.r13.5/compiler.1')).toBe('13.5.37')
  expect(releaseOf('nvcc: command not found')).toBe(undefined)
})
