// How a person reaches this installation from the command line. Owns the options of `penstock` that it needs and has not by itself.
import { homedir } from 'node:os'
import { join } from 'node:path'
import { DEFAULT_PORT } from './options.ts'

const DEFAULT_URL = `http://127.0.0.1:${DEFAULT_PORT}`
const DEFAULT_DATA = join(homedir(), '.local', 'share', 'penstock')

/** What to put behind `penstock …`; empty where the command finds this installation by itself. */
export function accessArguments(url: string, dataDir: string): string {
  const given = [
    ...(url === DEFAULT_URL ? [] : ['--url', url]),
    ...(dataDir === DEFAULT_DATA ? [] : ['--data', /^[\w./-]+$/.test(dataDir) ? dataDir : `'${dataDir}'`]),
  ]
  return given.length === 0 ? '' : ` ${given.join(' ')}`
}
