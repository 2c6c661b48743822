// The limits that native-engine/cuda/limits.json sets for compiled kernels. Owns what the compiler's reports mean, the
// comparison with the table and the table's text. Pure; running compilers is cuda-compile.ts.
import { z } from 'zod'

/** What one kernel takes on one architecture. */
export type KernelUsage = {
  registers: number
  spillBytes: number
  stackBytes: number
  /** Static; what a launch adds is checked by the emulator against each architecture's limit. */
  sharedBytes: number
  barriers: number
}

/** One kernel as compiled for one architecture. */
export type CompiledKernel = {
  /** e.g. `rows.cu` */
  file: string
  /** As in the table: `rms_norm_kernel<float, 4>` */
  kernel: string
  /** e.g. `sm_90` */
  architecture: string
  usage: KernelUsage
  /** How often each instruction occurs (`LDG.E.128.CONSTANT`); absent without a disassembler. */
  instructions?: Record<string, number>
}

/** One number for all architectures, or one for each in the table's order. */
const Registers = z.union([z.int().positive(), z.array(z.int().positive())])
const Row = z.strictObject({
  registers: Registers,
  sharedBytes: z.int().positive().optional(),
  stackBytes: z.int().positive().optional(),
  barriers: z.int().positive().optional(),
})
const Instructions = z.strictObject({
  uses: z.array(z.string()).optional(),
  avoids: z.array(z.string()).optional(),
})
const Table = z.strictObject({
  about: z.string(),
  release: z.string(),
  architectures: z.array(z.string()).nonempty(),
  /** Of a kernel, or of all that a template makes. */
  instructions: z.record(z.string(), Instructions),
  /** file -> kernel -> limits */
  kernels: z.record(z.string(), z.record(z.string(), Row)),
})
export type LimitsTable = z.infer<typeof Table>
type LimitsRow = z.infer<typeof Row>

/** Registers are given to warps in this many per thread, so a difference within them changes nothing. */
const REGISTER_STEP = 8
/** Memory that only a stack or a spill needs. */
const LOCAL_MEMORY = ['LDL', 'STL']
const LINE_CHARS_MAX = 120

/** @throws ZodError */
export function parseLimits(text: string): LimitsTable {
  return Table.parse(JSON.parse(text))
}

/** What `ptxas -v` says about each entry function: mangled name -> usage. */
export function parsePtxas(lines: string[]): Map<string, KernelUsage> {
  const found = new Map<string, KernelUsage>()
  let entry: KernelUsage | undefined
  for (const line of lines) {
    const name = /Compiling entry function '([^']+)'/.exec(line)?.[1]
    if (name !== undefined) {
      entry = { registers: 0, spillBytes: 0, stackBytes: 0, sharedBytes: 0, barriers: 0 }
      found.set(name, entry)
    }
    if (entry === undefined) continue
    const frame = /(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/.exec(line)
    if (frame !== null) {
      // A function that was not inlined has a frame of its own below its kernel's.
      entry.stackBytes += Number(frame[1])
      entry.spillBytes += Number(frame[2]) + Number(frame[3])
    }
    const used = /Used (\d+) registers/.exec(line)?.[1]
    if (used !== undefined) {
      entry.registers = Math.max(entry.registers, Number(used))
      entry.barriers = Number(/used (\d+) barriers/.exec(line)?.[1] ?? 0)
      entry.sharedBytes = Number(/(\d+) bytes smem/.exec(line)?.[1] ?? 0)
    }
  }
  return found
}

/** What `cuobjdump -sass` prints: mangled name -> how often each instruction occurs. */
export function parseSass(lines: string[]): Map<string, Record<string, number>> {
  const found = new Map<string, Record<string, number>>()
  let counts: Record<string, number> = {}
  for (const line of lines) {
    const name = /^\s*Function : (\S+)/.exec(line)?.[1]
    if (name !== undefined) {
      counts = {}
      found.set(name, counts)
    }
    const instruction = /^\s+\/\*[0-9a-f]{4,}\*\/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)/.exec(line)?.[1]
    if (instruction !== undefined) counts[instruction] = (counts[instruction] ?? 0) + 1
  }
  return found
}

/** Names of a header's `enum class` values, as a demangled name spells the values: `TensorType 8` -> `q8_0`. */
export function enumerators(header: string): Map<string, string> {
  const names = new Map<string, string>()
  for (const [, type, body = ''] of header.matchAll(/enum class (\w+)[^{;]*\{([^}]*)\}/g)) {
    let value = 0
    for (const [, name = '', given] of body.replaceAll(/\/\/.*/g, '').matchAll(/(\w+)(?:\s*=\s*(-?\d+))?\s*(?:,|$)/g)) {
      if (given !== undefined) value = Number(given)
      names.set(`${type} ${value++}`, name)
    }
  }
  return names
}

