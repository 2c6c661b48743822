// What the CUDA compile proof reads out of compilers' reports, and what it refuses. The reports are nvcc 13.5's own lines.
import { expect, test } from 'vitest'
import { includedFiles } from '../../../scripts/cuda-includes.ts'
import {
  type CompiledKernel,
  compareWithLimits,
  enumerators,
  kernelName,
  type LimitsTable,
  parseLimits,
  parsePtxas,
  parseSass,
  printLimits,
  summarizeLimits,
  updateLimits,
} from '../../../scripts/cuda-limits.ts'

const PTXAS = `ptxas info    : Overriding maximum register limit 256 for '_Z7spillerPfi' with  32 of maxrregcount option
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z7spillerPfi' for 'sm_80'
ptxas info    : Function properties for _Z7spillerPfi
    1248 bytes stack frame, 1188 bytes spill stores, 1408 bytes spill loads
ptxas info    : Used 32 registers, used 0 barriers, 1248 bytes cumulative stack size, 364 bytes cmem[0]
ptxas info    : Compile time = 25.215 ms
ptxas info    : Compiling entry function '_Z4gemvPf' for 'sm_80'
ptxas info    : Function properties for _Z4gemvPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 26 registers, used 1 barriers, 512 bytes smem, 376 bytes cmem[0]`

const SASS = `	code for sm_90
		Function : _Z4gemvPf
	.headerflags	@"EF_CUDA_SM90 EF_CUDA_VIRTUAL_SM(EF_CUDA_SM90)"
        /*0090*/                   LDG.E.128.CONSTANT R4, desc[UR6][R4.64] ;   /* 0x0000000604047981 */
                                                                              /* 0x000ea2000c1e9d00 */
        /*01d0*/              @!PT LDS RZ, [RZ] ;                              /* 0x00000000ffff7984 */
        /*01e0*/              @!P0 LDS RZ, [RZ] ;                              /* 0x00000000ffff7984 */
        /*01f0*/             @!UP0 UIADD3 UR4, UR4, 0x1, URZ ;                 /* 0x0000000104048890 */
		Function : _Z5other
        /*0000*/                   IMMA.16832.S8.S8 R8, R4.ROW, R4.COL, RZ ;   /* 0x0000000504087237 */`

const TABLE: LimitsTable = {
  about: 'x',
  release: '13.5.37',
  architectures: ['sm_80', 'sm_90'],
  instructions: { gemv: { uses: ['IDP', 'LDG.128'], avoids: ['DFMA'] } },
  kernels: { 'matmul.cu': { 'gemv<4>': { registers: [32, 40], sharedBytes: 512, barriers: 1 } } },
}

function compiled(
  architecture: string,
  usage: Partial<CompiledKernel['usage']> = {},
  names?: string[],
): CompiledKernel {
  return {
    file: 'matmul.cu',
    kernel: 'gemv<4>',
    architecture,
    usage: { registers: 30, spillBytes: 0, stackBytes: 0, sharedBytes: 512, barriers: 1, ...usage },
    instructions: Object.fromEntries(
      (names ?? ['LDG.E.128.CONSTANT', 'IDP.4A.S8.S8', 'EXIT']).map((name) => [name, 1]),
    ),
  }
}

const both = (usage: Partial<CompiledKernel['usage']> = {}, names?: string[]) => [
  compiled('sm_80', usage, names),
  compiled('sm_90', usage, names),
]

test('each entry function has its registers, spills, stack, shared memory and barriers', () => {
  const found = parsePtxas(PTXAS.split('\n'))
  expect([...found.keys()]).toEqual(['_Z7spillerPfi', '_Z4gemvPf'])
  expect(found.get('_Z7spillerPfi')).toEqual({
    registers: 32,
    spillBytes: 2596,
    stackBytes: 1248,
    sharedBytes: 0,
    barriers: 0,
  })
  expect(found.get('_Z4gemvPf')).toMatchObject({ registers: 26, spillBytes: 0, sharedBytes: 512, barriers: 1 })
})

