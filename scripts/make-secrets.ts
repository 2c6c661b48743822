// `node scripts/make-secrets.ts FILE`: the secrets of a new deployment, as `npm start` makes them for its data folder. Owns the command line
// alone; a file that is there is left as it is, and said so.
import { existsSync } from 'node:fs'
import { loadSecrets } from './secrets.ts'

const [path, ...more] = process.argv.slice(2)
if (path === undefined || more.length > 0) {
  console.error('Usage: node scripts/make-secrets.ts FILE')
  process.exitCode = 2
} else {
  const isNew = !existsSync(path)
  const names = Object.keys(await loadSecrets(path))
  console.log(`${path} ${isNew ? 'is made' : 'is there already'}: ${names.join(', ')}`)
}
