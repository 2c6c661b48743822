// `npm run prices:import`. Owns the process: where the words go and how it ends; the work is price-file.ts.
import { importPrices } from './price-file.ts'

await importPrices(process.argv.slice(2), process.env, (line) => console.log(line)).catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : String(error))
  process.exitCode = 1
})
