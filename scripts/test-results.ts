// Reads what test runners report about themselves. Owns the counting rules. Pure.
import { z } from 'zod'

/** `failures`: what failed, by name, where the report tells it. */
export type Count = { passed: number; failed: number; skipped: number; failures: readonly string[] }

export const NOTHING: Count = { passed: 0, failed: 0, skipped: 0, failures: [] }
/** Of a failure's message, what the sum at the end shows: its first line. */
const MESSAGE_CHARS_MAX = 200

const VitestReport = z.object({
  testResults: z.array(
    z.object({
      name: z.string(),
      status: z.string(),
      message: z.string().optional(),
      assertionResults: z.array(
        z.object({
          status: z.string(),
          fullName: z.string().optional(),
          failureMessages: z.array(z.string()).nullish(),
        }),
      ),
    }),
  ),
})

/** The sum over suites. */
export function sum(counts: Count[]): Count {
  return counts.reduce(
    (total, count) => ({
      passed: total.passed + count.passed,
      failed: total.failed + count.failed,
      skipped: total.skipped + count.skipped,
      failures: [...total.failures, ...count.failures],
    }),
    NOTHING,
  )
}

/**
 * Vitest's JSON report. A file that could not be loaded has no tests and counts as one failure; so does an exit code that
 * says failure where no test failed (an error outside of any test), and a report that is missing.
 */
export function countVitest(report: string, exitCode: number): Count {
  const parsed = parseJson(report)
  if (parsed === undefined) return { ...NOTHING, failed: 1 }
  const failures: string[] = []
  const count = { ...NOTHING, failures }
  for (const file of parsed.testResults) {
    for (const { status, fullName = '', failureMessages } of file.assertionResults) {
      if (status === 'passed') count.passed++
      else if (status !== 'failed') count.skipped++
      else {
        count.failed++
        failures.push(failure(`${file.name} > ${fullName}`, failureMessages?.[0]))
      }
    }
    if (file.status !== 'failed' || file.assertionResults.some(({ status }) => status === 'failed')) continue
    count.failed++
    failures.push(failure(file.name, file.message))
  }
  return withExitCode(count, exitCode)
}

/** ctest's JUnit report: the attributes of its one `<testsuite>`. */
export function countCtest(report: string, exitCode: number): Count {
  const head = /<testsuite\b[^>]*>/.exec(report)?.[0]
  if (head === undefined) return { ...NOTHING, failed: 1 }
  const attribute = (name: string) => Number(new RegExp(`\\b${name}="(\\d+)"`).exec(head)?.[1] ?? 0)
  const failed = attribute('failures') + attribute('errors')
  const skipped = attribute('skipped') + attribute('disabled')
  const failures = [...report.matchAll(/<testcase name="([^"]*)"[^>]*status="fail"/g)].map(([, name = '']) => name)
  return withExitCode({ passed: attribute('tests') - failed - skipped, failed, skipped, failures }, exitCode)
}

function withExitCode(count: Count, exitCode: number): Count {
  if (exitCode === 0 || count.failed > 0) return count
  return { ...count, failed: 1, failures: [`exit code ${exitCode}, and no test says that it failed`] }
}

function failure(name: string, message = ''): string {
  const [first = ''] = message.split('\n')
  return first === '' ? name : `${name}: ${first.slice(0, MESSAGE_CHARS_MAX)}`
}

function parseJson(text: string): z.infer<typeof VitestReport> | undefined {
  try {
    return VitestReport.parse(JSON.parse(text))
  } catch {
    return undefined
  }
}