/** `void penstock::cuda::(anonymous namespace)::add<float, (penstock::TensorType)8>(float*)` -> `add<float, q8_0>` */
export function kernelName(demangled: string, names: Map<string, string>): string {
  const plain = demangled
    .replaceAll('(anonymous namespace)::', '')
    .replace(
      /\((?:\w+::)*([A-Za-z_]\w*)\)(-?\d+)/g,
      (_, type, value) => names.get(`${type} ${value}`) ?? `${type} ${value}`,
    )
    .replace(/^void\s+/, '')
    .replaceAll(/\b(?:penstock|cuda)::/g, '')
    .replaceAll('> >', '>>')
  let depth = 0
  for (let at = 0; at < plain.length; at++) {
    if (plain[at] === '<') depth++
    else if (plain[at] === '>') depth--
    else if (plain[at] === '(' && depth === 0) return plain.slice(0, at)
  }
  return plain
}

/** Every way in which what was compiled is not what the table says; empty when all is well. */
export function compareWithLimits(table: LimitsTable, compiled: CompiledKernel[], release: string): string[] {
  // Another release of the compiler may need a few registers more for the same code.
  const slack = release === table.release ? 0 : REGISTER_STEP
  const findings: string[] = []
  const seen = new Set<string>()
  for (const { file, kernel, architecture, usage, instructions } of compiled) {
    const isNew = !seen.has(`${file}: ${kernel}`)
    seen.add(`${file}: ${kernel}`)
    const say = (what: string) => findings.push(`${file}: ${kernel} (${architecture}) ${what}`)
    if (usage.spillBytes > 0) say(`spills ${usage.spillBytes} bytes`)
    const row = table.kernels[file]?.[kernel]
    if (row === undefined) {
      if (isNew) findings.push(`${file}: ${kernel} has no row in the table`)
      continue
    }
    const over = (what: string, used: number, limit: number) => {
      if (used > limit) say(`takes ${used} ${what}, its limit is ${limit}`)
    }
    over('registers', stepped(usage.registers), registersOf(row, table.architectures.indexOf(architecture)) + slack)
    over('bytes of shared memory', usage.sharedBytes, row.sharedBytes ?? 0)
    over('bytes of stack', usage.stackBytes, row.stackBytes ?? 0)
    over('barriers', usage.barriers, row.barriers ?? 0)
    if (instructions !== undefined) {
      const { uses, avoids } = wantedInstructions(table, kernel)
      const has = (wanted: string) => Object.keys(instructions).some((name) => isInstruction(name, wanted))
      for (const wanted of uses) if (!has(wanted)) say(`has no ${wanted}`)
      const local = row.stackBytes === undefined ? LOCAL_MEMORY : []
      for (const unwanted of [...avoids, ...local]) if (has(unwanted)) say(`has ${unwanted}`)
    }
  }
  for (const [file, rows] of Object.entries(table.kernels)) {
    for (const kernel of Object.keys(rows)) {
      if (!seen.has(`${file}: ${kernel}`)) findings.push(`${file}: ${kernel} has a row in the table but is not there`)
    }
  }
  const kernels = new Set(compiled.flatMap(({ kernel }) => [kernel, templateOf(kernel)]))
  for (const name of Object.keys(table.instructions)) {
    if (!kernels.has(name)) findings.push(`${name} has instructions in the table but is not there`)
  }
  return findings
}

/** The table with what was compiled as its limits. Instructions are declared by hand and stay. */
export function updateLimits(table: LimitsTable, compiled: CompiledKernel[], release: string): LimitsTable {
  const kernels: LimitsTable['kernels'] = {}
  const ordered = [...compiled].sort((a, b) => compare(a.file, b.file) || compare(a.kernel, b.kernel))
  for (const { file, kernel } of ordered) {
    kernels[file] ??= {}
    if (kernels[file][kernel] !== undefined) continue
    const usages = table.architectures.flatMap((architecture) =>
      compiled
        .filter((one) => one.file === file && one.kernel === kernel && one.architecture === architecture)
        .map(({ usage }) => usage),
    )
    const registers = usages.map((usage) => stepped(usage.registers))
    const [first = REGISTER_STEP] = registers
    const isEven = registers.every((count) => count === first)
    const most = (of: (usage: KernelUsage) => number) => Math.max(0, ...usages.map(of))
    const sharedBytes = most((usage) => usage.sharedBytes)
    const stackBytes = most((usage) => usage.stackBytes)
    const barriers = most((usage) => usage.barriers)
    kernels[file][kernel] = {
      registers: isEven ? first : registers,
      ...(sharedBytes > 0 && { sharedBytes }),
      ...(stackBytes > 0 && { stackBytes }),
      ...(barriers > 0 && { barriers }),
    }
  }
  return { ...table, release, kernels }
}

