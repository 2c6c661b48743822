// Entry of the backend agent. Owns the command line's outcome: life events on stdout, logs on stderr, signals, exit codes.
import { Agent } from './agent.ts'
import { type Config, ConfigError, helpText, readConfig } from './config.ts'
import { createLog, messageOf } from './log.ts'
import { ModelFileError } from './model-file.ts'

const EXIT_FAILURE = 1
/** The same as the engine's: trying again changes nothing. */
const EXIT_BAD_OPTIONS_OR_MODEL = 2

/** One line per life event, for whoever started this process. */
const announce = (event: string, fields: object) => process.stdout.write(`${JSON.stringify({ event, ...fields })}\n`)
const log = createLog((line) => process.stderr.write(line), Date.now)

function configOrExit(): Config {
  try {
    const config = readConfig(process.argv.slice(2), process.env)
    if (config !== 'help') return config
    process.stdout.write(helpText())
    process.exit(0)
  } catch (thrown) {
    if (!(thrown instanceof ConfigError)) throw thrown
    process.stderr.write(`${thrown.message}\nTry --help.\n`)
    process.exit(EXIT_BAD_OPTIONS_OR_MODEL)
  }
}

async function main(): Promise<void> {
  const config = configOrExit()
  let agent: Agent
  try {
    agent = await Agent.create(config, log)
  } catch (thrown) {
    announce('failed', { message: messageOf(thrown) })
    process.exit(thrown instanceof ModelFileError ? EXIT_BAD_OPTIONS_OR_MODEL : EXIT_FAILURE)
  }

  let stopping = false
  const stop = (signal: string, exitCode: number) => {
    if (stopping) {
      log('warn', 'stopping_now', { signal })
      agent.kill()
      process.exit(EXIT_FAILURE)
    }
    stopping = true
    agent.drain(config.drainGraceMs).then(
      () => process.exit(exitCode),
      (thrown: unknown) => {
        log('error', 'drain_failed', { reason: messageOf(thrown) })
        agent.kill()
        process.exit(EXIT_FAILURE)
      },
    )
  }
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => stop(signal, 0))
  // Whoever started this process may be gone; its pipes are not worth dying for before the engine is stopped.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {})
  process.on('uncaughtException', (thrown) => {
    log('error', 'uncaught', { reason: thrown.stack ?? thrown.message })
    agent.kill()
    process.exit(EXIT_FAILURE)
  })

  await agent.start({
    listening: (url) => announce('listening', { url, backendId: agent.backendId, model: config.modelName }),
    ready: (fields) => announce('ready', { ...fields, model: config.modelName }),
    failed: (message) => {
      announce('failed', { message })
      stop('engine failure', EXIT_BAD_OPTIONS_OR_MODEL)
    },
  })
}

main().catch((thrown: unknown) => {
  log('error', 'start_failed', { reason: messageOf(thrown) })
  announce('failed', { message: messageOf(thrown) })
  process.exit(EXIT_FAILURE)
})
