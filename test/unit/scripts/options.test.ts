import { describe, expect, test } from 'vitest'
import { DEFAULT_MODEL, DEFAULT_PORT, helpText, parseOptions, type StartOptions } from '../../../scripts/options.ts'

const context = (env: Record<string, string> = {}) => ({ env, homeDir: '/h', cwd: '/here' })

function options(argv: string[], env: Record<string, string> = {}): StartOptions {
  const parsed = parseOptions(argv, context(env))
  if (parsed.kind !== 'start') throw new Error(`not a start: ${parsed.text}`)
  return parsed.options
}

function mistake(argv: string[], env: Record<string, string> = {}): string {
  const parsed = parseOptions(argv, context(env))
  return parsed.kind === 'error' ? parsed.text : `no mistake: ${parsed.kind}`
}

describe('options of the launcher', () => {
  test('have defaults that need nothing from the user', () => {
    expect(options([])).toEqual({
      port: DEFAULT_PORT,
      host: '127.0.0.1',
      dataDir: '/h/.local/share/penstock',
      cacheDir: '/h/.cache/penstock',
      model: DEFAULT_MODEL,
      drainSeconds: 600,
      maxTokens: 256,
      json: false,
      verbose: false,
    })
  })

  test('are read from the command line before the environment', () => {
    const env = { PENSTOCK_PORT: '9001', PENSTOCK_THREADS: '3' }
    expect(options(['--port', '9000'], env)).toMatchObject({ port: 9000, threads: 3 })
  })

  test('follow the XDG folders, and ignore a relative one as the standard asks', () => {
    const env = { XDG_DATA_HOME: '/data', XDG_CACHE_HOME: 'relative' }
    expect(options([], env)).toMatchObject({ dataDir: '/data/penstock', cacheDir: '/h/.cache/penstock' })
  })

  test('take paths relative to where the user typed', () => {
    expect(options(['--data', 'd', '--model', './m.gguf'])).toMatchObject({ dataDir: '/here/d', model: '/here/m.gguf' })
  })

  test('tell a model file from a name of the catalogue', () => {
    expect(options(['--model', 'tiny.gguf']).model).toBe('/here/tiny.gguf')
    expect(options(['--model', 'smollm2-135m-instruct']).model).toBe('smollm2-135m-instruct')
  })

  test('keep a prompt as it was typed', () => {
    expect(options(['--once', '  two  spaces ']).once).toBe('  two  spaces ')
  })

  test.each([
    [['--port', '0'], '--port must be a whole number from 1 to 65535, not "0"'],
    [['--port', '65536'], '--port must be a whole number from 1 to 65535, not "65536"'],
    [['--host', 'my-host'], '--host must be an IP address, not "my-host"'],
    [['--threads', '1.5'], '--threads must be a whole number from 1 to 1024, not "1.5"'],
    [['--context', '-1'], "Option '--context' argument is ambiguous"],
    [['--max-tokens', 'many'], '--max-tokens must be a whole number from 1 to 131072, not "many"'],
    [['--once', '   '], '--once needs a prompt that is not empty'],
    [['--engines', 'prefill'], '--engines must be roles like prefill,decode or both, not "prefill"'],
    [['--engines', 'decode,'], '--engines must be roles like prefill,decode or both, not "decode,"'],
    [['--kv-type', 'q5'], '--kv-type must be f16, q8_0, f32, bf16, not "q5"'],
    [['--device', 'gpu'], '--device must be cpu, cuda or cuda:N, not "gpu"'],
    [['--gemm', 'cublas'], '--gemm must be own, cublaslt, auto, not "cublas"'],
    [['--quantize', 'Q8_0'], '--quantize must be none, q8_0, q4_0, not "Q8_0"'],
    [['--prot', '1'], "Unknown option '--prot'"],
    [['stray'], "Unexpected argument 'stray'"],
  ])('%j is refused in one sentence', (argv, text) => {
    expect(mistake(argv)).toContain(text)
    expect(mistake(argv)).toContain('--help')
    expect(mistake(argv).split('\n')).toHaveLength(1)
  })

  test('refuse a database address that is not one of Postgres', () => {
    expect(mistake([], { DATABASE_URL: 'mysql://x' })).toContain('DATABASE_URL must begin with postgres://')
  })

  test('all stand in the help', () => {
    const flags = [
      'port',
      'host',
      'data',
      'model',
      'threads',
      'context',
      'kv-mib',
      'kv-type',
      'quantize',
      'device',
      'gemm',
      'once',
    ]
    for (const flag of [...flags, 'max-tokens', 'json', 'verbose']) expect(helpText()).toContain(`--${flag} `)
    expect(parseOptions(['--help'], context())).toEqual({ kind: 'help', text: helpText() })
  })
})
