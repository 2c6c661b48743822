// The steps of native-engine/bench/gpu.sh on programs that stand in for CMake, the driver's tools, the tests and the bench: what it
// runs with what, what is on the page when something fails, and that nothing is lost where there is no GPU.
import { execFile } from 'node:child_process'
import { chmodSync, copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { describe, expect, test } from 'vitest'
import { tempFolder } from './support/temp.ts'

const SCRIPT = join(import.meta.dirname, '..', '..', '..', 'native-engine', 'bench', 'gpu.sh')

type Programs = Record<string, string>

/** What CMake "builds": two binaries of tests and the bench, each a script. */
const BUILT: Programs = {
  cuda_first_test: "echo '[==========] 3 tests from 1 test suite ran. (1 ms total)'",
  cuda_second_test: "echo '[==========] 5 tests from 2 test suites ran. (1 ms total)'",
  'cuda-bench': `case $1 in
    facts) printf '| | |\\n| --- | --- |\\n| card | a card |\\n' ;;
    kernels) cp "$OUT/gpu-results.md" "$OUT/page-before-kernels"; printf '| kernel | µs |\\n| --- | ---: |\\n| copy | 1.0 |\\n' ;;
    engine) printf '\\n**%s**: weights\\n\\n| work | tokens/s |\\n| --- | ---: |\\n| decode | 7 |\\n' "$3 $5 $7" ;;
  esac`,
}

const TOOLS: Programs = {
  'nvidia-smi': `case $* in
    -L) echo 'GPU 0: a card (UUID: 1)' ;;
    *compute_cap*) echo 9.0 ;;
    *) echo 'a card, 580.1' ;;
  esac`,
  nvcc: "echo 'Cuda compilation tools, release 13.0, V13.0.88'",
  'compute-sanitizer': 'echo "========= ERROR SUMMARY: 0 errors"',
}

function write(folder: string, programs: Programs): string {
  mkdirSync(folder, { recursive: true })
  for (const [name, body] of Object.entries(programs)) {
    writeFileSync(join(folder, name), `#!/bin/bash\n${body}\n`)
    chmodSync(join(folder, name), 0o755)
  }
  return folder
}

/** Runs it with these programs in place of the usual ones. */
async function run(
  changed: {
    tools?: Programs
    built?: Programs
    configure?: string
    args?: string[]
    env?: Record<string, string>
  } = {},
) {
  const root = tempFolder()
  const [native, out, build] = [join(root, 'native-engine'), join(root, 'out'), join(root, 'build')]
  for (const folder of [join(native, 'bench'), join(native, 'tests'), out]) mkdirSync(folder, { recursive: true })
  copyFileSync(SCRIPT, join(native, 'bench', 'gpu.sh'))
  writeFileSync(join(out, 'gpu-results.md'), 'an older page')
  for (const name of ['cuda_first_test', 'cuda_second_test']) writeFileSync(join(native, 'tests', `${name}.cc`), '')
  const products = write(join(root, 'products'), { ...BUILT, ...changed.built })
  const cmake = `echo "cmake $*" >>'${out}/cmake-calls'
    case $1 in
      --build) mkdir -p "$2/bin"; cp -p '${products}'/* "$2/"; cp -p '${products}'/llama-* "$2/bin/" 2>/dev/null; true ;;
      *) ${changed.configure ?? 'true'} ;;
    esac`
  const tools = write(join(root, 'tools'), { ...TOOLS, cmake, ...changed.tools })
  const env = {
    PATH: `${tools}:/usr/bin:/bin`,
    OUT: out,
    PENSTOCK_GPU_BUILD: build,
    PENSTOCK_COMMIT: 'abc1234',
    ...changed.env,
  }
  const args = [join(native, 'bench', 'gpu.sh'), ...(changed.args ?? [])]
  const ended = await promisify(execFile)('/bin/bash', args, { env }).then(
    ({ stdout, stderr }) => ({ code: 0, stdout, stderr }),
    (error: { code: number; stdout: string; stderr: string }) => error,
  )
  const read = (name: string) => (existsSync(join(out, name)) ? readFileSync(join(out, name), 'utf8') : '')
  return { ...ended, page: read('gpu-results.md'), read, logs: existsSync(join(out, 'gpu-logs.tar.gz')) }
}

const SECTIONS = [
  '# CUDA: measured',
  '| card | a card |',
  '## Tests',
  '## Kernels',
  '## Engine',
  '## compute-sanitizer',
]

function expectSections(page: string) {
  const places = SECTIONS.map((section) => page.indexOf(section))
  expect(places.every((place) => place >= 0)).toBe(true)
  expect(places).toEqual([...places].sort((a, b) => a - b))
}

describe('gpu.sh', () => {
  test('builds for the card, and writes what tests, bench and sanitizers say', async () => {
    const { code, page, read, logs } = await run()
    expect(code).toBe(0)
    expectSections(page)
    expect(read('cmake-calls')).toContain('-DPENSTOCK_CUDA=ON')
    expect(read('cmake-calls')).toContain('-DCMAKE_CUDA_ARCHITECTURES=90')
    expect(read('cmake-calls')).toMatch(/--target cuda-bench cuda_first_test cuda_second_test/)
    expect(page).toMatch(/\| cuda_first_test \| 3 \| 0 \| 0 \| \d+ \|/)
    expect(page).toMatch(/\| cuda_second_test \| 5 \| 0 \| 0 \| \d+ \|/)
    expect(page).toContain('| copy | 1.0 |')
    for (const model of ['8b Q4_0', '8b Q8_0', '1b Q8_0', '8b F16']) expect(page).toContain(`**${model} own**`)
    expect(page).not.toContain('cublaslt')
    for (const tool of ['memcheck', 'racecheck', 'synccheck', 'initcheck'])
      expect(page).toContain(`| ${tool} | cuda_second_test | ERROR SUMMARY: 0 errors |`)
    expect(page).toContain('Commit abc1234')
    expect(logs).toBe(true)
  })

  test('has cuBLASLt multiply too where CMake found it', async () => {
    const { code, page } = await run({ configure: "echo '-- cuBLASLt: found'" })
    expect(code).toBe(0)
    expect(page).toContain('**8b F16 cublaslt**')
  })

  test('llama.cpp is built where its sources are, computes the same model, and stands beside ours', async () => {
    const rows = [
      '| work | tokens/s | ms per step |',
      '| --- | ---: | ---: |',
      '| prefill of 512 | 1200 | 1 |',
      '| decode, batch 8, context 1024 | 300 | 1 |',
    ]
    const answer = (pp: number, pl: number, speedPp: number, speedTg: number) =>
      `{"flash_attn": 1, "pp": ${pp}, "tg": 64, "pl": ${pl}, "n_kv": 9, "t_pp": 1.0, "speed_pp": ${speedPp}, "t_tg": 1.0, "speed_tg": ${speedTg}, "t": 1.0}`
    const { code, page, read } = await run({
      env: { PENSTOCK_LLAMA_CPP: '/sources/of/llama' },
      built: {
        'cuda-bench': `case $1 in engine) touch "$9"; printf '%s\n' ${rows.map((row) => `'${row}'`).join(' ')} ;; esac`,
        'llama-batched-bench': `[ -f "$2" ] || exit 3
          case $* in
            *'-ntg 64'*) echo '${answer(1024, 8, 900, 100)}'; echo '${answer(1024, 8, 900, 150)}' ;;
            *) echo '${answer(512, 1, 1000, 9)}'; echo '${answer(512, 1, 800, 9)}' ;;
          esac`,
      },
    })
    expect(code).toBe(0)
    expect(read('cmake-calls')).toContain('-S /sources/of/llama')
    expect(page).toContain('| prefill of 512 | 1200 | 1000 | 1.20x |')
    expect(page).toContain('| decode, batch 8, context 1024 | 300 | 150 | 2.00x |')
  })

  test('a step that fails is on the page with its last words, and the others are there', async () => {
    const { code, page } = await run({
      built: {
        cuda_first_test:
          "echo 'rows.cc:7: Failure'; echo '[==========] 3 tests from 1 test suite ran.'; echo '[  FAILED  ] Rows.Sum'; exit 1",
        'cuda-bench':
          BUILT['cuda-bench']?.replace('kernels)', "kernels) echo 'no such kernel'; exit 3;;\n nothing)") ?? '',
      },
    })
    expect(code).toBe(1)
    expectSections(page)
    expect(page).toMatch(/\| cuda_first_test \| 3 \| \*\*1\*\* \(exit 1\) \|/)
    expect(page).toContain('rows.cc:7: Failure')
    expect(page).toMatch(/\| cuda_second_test \| 5 \| 0 \|/)
    expect(page).toContain('**kernels failed (exit 3):**')
    expect(page).toContain('no such kernel')
    expect(page).toContain('**8b F16 own**')
  })

  test('what a sanitizer finds is on the page', async () => {
    const finding = 'echo "========= Invalid __global__ read"; echo "========= ERROR SUMMARY: 1 error"; exit 9'
    const { code, page } = await run({ tools: { 'compute-sanitizer': finding } })
    expect(code).toBe(1)
    expect(page).toContain('| memcheck | cuda_first_test | ERROR SUMMARY: 1 error **(exit 9)** |')
    expect(page).toContain('========= Invalid __global__ read')
  })

  test('the page grows step by step', async () => {
    const before = (await run()).read('page-before-kernels')
    expect(before).toContain('| card | a card |')
    expect(before).toMatch(/\| cuda_second_test \| 5 \| 0 \|/)
    expect(before).not.toContain('## Engine')
  })

  test('without GoogleTest the bench is built and run alone', async () => {
    const refuses = `case $* in
      *PENSTOCK_TESTS=OFF*) ;;
      *) echo 'Target links to GTest::gtest_main but the target was not found'; exit 1 ;;
    esac`
    const { code, page, read } = await run({ configure: refuses })
    expect(code).toBe(1)
    expect(page).toContain('**Skipped: GoogleTest is not here.**')
    expect(page).toContain('| copy | 1.0 |')
    expect(read('cmake-calls')).toMatch(/--target cuda-bench -- /)
  })

  test('a build that fails leaves a page that says why', async () => {
    const { code, page } = await run({ configure: "echo 'no CUDA compiler works'; exit 1" })
    expect(code).toBe(1)
    expect(page).toContain('no CUDA compiler works')
  })

  test.each([
    ['no GPU', { 'nvidia-smi': 'echo "No devices were found"; exit 6' }, [], 'nvidia-smi finds no GPU; --emulated'],
    ['an option that there is not', {}, ['--fast'], 'unknown option --fast'],
  ])('with %s nothing is begun, and the old page stays', async (_, tools, args, message) => {
    const { code, stderr, page, read } = await run({ tools, args })
    expect(code).toBe(2)
    expect(stderr).toContain(message)
    expect(page).toBe('an older page')
    expect(read('cmake-calls')).toBe('')
  })

  test('on the emulator it needs neither GPU nor compiler for one, and says that no time means anything', async () => {
    const none = 'exit 127'
    const { code, page, read } = await run({ tools: { 'nvidia-smi': none, nvcc: none }, args: ['--emulated'] })
    expect(read('cmake-calls')).toContain('-DPENSTOCK_CUDA=EMULATED')
    expect(page).toContain('**Emulated, no speed')
    expect(page).toContain('**tiny Q8_0 own**')
    // Its tests are those of every `npm test`: a few are enough.
    expect(page).not.toContain('cuda_first_test')
    expect(code).toBe(0)
  })
})
