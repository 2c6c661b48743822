// The SDK as it is published, for tests of what users get. Owns building it from its sources into a folder of the caller's.
import { execFileSync } from 'node:child_process'
import { cp, mkdir } from 'node:fs/promises'
import { join } from 'node:path'

const ROOT = join(import.meta.dirname, '..', '..')
export const SDK = join(ROOT, 'sdk')

/** Compiles into `dir`/node_modules/@penstock/sdk, with all that a package manager would put there. @returns that folder */
export async function installBuiltSdk(dir: string): Promise<string> {
  const home = join(dir, 'node_modules', '@penstock', 'sdk')
  await mkdir(home, { recursive: true })
  const args = ['-p', join(SDK, 'tsconfig.build.json'), '--outDir', join(home, 'dist')]
  execFileSync(join(ROOT, 'node_modules', '.bin', 'tsc'), args, { stdio: 'pipe' })
  for (const name of ['package.json', 'README.md']) await cp(join(SDK, name), join(home, name))
  return home
}
