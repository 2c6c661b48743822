// `npm run build:engine`: makes sure of the dependencies, then runs build-engine.ts with the installed Node. Works in a clean clone.
import { runInstalled } from './install.mjs'

await runInstalled('build-engine.ts')