/** As the formatter leaves it: a kernel per line where it fits. */
export function printLimits(table: LimitsTable): string {
  const kernels = Object.entries(table.kernels).map(([file, rows]) => `    ${JSON.stringify(file)}: ${group(rows, 4)}`)
  return `{
  "about": ${JSON.stringify(table.about)},
  "release": ${JSON.stringify(table.release)},
  "architectures": ${flat(table.architectures)},
  "instructions": ${group(table.instructions, 2)},
  "kernels": ${kernels.length === 0 ? '{}' : `{\n${kernels.join(',\n')}\n  }`}
}
`
}

/** For docs/cuda.md: a row per template, over its instances and all architectures. */
export function summarizeLimits(table: LimitsTable): string {
  const lines = [
    '| kernel | file | instances | registers | static shared | stack | must use |',
    '| --- | --- | ---: | ---: | ---: | ---: | --- |',
  ]
  for (const [file, rows] of Object.entries(table.kernels)) {
    const templates = Map.groupBy(Object.entries(rows), ([kernel]) => templateOf(kernel))
    for (const [template, instances] of templates) {
      const registers = instances.flatMap(([, row]) => row.registers)
      const bytes = (of: (row: LimitsRow) => number | undefined) => range(instances.map(([, row]) => of(row) ?? 0))
      const uses = instances.flatMap(([kernel]) => wantedInstructions(table, kernel).uses)
      const cells = [template, file, instances.length, range(registers), bytes((row) => row.sharedBytes)]
      lines.push(`| ${[...cells, bytes((row) => row.stackBytes), [...new Set(uses)].join(', ')].join(' | ')} |`)
    }
  }
  return `${lines.join('\n')}\n`
}

function range(values: number[]): string {
  const [least, most] = [Math.min(...values), Math.max(...values)]
  return least === most ? String(most) : `${least}–${most}`
}

function group(rows: Record<string, object>, indent: number): string {
  const lines = Object.entries(rows).map(([name, row]) => {
    const head = `${' '.repeat(indent + 2)}${JSON.stringify(name)}: `
    const parts = Object.entries(row).map(([key, value]) => `${JSON.stringify(key)}: ${flat(value)}`)
    const line = `${head}{ ${parts.join(', ')} }`
    if (line.length < LINE_CHARS_MAX) return line
    return `${head}{\n${parts.map((part) => ' '.repeat(indent + 4) + part).join(',\n')}\n${' '.repeat(indent + 2)}}`
  })
  return lines.length === 0 ? '{}' : `{\n${lines.join(',\n')}\n${' '.repeat(indent)}}`
}

function flat(value: unknown): string {
  return Array.isArray(value) ? `[${value.map((item) => JSON.stringify(item)).join(', ')}]` : JSON.stringify(value)
}

function wantedInstructions(table: LimitsTable, kernel: string): { uses: string[]; avoids: string[] } {
  const found = [...new Set([kernel, templateOf(kernel)])].flatMap((name) => table.instructions[name] ?? [])
  return { uses: found.flatMap(({ uses }) => uses ?? []), avoids: found.flatMap(({ avoids }) => avoids ?? []) }
}

/** `LDG.E.128.CONSTANT` is an `LDG` and an `LDG.128`. */
function isInstruction(name: string, wanted: string): boolean {
  const [operation, ...parts] = name.split('.')
  const [wantedOperation, ...wantedParts] = wanted.split('.')
  return operation === wantedOperation && wantedParts.every((part) => parts.includes(part))
}

function registersOf(row: LimitsRow, architecture: number): number {
  return typeof row.registers === 'number' ? row.registers : (row.registers[architecture] ?? 0)
}

const templateOf = (kernel: string) => kernel.replace(/<.*$/, '')
const stepped = (registers: number) => Math.max(1, Math.ceil(registers / REGISTER_STEP)) * REGISTER_STEP
const compare = (a: string, b: string) => (a < b ? -1 : a > b ? 1 : 0)
