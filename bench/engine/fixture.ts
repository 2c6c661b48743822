// The golden file's windows of text. Owns reading these lines; record-goldens.ts writes them, and C++ reads them as well.
import { readFileSync } from 'node:fs'

/** Lines `window ID ID ...`; others are ignored. */
export function readWindows(path: string): number[][] {
  const lines = readFileSync(path, 'utf8').split('\n')
  return lines.filter((line) => line.startsWith('window ')).map((line) => line.split(' ').slice(1).map(Number))
}
