// The model's files in every weight format. Owns where derived ones are kept and when one is made anew.
import { mkdir, readFile, rename, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type Format, requantize } from './requantize.ts'

/** Part of the file's name: another way of converting gives another name. */
const CONVERSION = 1

export const FORMAT_NAMES = ['Q4_1', 'Q8_0', 'Q4_0', 'F16'] as const satisfies readonly Format[]

export type FormatOptions = {
  format: Format
  /** What the others are derived from. */
  sourcePath: string
  sourceFormat: Format
  cacheDir: string
}

/** The file in this format, derived on first use. */
export async function formatPath({ format, sourcePath, sourceFormat, cacheDir }: FormatOptions): Promise<string> {
  if (format === sourceFormat) return sourcePath
  const { size } = await stat(sourcePath)
  const path = join(cacheDir, `${size}-${CONVERSION}.${format}.gguf`)
  if ((await stat(path).catch(() => undefined))?.isFile() === true) return path
  await mkdir(cacheDir, { recursive: true })
  // Whole or not at all, whoever else makes the same file.
  const draft = `${path}.${process.pid}`
  await writeFile(draft, requantize(await readFile(sourcePath), format))
  await rename(draft, path)
  return path
}