test('instructions are counted per function, whatever predicate stands before them', () => {
  const found = parseSass(SASS.split('\n'))
  expect(found.get('_Z4gemvPf')).toEqual({ 'LDG.E.128.CONSTANT': 1, LDS: 2, UIADD3: 1 })
  expect(found.get('_Z5other')).toEqual({ 'IMMA.16832.S8.S8': 1 })
})

test('a kernel is named without its namespace, its file and its arguments, and enums by their names', () => {
  const names = enumerators(`
    // Values are the file's.
    enum class TensorType : uint32_t {
      f32 = 0,
      f16,  // after f32, = 9 in another format
      q8_0 = 8,
      q4_k = 12
    };
    enum class KvType : uint8_t { f16, f32, q8_0 };`)
  expect(Object.fromEntries(names)).toEqual({
    'TensorType 0': 'f32',
    'TensorType 1': 'f16',
    'TensorType 8': 'q8_0',
    'TensorType 12': 'q4_k',
    'KvType 0': 'f16',
    'KvType 1': 'f32',
    'KvType 2': 'q8_0',
  })
  const format = 'penstock::cuda::QuantFormat<(penstock::TensorType)12>'
  const demangled = `void penstock::cuda::(anonymous namespace)::gemv<${format}, 3, (penstock::Other)1 >(uint4 const*)`
  expect(kernelName(demangled, names)).toBe('gemv<QuantFormat<q4_k>, 3, Other 1 >')
  expect(kernelName('penstock::cuda::copy(__half*)', names)).toBe('copy')
})

test('a kernel within its limits is accepted, and so is one that needs less', () => {
  expect(compareWithLimits(TABLE, both(), '13.5.37')).toEqual([])
  expect(compareWithLimits(TABLE, both({ registers: 8, sharedBytes: 0, barriers: 0 }), '13.5.37')).toEqual([])
})

test('spills, and more registers, shared memory, stack or barriers than the row allows, are refused', () => {
  const cases: [Partial<CompiledKernel['usage']>, string][] = [
    [{ spillBytes: 4 }, 'spills 4 bytes'],
    [{ registers: 33 }, 'takes 40 registers, its limit is 32'],
    [{ sharedBytes: 513 }, 'takes 513 bytes of shared memory, its limit is 512'],
    [{ stackBytes: 8 }, 'takes 8 bytes of stack, its limit is 0'],
    [{ barriers: 2 }, 'takes 2 barriers, its limit is 1'],
  ]
  for (const [usage, finding] of cases) {
    const findings = compareWithLimits(TABLE, [compiled('sm_80', usage), compiled('sm_90')], '13.5.37')
    expect(findings).toEqual([`matmul.cu: gemv<4> (sm_80) ${finding}`])
  }
})

test('another release of the compiler may take one step of registers more, and still may not spill', () => {
  expect(compareWithLimits(TABLE, both({ registers: 40 }), '13.4.92')).toEqual([])
  expect(compareWithLimits(TABLE, both({ registers: 49 }), '13.4.92')).toHaveLength(2)
  expect(compareWithLimits(TABLE, both({ spillBytes: 4 }), '13.4.92')).toHaveLength(2)
})

test('a kernel without a row, a row without a kernel and instructions of nobody are refused', () => {
  const stranger = { ...compiled('sm_80'), kernel: 'stranger' }
  const findings = compareWithLimits(TABLE, [stranger], '13.5.37')
  expect(findings).toEqual([
    'matmul.cu: stranger has no row in the table',
    'matmul.cu: gemv<4> has a row in the table but is not there',
    'gemv has instructions in the table but is not there',
  ])
})

test('a kernel for an architecture that the table lacks is refused', () => {
  expect(compareWithLimits(TABLE, [...both(), compiled('sm_110')], '13.5.37')).toHaveLength(1)
})

