// The scenario in a runtime that has a command line. Owns the arguments (gateway, direct provider) and the one line that is printed.
import process from 'node:process'
import { scenario } from './scenario.mjs'

const [gateway = '', spare = ''] = process.argv.slice(2)
console.log(JSON.stringify(await scenario(gateway, spare)))
