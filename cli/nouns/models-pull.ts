// `penstock models pull`: a model of the catalogue onto this machine, with its checksum looked at. Owns the command; where models come
// from is scripts/models.json, keeping them scripts/model.ts.
import { homedir } from 'node:os'
import { obtainModel } from '../../scripts/model.ts'
import { DEFAULT_MODEL, parseOptions } from '../../scripts/options.ts'
import type { Command } from '../command.ts'
import { CliFailure, EXIT, wrongUsage } from '../failure.ts'

export const modelsPullCommand: Command = {
  path: ['models', 'pull'],
  summary: 'Download a model of the catalogue into the cache of this machine, checked against its hash.',
  positionals: [{ name: 'NAME', help: `as scripts/models.json names it; default ${DEFAULT_MODEL}`, optional: true }],
  examples: [{ line: 'penstock models pull', what: 'before a host loses its network; the same again changes nothing' }],
  isLocal: true,
  run: async (context, args) => {
    const wanted = args.positionals.NAME ?? DEFAULT_MODEL
    if (wanted.includes('/')) throw wrongUsage(`${wanted} is a path: models of your own are used where they are.`)
    const parsed = parseOptions([], { env: { ...context.env }, homeDir: homedir(), cwd: '/' })
    if (parsed.kind !== 'start')
      throw wrongUsage('The environment has settings of `penstock up` that make no sense.', parsed.text)
    const { path, notice, origin } = await obtainModel({
      model: wanted,
      cacheDir: parsed.options.cacheDir,
      signal: context.signal,
    }).catch((error: unknown) => {
      throw new CliFailure(EXIT.notFound, (error as Error).message, { code: 'no_model' })
    })
    // What stands in for a model that cannot be had is not what was asked for.
    if (notice !== undefined) throw new CliFailure(EXIT.unavailable, notice, { code: 'no_source' })
    return { data: { model: wanted, path, origin }, lines: [`${wanted} is at ${path} (${origin}).`] }
  },
}