test('a kernel without the instructions that it is meant to use, or with those that it avoids, is refused', () => {
  expect(compareWithLimits(TABLE, both({}, ['LDG.E.64', 'IDP.4A.S8.S8']), '13.5.37')).toEqual([
    'matmul.cu: gemv<4> (sm_80) has no LDG.128',
    'matmul.cu: gemv<4> (sm_90) has no LDG.128',
  ])
  const names = ['LDG.E.128', 'IDP.4A.S8.S8', 'STL.64', 'DFMA']
  expect(compareWithLimits(TABLE, [compiled('sm_80', {}, names), compiled('sm_90')], '13.5.37')).toEqual([
    'matmul.cu: gemv<4> (sm_80) has DFMA',
    'matmul.cu: gemv<4> (sm_80) has STL',
  ])
})

test('without a disassembler limits are compared and instructions are not', () => {
  const { instructions: _, ...blind } = compiled('sm_80')
  expect(compareWithLimits(TABLE, [blind], '13.5.37')).toEqual([])
})

test('an update takes what was compiled in steps of eight registers and keeps what is declared by hand', () => {
  const updated = updateLimits(TABLE, [compiled('sm_90', { registers: 41 }), compiled('sm_80')], '14.0.1')
  expect(updated.kernels['matmul.cu']?.['gemv<4>']).toEqual({ registers: [32, 48], sharedBytes: 512, barriers: 1 })
  expect(updated.release).toBe('14.0.1')
  expect(updated.instructions).toEqual(TABLE.instructions)
  const even = updateLimits(TABLE, both({ sharedBytes: 0, barriers: 0 }), '14.0.1')
  expect(even.kernels['matmul.cu']?.['gemv<4>']).toEqual({ registers: 32 })
  expect(compareWithLimits(updated, [compiled('sm_90', { registers: 41 }), compiled('sm_80')], '14.0.1')).toEqual([])
})

test('the printed table reads back as itself, long names or short', () => {
  const long = `attention<${Array.from({ length: 12 }, (_, index) => `KvType ${index}`).join(', ')}>`
  const kernels = { ...TABLE.kernels, 'attention.cu': { [long]: { registers: [128, 160], sharedBytes: 49_152 } } }
  for (const table of [TABLE, { ...TABLE, kernels }, { ...TABLE, kernels: {}, instructions: {} }]) {
    expect(parseLimits(printLimits(table))).toEqual(table)
  }
  expect(() => parseLimits(printLimits(TABLE).replace('"registers"', '"register"'))).toThrow()
})

test('the summary has a row per template, over its instances and architectures', () => {
  const kernels = {
    'matmul.cu': { 'gemv<4>': { registers: [32, 40], sharedBytes: 512 }, 'gemv<8>': { registers: 64 } },
    'rows.cu': { add: { registers: 16, stackBytes: 40 } },
  }
  expect(
    summarizeLimits({ ...TABLE, kernels })
      .split('\n')
      .slice(2),
  ).toEqual([
    '| gemv | matmul.cu | 2 | 32–64 | 0–512 | 0 | IDP, LDG.128 |',
    '| add | rows.cu | 1 | 16 | 0 | 40 |  |',
    '',
  ])
})

test('what a source includes is followed to the end, and a circle ends', () => {
  const files: Record<string, string> = {
    'ops/cuda/rows.cu': '#include "ops/cuda/ops.h"\n#include <cstdint>\n  #  include "ops/half.h"\n',
    'ops/cuda/ops.h': '#include "kv/cache.h"\n',
    'kv/cache.h': '#include "ops/cuda/ops.h"\n#include "not/here.h"\n',
    'ops/half.h': '',
  }
  expect(includedFiles('ops/cuda/rows.cu', (path) => files[path])).toEqual([
    'kv/cache.h',
    'ops/cuda/ops.h',
    'ops/cuda/rows.cu',
    'ops/half.h',
  ])
})
