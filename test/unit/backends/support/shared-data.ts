// Optional conformance data, kept outside the repository: PENSTOCK_SHARED_DATA, or a folder beside the checkout.
import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../../../../', import.meta.url))

/** The path of a file in the data folder, `undefined` where it is not there. */
export function sharedData(...path: string[]): string | undefined {
  const folder = process.env.PENSTOCK_SHARED_DATA ?? resolve(root, '../shared/data')
  const found = join(folder, ...path)
  return existsSync(found) ? found : undefined
}
