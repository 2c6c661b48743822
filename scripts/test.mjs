// `npm test`: makes sure of the dependencies, then runs test.ts with the installed Node. Works in a clean clone.
import { runInstalled } from './install.mjs'

await runInstalled('test.ts')
